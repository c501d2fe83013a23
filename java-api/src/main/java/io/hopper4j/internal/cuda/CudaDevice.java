package io.hopper4j.internal.cuda;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceInfo;
import io.hopper4j.HostTensor;
import io.hopper4j.KernelException;
import io.hopper4j.LibraryInfo;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.bindings.NativeLibrary;
import io.hopper4j.bindings.h4j_device_info;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.NativeLoader;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/** A device that the driver shows. There is one object a card; its native device is opened by the first use and stays open. */
public final class CudaDevice implements Device {
    /** The devices, once there are any; they never change in a process. */
    private static volatile List<Device> devices = List.of();

    private final int index;
    private final DeviceInfo info;
    private @Nullable MemorySegment handle;

    private CudaDevice(final int index, final DeviceInfo info) {
        this.index = index;
        this.info = info;
    }

    /** {@return as {@link Device#all()}} */
    public static List<Device> all() {
        if (devices.isEmpty()) {
            synchronized (CudaDevice.class) {
                if (devices.isEmpty()) {
                    devices = find();
                }
            }
        }
        return devices;
    }

    private static List<Device> find() {
        NativeLoader.load();
        final List<Device> found = new ArrayList<>();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_device_count(call.output(), call.error()));
            final int count = (int) call.number();
            for (int i = 0; i < count; i++) {
                final MemorySegment info = newInfo(call.arena());
                call.check(hopper4j_h.h4j_device_properties(i, info, call.error()));
                found.add(new CudaDevice(i, read(info)));
            }
        }
        return List.copyOf(found);
    }

    /** {@return as {@link Device#unavailableReason()}} */
    public static Optional<String> unavailableReason() {
        try {
            if (!all().isEmpty()) {
                return Optional.empty();
            }
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_device_count(call.output(), call.error()));
                return Optional.of(call.message());
            }
        } catch (KernelException e) {
            return Optional.of(String.valueOf(e.getMessage()));
        }
    }

    /** {@return as {@link Device#library()}} */
    public static LibraryInfo library() {
        final Path path = NativeLoader.load();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_driver_version(call.output(), call.error()));
            return new LibraryInfo(
                    path,
                    hopper4j_h.h4j_version().getString(0),
                    hopper4j_h.h4j_abi_version(),
                    call.output().get(ValueLayout.JAVA_INT, 0));
        }
    }

    static MemorySegment newInfo(final Arena arena) {
        final MemorySegment info = arena.allocate(h4j_device_info.layout());
        h4j_device_info.struct_size(info, (int) h4j_device_info.sizeof());
        return info;
    }

    static DeviceInfo read(final MemorySegment info) {
        return new DeviceInfo(
                h4j_device_info.name(info).getString(0),
                h4j_device_info.compute_major(info),
                h4j_device_info.compute_minor(info),
                h4j_device_info.sm_count(info),
                h4j_device_info.shared_memory_per_block(info),
                h4j_device_info.l2_bytes(info),
                h4j_device_info.memory_bytes(info),
                h4j_device_info.nvlink_gbs(info));
    }

    /** {@return a device as planning takes it} */
    static MemorySegment describe(final DeviceInfo device, final Arena arena) {
        final MemorySegment info = newInfo(arena);
        h4j_device_info.ordinal(info, -1);
        h4j_device_info.compute_major(info, device.computeMajor());
        h4j_device_info.compute_minor(info, device.computeMinor());
        h4j_device_info.sm_count(info, device.smCount());
        h4j_device_info.shared_memory_per_block(info, device.sharedMemoryPerBlock());
        h4j_device_info.l2_bytes(info, device.l2Bytes());
        h4j_device_info.memory_bytes(info, device.memoryBytes());
        h4j_device_info.nvlink_gbs(info, device.nvlinkGBs());
        final MemorySegment name = h4j_device_info.name(info);
        final byte[] text = device.name().getBytes(StandardCharsets.UTF_8);
        // One byte stays 0, the end of the string.
        MemorySegment.copy(text, 0, name, ValueLayout.JAVA_BYTE, 0, Math.min(text.length, (int) name.byteSize() - 1));
        return info;
    }

    /** {@return a device of this implementation} */
    static CudaDevice of(final Device device) {
        if (device instanceof CudaDevice cuda) {
            return cuda;
        }
        throw Arguments.bad("device", device, "one of Device.all()");
    }

    synchronized MemorySegment handle() {
        MemorySegment opened = handle;
        if (opened == null) {
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_device_open(index, call.output(), call.error()));
                opened = call.handle();
                handle = opened;
            }
        }
        return opened;
    }

    @Override
    public int index() {
        return index;
    }

    @Override
    public DeviceInfo info() {
        return info;
    }

    @Override
    public long freeBytes() {
        try (Call call = new Call()) {
            final MemorySegment total = call.arena().allocate(ValueLayout.JAVA_LONG);
            call.check(hopper4j_h.h4j_device_memory(handle(), call.output(), total, call.error()));
            return call.number();
        }
    }

    @Override
    public void trimMemory(final long keepBytes) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_device_trim(handle(), keepBytes, call.error()));
        }
    }

    @Override
    public DeviceArena openArena(final Stream on) {
        return new CudaArena(CudaStream.of("arena: stream", on, this));
    }

    @Override
    public Stream openStream() {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_stream_create(handle(), call.output(), call.error()));
            return new CudaStream(this, call.handle(), "stream");
        }
    }

    @Override
    public Stream wrapStream(final long cuStream) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_stream_wrap(handle(), cuStream, call.output(), call.error()));
            return new CudaStream(this, call.handle(), "wrapped stream");
        }
    }

    @Override
    public HostTensor allocatePinned(final Arena owner, final DType dtype, final long... dims) {
        final TensorSpec spec = TensorSpec.packed(dtype, dims);
        if (spec.byteSpan() == 0) {
            return HostTensor.allocate(owner, spec);
        }
        final MemorySegment device = handle();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_host_allocate(device, spec.byteSpan(), call.output(), call.error()));
            final MemorySegment memory = own(device, call.handle(), spec.byteSpan(), owner);
            return HostTensor.wrap(memory.fill((byte) 0), spec);
        }
    }

    private static MemorySegment own(
            final MemorySegment device, final MemorySegment address, final long bytes, final Arena owner) {
        try {
            return NativeLibrary.own(address, bytes, owner, memory -> free(device, memory));
        } catch (RuntimeException e) {
            // The owner is closed or of another thread.
            free(device, address);
            throw e;
        }
    }

    private static void free(final MemorySegment device, final MemorySegment memory) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_host_free(device, memory, call.error()));
        }
    }

    @Override
    public String toString() {
        return "device " + index + " (" + info.name() + ")";
    }
}
