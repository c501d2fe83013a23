package io.hopper4j.internal.cuda;

import io.hopper4j.Device;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.MemorySegment;
import java.lang.ref.Reference;

/** The one implementation of {@link DeviceTensor}: an address in an arena. */
public final class CudaTensor implements DeviceTensor {
    private final CudaArena arena;
    private final long address;
    private final TensorSpec spec;

    CudaTensor(final CudaArena arena, final long address, final TensorSpec spec) {
        this.arena = arena;
        this.address = address;
        this.spec = spec;
    }

    CudaArena arena() {
        return arena;
    }

    private CudaTensor view(final TensorSpec view, final long firstElement) {
        arena.lifetime().requireOpen();
        final long start =
                view.elements() == 0 ? 0 : firstElement * view.dtype().size();
        return new CudaTensor(arena, address + start, view);
    }

    @Override
    public TensorSpec spec() {
        return spec;
    }

    @Override
    public long address() {
        arena.lifetime().requireOpen();
        return address;
    }

    @Override
    public Device device() {
        return arena.device();
    }

    @Override
    public DeviceTensor slice(final int dim, final long from, final long to) {
        return view(spec.slice(dim, from, to), from * spec.strides().step(dim));
    }

    @Override
    public DeviceTensor select(final int dim, final long index) {
        return view(spec.select(dim, index), index * spec.strides().step(dim));
    }

    @Override
    public DeviceTensor transpose(final int dim0, final int dim1) {
        return view(spec.transpose(dim0, dim1), 0);
    }

    @Override
    public DeviceTensor reshape(final long... dims) {
        return view(spec.reshape(dims), 0);
    }

    @Override
    public void copyFrom(final HostTensor source, final Stream on) {
        copy("copyFrom", source, on, true);
    }

    @Override
    public void copyFrom(final DeviceTensor source, final Stream on) {
        final CudaStream stream = CudaStream.of("copyFrom: stream", on, arena.cudaDevice());
        if (!(source instanceof CudaTensor other) || !other.device().equals(device())) {
            throw Arguments.bad("copyFrom: source", "a tensor of " + source.device(), "one of " + device());
        }
        if (other.dtype() != dtype() || !other.shape().equals(shape())) {
            throw Arguments.bad("copyFrom: source", other.dtype() + " " + other.shape(), dtype() + " " + shape());
        }
        final CopyShape shape = CopyShape.of("copyFrom", spec, source.spec());
        arena.lifetime().enter();
        try {
            other.arena.lifetime().enter();
            try (Call call = new Call()) {
                final MemorySegment target = stream.enter();
                try {
                    final Capture capture = stream.capture();
                    if (capture != null) {
                        capture.hold(arena);
                        capture.hold(other.arena);
                    }
                    call.check(shape.copy(target, address, shape.first(), other.address, shape.second(), call));
                } finally {
                    stream.exit();
                }
            } finally {
                other.arena.lifetime().exit();
            }
        } finally {
            arena.lifetime().exit();
        }
    }

    @Override
    public void copyTo(final HostTensor target, final Stream on) {
        if (target.segment().isReadOnly()) {
            throw Arguments.bad("copyTo: target", "read-only memory", "memory that can be written");
        }
        copy("copyTo", target, on, false);
    }

    private void copy(final String operation, final HostTensor host, final Stream on, final boolean toDevice) {
        final CudaStream stream = CudaStream.of(operation + ": stream", on, arena.cudaDevice());
        final CopyShape shape = CopyShape.of(operation, spec, host.spec());
        final MemorySegment memory = host.segment();
        if (!memory.isNative()) {
            throw Arguments.bad(operation + ": host tensor", "memory of the Java heap", "native memory");
        }
        if (!memory.scope().isAlive()) {
            throw new IllegalStateException(operation + ": host tensor: its arena is closed");
        }
        arena.lifetime().enter();
        try (Call call = new Call()) {
            final MemorySegment target = stream.enter();
            try {
                final Capture capture = stream.capture();
                if (capture != null) {
                    capture.hold(arena);
                }
                final long hostAddress = memory.address();
                call.check(
                        toDevice
                                ? shape.copy(target, address, shape.first(), hostAddress, shape.second(), call)
                                : shape.copy(target, hostAddress, shape.second(), address, shape.first(), call));
            } finally {
                stream.exit();
                // Staged copies of pageable memory are over when the call returns; only then may the memory go.
                Reference.reachabilityFence(host);
            }
        } finally {
            arena.lifetime().exit();
        }
    }

    static String hex(final long address) {
        return "0x" + Long.toHexString(address);
    }

    @Override
    public String toString() {
        return "DeviceTensor " + spec + " at " + hex(address) + " of " + arena.device();
    }
}
