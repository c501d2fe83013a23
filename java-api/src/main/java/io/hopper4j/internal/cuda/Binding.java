package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.internal.Arguments;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** The tensors of a launch: checks each as its address is asked for, and holds a lease on every arena they lie in. */
final class Binding {
    private final CudaDevice device;
    private final String operation;
    private final Set<CudaArena> arenas = new LinkedHashSet<>();
    private final List<Lifetime.Lease> leases = new ArrayList<>();

    Binding(final CudaDevice device, final String operation) {
        this.device = device;
        this.operation = operation;
    }

    /**
     * {@return the address of an operand; 0 where there is none}
     *
     * @param name of the operand, for messages
     * @param operand a tensor, or null
     * @param alignment what its address must be a multiple of
     */
    long address(final String name, final @Nullable DeviceTensor operand, final int alignment) {
        if (operand == null) {
            return 0;
        }
        if (!(operand instanceof CudaTensor tensor) || tensor.device() != device) {
            throw Arguments.bad(operation + ": " + name, "a tensor of " + operand.device(), "one of " + device);
        }
        final long address = tensor.address();
        if (address % alignment != 0) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "address " + CudaTensor.hex(address),
                    "a multiple of " + alignment + " bytes");
        }
        arenas.add(tensor.arena());
        return address;
    }

    /** Takes the leases, all or none. */
    void hold() {
        try {
            for (final CudaArena arena : arenas) {
                leases.add(arena.lifetime().lease(operation + " launch"));
            }
        } catch (RuntimeException e) {
            release();
            throw e;
        }
    }

    void release() {
        leases.forEach(Lifetime.Lease::release);
        leases.clear();
    }

    /** Keeps the arenas open for a graph too. */
    void captureIn(final Capture capture) {
        arenas.forEach(capture::hold);
    }
}
