package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.PagedKvCache;
import java.lang.foreign.MemorySegment;

/** Kernels on host tensors: the plain Java reference, or someone else's. */
public final class ReferenceBackend extends Backend<HostTensor> {
    private final Kernels<HostTensor> kernels;
    private final Stream stream;

    /** Opens the reference. */
    public ReferenceBackend() {
        this(Kernels.reference());
    }

    /** @param kernels what is under test; closed with the backend */
    public ReferenceBackend(final Kernels<HostTensor> kernels) {
        this.kernels = kernels;
        this.stream = kernels.openStream();
    }

    @Override
    public Kernels<HostTensor> kernels() {
        return kernels;
    }

    @Override
    public Stream stream() {
        return stream;
    }

    @Override
    public HostTensor allocate(final TensorSpec spec) {
        final HostTensor tensor = HostTensor.allocate(host, spec);
        tensor.segment().fill((byte) 0x55);
        return tensor;
    }

    @Override
    public HostTensor put(final HostTensor elements) {
        return get(elements);
    }

    @Override
    public PagedKvCache<HostTensor> openKvCache(final MlaDecodeSpec spec, final int layers) {
        return PagedKvCache.onHost(host, spec, layers);
    }

    @Override
    public void overwrite(final HostTensor tensor, final HostTensor elements) {
        tensor.setFloats(elements.toFloats());
    }

    @Override
    public HostTensor get(final HostTensor tensor) {
        final HostTensor copy = HostTensor.allocate(host, tensor.spec());
        MemorySegment.copy(
                tensor.segment(), 0, copy.segment(), 0, tensor.segment().byteSize());
        return copy;
    }

    @Override
    public HostTensor slice(final HostTensor tensor, final int dim, final long from, final long to) {
        return tensor.slice(dim, from, to);
    }

    @Override
    public HostTensor relaid(final HostTensor tensor, final TensorSpec spec) {
        return HostTensor.wrap(tensor.segment(), spec);
    }

    @Override
    public void close() {
        stream.close();
        kernels.close();
        super.close();
    }
}
