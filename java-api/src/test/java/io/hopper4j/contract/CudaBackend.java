package io.hopper4j.contract;

import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.PagedKvCache;

/** The CUDA kernels of the first device. */
final class CudaBackend extends Backend<DeviceTensor> {
    private final Kernels<DeviceTensor> kernels;
    private final Stream stream;
    private final DeviceArena arena;

    CudaBackend() {
        this(0);
    }

    /** On the device that a rank takes where ranks are dealt out to all devices. */
    CudaBackend(final int rank) {
        final Device device = Device.all().get(rank % Device.all().size());
        kernels = Kernels.cuda(device);
        stream = kernels.openStream();
        arena = device.openArena(stream);
    }

    @Override
    Kernels<DeviceTensor> kernels() {
        return kernels;
    }

    @Override
    Stream stream() {
        return stream;
    }

    DeviceArena arena() {
        return arena;
    }

    @Override
    DeviceTensor allocate(final TensorSpec spec) {
        return arena.allocate(spec);
    }

    @Override
    DeviceTensor put(final HostTensor elements) {
        final DeviceTensor tensor = arena.allocate(elements.spec());
        tensor.copyFrom(elements, stream);
        return tensor;
    }

    @Override
    PagedKvCache<DeviceTensor> openKvCache(final MlaDecodeSpec spec, final int layers) {
        return PagedKvCache.onDevice(arena, host, spec, layers);
    }

    @Override
    void overwrite(final DeviceTensor tensor, final HostTensor elements) {
        tensor.copyFrom(elements, stream);
        stream.synchronize();
    }

    @Override
    HostTensor get(final DeviceTensor tensor) {
        final HostTensor copy = HostTensor.allocate(host, tensor.spec());
        tensor.copyTo(copy, stream);
        stream.synchronize();
        return copy;
    }

    @Override
    DeviceTensor slice(final DeviceTensor tensor, final int dim, final long from, final long to) {
        return tensor.slice(dim, from, to);
    }

    @Override
    DeviceTensor relaid(final DeviceTensor tensor, final TensorSpec spec) {
        return arena.wrap(tensor.address(), spec);
    }

    @Override
    public void close() {
        arena.close();
        stream.close();
        kernels.close();
        super.close();
    }
}
