package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.PagedKvCache;
import java.lang.foreign.Arena;
import java.util.Arrays;

/**
 * One implementation with what a test needs around it: a stream, memory, and ways to fill and read tensors. Each test opens one and closes it.
 *
 * @param <T> the tensors that the implementation works on
 */
public abstract class Backend<T extends Tensor> implements AutoCloseable {
    /** Host memory of the test. */
    protected final Arena host = Arena.ofConfined();

    /** Opens host memory. */
    protected Backend() {}

    /** {@return what is under test} */
    public abstract Kernels<T> kernels();

    /** {@return the stream that tests launch into} */
    public abstract Stream stream();

    /** Memory with undefined contents. */
    public abstract T allocate(TensorSpec spec);

    /** A tensor with these elements. */
    public abstract T put(HostTensor elements);

    /** The elements of a tensor once the stream is past all work, in a host tensor of the same strides. */
    public abstract HostTensor get(T tensor);

    /** A paged cache. */
    public abstract PagedKvCache<T> openKvCache(MlaDecodeSpec spec, int layers);

    /** Gives an existing tensor other elements, in stream order. */
    public abstract void overwrite(T tensor, HostTensor elements);

    /** A view, with its type. */
    public abstract T slice(T tensor, int dim, long from, long to);

    /** The first elements of storage in another layout, with its type: for layouts that a test gets wrong on purpose. */
    public abstract T relaid(T tensor, TensorSpec spec);

    final HostTensor hostTensor(final TensorSpec spec, final float... values) {
        final HostTensor tensor = HostTensor.allocate(host, spec);
        tensor.setFloats(values);
        return tensor;
    }

    /** A tensor whose elements are all the same. */
    final T filled(final TensorSpec spec, final float value) {
        final float[] values = new float[Math.toIntExact(spec.elements())];
        Arrays.fill(values, value);
        return put(hostTensor(spec, values));
    }

    final Scaled<T> put(final Scaled<HostTensor> matrix) {
        return new Scaled<>(put(matrix.values()), put(matrix.scales()), matrix.scaling());
    }

    final Scaled<HostTensor> get(final Scaled<T> matrix) {
        return new Scaled<>(get(matrix.values()), get(matrix.scales()), matrix.scaling());
    }

    /** Where the kernels want the scales of a matrix. */
    static TensorSpec scaleSpec(final Scaling scaling, final long rows, final long cols) {
        return scaling.equals(Scaling.ACTIVATION_1X128)
                ? Scaled.activationScaleSpec(rows, cols)
                : Scaled.weightScaleSpec(rows, cols);
    }

    @Override
    public void close() {
        host.close();
    }
}
