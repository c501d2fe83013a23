package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import java.util.List;

/** A device with what the bench needs of it. */
final class BenchGpu implements AutoCloseable {
    private final NativeBench library;
    private final NativeBench.Session session;
    private final Gpu gpu;
    private final List<Device> devices;

    /**
     * Opens a device. The session comes first: kernels are traced best when CUPTI was there before them.
     *
     * @param devices all devices that ranks are dealt out to, this one first
     */
    BenchGpu(final NativeBench library, final Device device, final List<Device> devices) {
        this.library = library;
        this.devices = List.copyOf(devices);
        this.session = library.open(device.index());
        this.gpu = new Gpu(device);
    }

    NativeBench library() {
        return library;
    }

    NativeBench.Session session() {
        return session;
    }

    /** {@return the devices that ranks are dealt out to} */
    List<Device> devices() {
        return devices;
    }

    Device device() {
        return gpu.device();
    }

    Kernels<DeviceTensor> kernels() {
        return gpu.kernels();
    }

    Stream stream() {
        return gpu.stream();
    }

    Gpu gpu() {
        return gpu;
    }

    DeviceArena openArena() {
        return gpu.openArena();
    }

    /** A copy of a tensor on the device. */
    DeviceTensor upload(final DeviceArena arena, final HostTensor source) {
        final DeviceTensor copy = arena.allocate(source.spec());
        copy.copyFrom(source, stream());
        return copy;
    }

    /** A copy of a quantised matrix on the device. */
    Scaled<DeviceTensor> upload(final DeviceArena arena, final Scaled<HostTensor> source) {
        return new Scaled<>(upload(arena, source.values()), upload(arena, source.scales()), source.scaling());
    }

    @Override
    public void close() {
        gpu.close();
        session.close();
    }
}
