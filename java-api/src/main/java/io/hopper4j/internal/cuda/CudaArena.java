package io.hopper4j.internal.cuda;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/** Owns allocations of the device's stream-ordered pool. */
final class CudaArena implements DeviceArena {
    private final CudaStream stream;
    private final Lifetime lifetime;
    private final Lifetime.Lease streamLease;
    private final List<Long> addresses = new ArrayList<>();

    CudaArena(final CudaStream stream) {
        this.stream = stream;
        this.streamLease = stream.lifetime().lease("arena");
        this.lifetime = new Lifetime(this, "arena on " + stream);
    }

    Lifetime lifetime() {
        return lifetime;
    }

    @Override
    public Device device() {
        return stream.device();
    }

    CudaDevice cudaDevice() {
        return stream.device();
    }

    @Override
    public DeviceTensor allocate(final DType dtype, final long... dims) {
        return allocate(TensorSpec.packed(dtype, dims));
    }

    @Override
    public DeviceTensor allocate(final TensorSpec spec) {
        lifetime.enter();
        try (Call call = new Call()) {
            if (spec.byteSpan() == 0) {
                return new CudaTensor(this, 0, spec);
            }
            final MemorySegment target = stream.enter();
            try {
                stream.requireNoCapture("allocate");
                call.check(hopper4j_h.h4j_memory_allocate(target, spec.byteSpan(), call.output(), call.error()));
            } finally {
                stream.exit();
            }
            final long address = call.number();
            synchronized (addresses) {
                addresses.add(address);
            }
            return new CudaTensor(this, address, spec);
        } finally {
            lifetime.exit();
        }
    }

    @Override
    public DeviceTensor wrap(final long address, final TensorSpec spec) {
        lifetime.requireOpen();
        if (address == 0 && spec.elements() > 0) {
            throw Arguments.bad("wrap: address", 0, "a device address for " + spec);
        }
        if (address % spec.dtype().size() != 0) {
            throw Arguments.bad(
                    "wrap: address",
                    CudaTensor.hex(address),
                    "a multiple of " + spec.dtype().size() + " bytes");
        }
        return new CudaTensor(this, address, spec);
    }

    @Override
    public void close() {
        stream.requireNoCapture("close of an arena");
        if (!lifetime.close()) {
            return;
        }
        try (Call call = new Call()) {
            final MemorySegment target = stream.enter();
            RuntimeException failure = null;
            try {
                // Each is freed, whatever became of the others.
                for (final long address : addresses) {
                    final int status = hopper4j_h.h4j_memory_free(target, address, call.error());
                    if (status != hopper4j_h.H4J_OK() && failure == null) {
                        failure = call.failure(status);
                    }
                }
            } finally {
                stream.exit();
                streamLease.release();
            }
            if (failure != null) {
                throw failure;
            }
        }
    }

    @Override
    public String toString() {
        return "arena on " + stream;
    }
}
