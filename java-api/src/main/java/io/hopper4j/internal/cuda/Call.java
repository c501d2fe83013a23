package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceException;
import io.hopper4j.OutOfDeviceMemoryException;
import io.hopper4j.PeerTimeoutException;
import io.hopper4j.Support.Reason;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.bindings.h4j_error;
import io.hopper4j.bindings.hopper4j_h;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;

/** The memory of one call into the library: its error struct, its output and its arguments. Of one thread, closed with the call. */
final class Call implements AutoCloseable {
    private static final int OK = hopper4j_h.H4J_OK();
    private static final int NOT_READY = hopper4j_h.H4J_NOT_READY();

    private final Arena arena = Arena.ofConfined();
    private final MemorySegment error = arena.allocate(h4j_error.layout());
    private final MemorySegment output = arena.allocate(ValueLayout.JAVA_LONG);

    Call() {
        h4j_error.struct_size(error, (int) h4j_error.sizeof());
    }

    /** {@return where the call writes what went wrong} */
    MemorySegment error() {
        return error;
    }

    /** {@return 8 bytes for what the call answers: a handle, an address, a number} */
    MemorySegment output() {
        return output;
    }

    MemorySegment handle() {
        return output.get(ValueLayout.ADDRESS, 0);
    }

    long number() {
        return output.get(ValueLayout.JAVA_LONG, 0);
    }

    Arena arena() {
        return arena;
    }

    String message() {
        return h4j_error.message(error).getString(0);
    }

    /**
     * Turns a bad status into the documented exception.
     *
     * @param status what the call answered
     */
    void check(final int status) {
        if (status != OK) {
            throw failure(status);
        }
    }

    /**
     * As {@link #check}, for calls that may answer that the work is not done yet.
     *
     * @return whether it is done
     */
    boolean checkReady(final int status) {
        if (status == NOT_READY) {
            return false;
        }
        check(status);
        return true;
    }

    /** {@return the exception for a bad status} */
    RuntimeException failure(final int status) {
        final String message = message();
        if (status == hopper4j_h.H4J_INVALID_ARGUMENT()) {
            return new IllegalArgumentException(message);
        }
        if (status == hopper4j_h.H4J_INVALID_STATE() || status == NOT_READY) {
            return new IllegalStateException(message);
        }
        if (status == hopper4j_h.H4J_UNSUPPORTED()) {
            return new UnsupportedKernelException(List.of(reason()));
        }
        if (status == hopper4j_h.H4J_OUT_OF_DEVICE_MEMORY()) {
            return new OutOfDeviceMemoryException(
                    h4j_error.requested_bytes(error), h4j_error.free_bytes(error), message);
        }
        if (status == hopper4j_h.H4J_PEER_TIMEOUT()) {
            return new PeerTimeoutException(
                    Integer.parseInt(h4j_error.got(error).getString(0)), message);
        }
        return new DeviceException(operation(), h4j_error.cuda_code(error), h4j_error.sticky(error) != 0, message);
    }

    /** {@return what the call found unmet, from its error struct} */
    Reason reason() {
        return new Reason(
                operation() + ": " + h4j_error.argument(error).getString(0),
                h4j_error.got(error).getString(0),
                h4j_error.allowed(error).getString(0));
    }

    private String operation() {
        return h4j_error.operation(error).getString(0);
    }

    @Override
    public void close() {
        arena.close();
    }
}
