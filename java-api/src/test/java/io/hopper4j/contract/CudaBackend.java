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
import java.util.function.Function;

/** Kernels on the tensors of a device: those of this library, or someone else's. */
public final class CudaBackend extends Backend<DeviceTensor> {
    private final Kernels<DeviceTensor> kernels;
    private final Stream stream;
    private final DeviceArena arena;

    /** Opens the kernels of the first device. */
    public CudaBackend() {
        this(0);
    }

    /** Opens the kernels of the device that a rank takes where ranks are dealt out to all devices. */
    CudaBackend(final int rank) {
        this(Device.all().get(rank % Device.all().size()), Kernels::cuda);
    }

    /**
     * Opens kernels of a device.
     *
     * @param device the device
     * @param kernels makes what is under test; closed with the backend
     */
    public CudaBackend(final Device device, final Function<Device, Kernels<DeviceTensor>> kernels) {
        this.kernels = kernels.apply(device);
        this.stream = this.kernels.openStream();
        this.arena = device.openArena(stream);
    }

    @Override
    public Kernels<DeviceTensor> kernels() {
        return kernels;
    }

    @Override
    public Stream stream() {
        return stream;
    }

    DeviceArena arena() {
        return arena;
    }

    @Override
    public DeviceTensor allocate(final TensorSpec spec) {
        return arena.allocate(spec);
    }

    @Override
    public DeviceTensor put(final HostTensor elements) {
        final DeviceTensor tensor = arena.allocate(elements.spec());
        tensor.copyFrom(elements, stream);
        return tensor;
    }

    @Override
    public PagedKvCache<DeviceTensor> openKvCache(final MlaDecodeSpec spec, final int layers) {
        return PagedKvCache.onDevice(arena, host, spec, layers);
    }

    @Override
    public void overwrite(final DeviceTensor tensor, final HostTensor elements) {
        tensor.copyFrom(elements, stream);
        stream.synchronize();
    }

    @Override
    public HostTensor get(final DeviceTensor tensor) {
        final HostTensor copy = HostTensor.allocate(host, tensor.spec());
        tensor.copyTo(copy, stream);
        stream.synchronize();
        return copy;
    }

    @Override
    public DeviceTensor slice(final DeviceTensor tensor, final int dim, final long from, final long to) {
        return tensor.slice(dim, from, to);
    }

    @Override
    public DeviceTensor relaid(final DeviceTensor tensor, final TensorSpec spec) {
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
