package io.hopper4j.internal.cuda;

import io.hopper4j.Launch;
import io.hopper4j.Stream;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;

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

    /**
     * @param plan what is launched
     * @param operation what messages call it
     * @param rows rows of the tensors
     * @param planLease the plan's lease, which this object owns from now on
     * @param handle the native launch, which this object owns from now on
     * @param binding holds the leases of the tensors, which this object owns from now on
     */
    CudaLaunch(
            final CudaPlan plan,
            final String operation,
            final long rows,
            final Lifetime.Lease planLease,
            final MemorySegment handle,
            final Binding binding) {
        this.device = plan.device();
        this.operation = operation;
        this.streamArgument = operation + ": stream";
        this.rows = rows;
        this.handle = handle;
        this.planLease = planLease;
        this.binding = binding;
        this.lifetime = new Lifetime(this, operation + " launch of " + device);
    }

    /** Binds in native code: writes the handle of the launch to the call's output and answers the status. */
    @FunctionalInterface
    interface Bind {
        int call(MemorySegment plan, MemorySegment device, Binding binding, Call call);
    }

    /** Makes the launch object once the native launch is there. */
    @FunctionalInterface
    interface Maker<L> {
        L make(Lifetime.Lease planLease, MemorySegment handle, Binding binding);
    }

    /** Takes all leases, binds, and makes the launch; on failure all leases are returned. */
    static <L> L bind(final CudaPlan plan, final String operation, final Bind bind, final Maker<L> maker) {
        final Binding binding = new Binding(plan.device(), operation);
        final Lifetime.Lease planLease = plan.lifetime().lease(operation + " launch");
        try (Call call = new Call()) {
            call.check(bind.call(plan.handle(), plan.device().handle(), binding, call));
            return maker.make(planLease, call.handle(), binding);
        } catch (RuntimeException e) {
            planLease.release();
            binding.release();
            throw e;
        }
    }

    /** Rebinds in native code: answers the status. */
    @FunctionalInterface
    interface Rebind {
        int call(MemorySegment launch, Binding binding, Call call);
    }

    final void rebind(final Rebind rebind) {
        final Binding next = new Binding(device, operation);
        lifetime.enterExclusively("rebind");
        try (Call call = new Call()) {
            call.check(rebind.call(handle, next, call));
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
