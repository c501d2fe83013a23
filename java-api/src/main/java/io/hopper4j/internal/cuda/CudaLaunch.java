package io.hopper4j.internal.cuda;

import io.hopper4j.Launch;
import io.hopper4j.Stream;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import java.util.function.Function;

/** What the launches of every operation share: the hot path. */
abstract class CudaLaunch implements Launch {
    /** What the library takes for all rows of the spec, which are all rows of the tensors. */
    private static final long ALL_ROWS = -1;

    private static final int OK = hopper4j_h.H4J_OK();

    private final CudaDevice device;
    private final String operation;
    private final String streamArgument;
    private final long rows;
    private final MemorySegment handle;
    private final Lifetime.Lease planLease;
    private final Lifetime lifetime;
    private volatile Binding binding;

    /** A native launch, the lease of its plan and the binding of its tensors. Whoever makes a launch object of it owns all three from then on. */
    record NativeLaunch(Lifetime.Lease planLease, MemorySegment handle, Binding binding) {}

    /**
     * @param plan what is launched
     * @param operation what messages call it
     * @param rows rows of the tensors
     */
    CudaLaunch(final CudaPlan<?> plan, final String operation, final long rows, final NativeLaunch made) {
        this.device = plan.device();
        this.operation = operation;
        this.streamArgument = operation + ": stream";
        this.rows = rows;
        this.handle = made.handle;
        this.planLease = made.planLease;
        this.binding = made.binding;
        this.lifetime = new Lifetime(this, operation + " launch of " + device);
    }

    /** The library's bind of an operation, on a device or on a group of them. */
    @FunctionalInterface
    interface Bind {
        int call(MemorySegment plan, MemorySegment on, MemorySegment args, MemorySegment launch, MemorySegment error);
    }

    /** The library's rebind of an operation. */
    @FunctionalInterface
    interface Rebind {
        int call(MemorySegment launch, MemorySegment args, MemorySegment error);
    }

    /** Writes the operands, each by its address in the binding, into an argument struct in the memory of the call. */
    @FunctionalInterface
    interface Args {
        MemorySegment write(Binding binding, Call call);
    }

    /** Takes all leases, binds on the device of the plan, and makes the launch; on failure all leases are returned. */
    static <L> L bind(
            final CudaPlan<?> plan,
            final String operation,
            final Bind bind,
            final Args args,
            final Function<NativeLaunch, L> maker) {
        return bind(plan, operation, plan.device().handle(), bind, args, maker);
    }

    /** As the other form, on a device or group. */
    static <L> L bind(
            final CudaPlan<?> plan,
            final String operation,
            final MemorySegment on,
            final Bind bind,
            final Args args,
            final Function<NativeLaunch, L> maker) {
        final Binding binding = new Binding(plan.device(), operation);
        final Lifetime.Lease planLease = plan.lifetime().lease(operation + " launch");
        try (Call call = new Call()) {
            final MemorySegment operands = args.write(binding, call);
            binding.hold();
            call.check(bind.call(plan.handle(), on, operands, call.output(), call.error()));
            return maker.apply(new NativeLaunch(planLease, call.handle(), binding));
        } catch (RuntimeException e) {
            planLease.release();
            binding.release();
            throw e;
        }
    }

    final void rebind(final Rebind rebind, final Args args) {
        final Binding next = new Binding(device, operation);
        lifetime.enterExclusively("rebind");
        try (Call call = new Call()) {
            final MemorySegment operands = args.write(next, call);
            next.hold();
            call.check(rebind.call(handle, operands, call.error()));
            binding.release();
            binding = next;
        } catch (RuntimeException e) {
            next.release();
            throw e;
        } finally {
            lifetime.endExclusive();
        }
    }

    @Override
    public final void launch(final Stream on) {
        run(on, ALL_ROWS);
    }

    @Override
    public final void launch(final Stream on, final long rowsInUse) {
        Operands.checkRows(operation, rowsInUse, rows);
        run(on, rowsInUse);
    }

    private void run(final Stream on, final long rowsInUse) {
        final CudaStream stream = CudaStream.of(streamArgument, on, device);
        lifetime.enter();
        try {
            final MemorySegment target = stream.enter();
            try {
                final Capture capture = stream.capture();
                if (capture != null) {
                    binding.captureIn(capture);
                }
                if (hopper4j_h.h4j_launch_run(handle, target, rowsInUse, MemorySegment.NULL) != OK) {
                    explain(target, rowsInUse);
                }
            } finally {
                stream.exit();
            }
        } finally {
            lifetime.exit();
        }
    }

    /** Tries again with an error struct; if that succeeds, the work was launched after all. */
    private void explain(final MemorySegment target, final long rowsInUse) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_launch_run(handle, target, rowsInUse, call.error()));
        }
    }

    @Override
    public final void close() {
        if (lifetime.close()) {
            binding.release();
            planLease.release();
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_launch_close(handle, call.error()));
            }
        }
    }

    @Override
    public final String toString() {
        return operation + " launch of " + rows + " rows on " + device;
    }
}
