package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.PagedKvCache;
import java.lang.foreign.MemorySegment;

/** The plain Java reference. */
final class ReferenceBackend extends Backend<HostTensor> {
    private final Kernels<HostTensor> kernels = Kernels.reference();
    private final Stream stream = kernels.openStream();

    @Override
    Kernels<HostTensor> kernels() {
        return kernels;
    }

    @Override
    Stream stream() {
        return stream;
    }

    @Override
    HostTensor allocate(final TensorSpec spec) {
        final HostTensor tensor = HostTensor.allocate(host, spec);
        tensor.segment().fill((byte) 0x55);
        return tensor;
    }

    @Override
    HostTensor put(final HostTensor elements) {
        return get(elements);
    }

    @Override
    PagedKvCache<HostTensor> openKvCache(final MlaDecodeSpec spec, final int layers) {
        return PagedKvCache.onHost(host, spec, layers);
    }

    @Override
    void overwrite(final HostTensor tensor, final HostTensor elements) {
        tensor.setFloats(elements.toFloats());
    }

    @Override
    HostTensor get(final HostTensor tensor) {
        final HostTensor copy = HostTensor.allocate(host, tensor.spec());
        MemorySegment.copy(
                tensor.segment(), 0, copy.segment(), 0, tensor.segment().byteSize());
        return copy;
    }

    @Override
    HostTensor slice(final HostTensor tensor, final int dim, final long from, final long to) {
        return tensor.slice(dim, from, to);
    }

    @Override
    HostTensor relaid(final HostTensor tensor, final TensorSpec spec) {
        return HostTensor.wrap(tensor.segment(), spec);
    }

    @Override
    public void close() {
        stream.close();
        kernels.close();
        super.close();
    }
}
