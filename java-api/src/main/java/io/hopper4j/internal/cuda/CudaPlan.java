package io.hopper4j.internal.cuda;

import io.hopper4j.OpSpec;
import io.hopper4j.Plan;
import io.hopper4j.bindings.h4j_plan_info;
import io.hopper4j.bindings.hopper4j_h;
import java.lang.foreign.MemorySegment;

/** What the plans of every operation share. */
abstract class CudaPlan<S extends OpSpec> implements Plan {
    private final S spec;
    private final CudaKernels kernels;
    private final Lifetime.Lease kernelsLease;
    private final MemorySegment handle;
    private final Choice choice;
    private final Lifetime lifetime;

    /** A native plan, the kernels that made it and their lease. Whoever makes a plan object of it owns it from then on. */
    record NativePlan(CudaKernels kernels, MemorySegment handle, Lifetime.Lease kernelsLease) {}

    CudaPlan(final S spec, final NativePlan made) {
        this.spec = spec;
        this.kernels = made.kernels;
        this.handle = made.handle;
        this.kernelsLease = made.kernelsLease;
        this.choice = describe(handle);
        this.lifetime = new Lifetime(this, spec.operation() + " plan of " + kernels.device());
    }

    /** What the library says of a plan. */
    record Choice(
            String kernel, long workspaceBytes, long scheduleBytes, long handleBytes, long rows, String explanation) {}

    static Choice describe(final MemorySegment plan) {
        try (Call call = new Call()) {
            final MemorySegment info = call.arena().allocate(h4j_plan_info.layout());
            h4j_plan_info.struct_size(info, (int) h4j_plan_info.sizeof());
            call.check(hopper4j_h.h4j_plan_describe(plan, info, call.error()));
            return new Choice(
                    h4j_plan_info.kernel(info).getString(0),
                    h4j_plan_info.workspace_bytes(info),
                    h4j_plan_info.schedule_bytes(info),
                    h4j_plan_info.handle_bytes(info),
                    h4j_plan_info.rows(info),
                    h4j_plan_info.explanation(info).getString(0));
        }
    }

    static void destroy(final MemorySegment plan) {
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_plan_close(plan, call.error()));
        }
    }

    CudaDevice device() {
        return kernels.device();
    }

    MemorySegment handle() {
        return handle;
    }

    Lifetime lifetime() {
        return lifetime;
    }

    @Override
    public final S spec() {
        return spec;
    }

    @Override
    public long workspaceBytes() {
        return choice.workspaceBytes();
    }

    /** {@return memory of the schedule in bytes; 0 for operations without one} */
    public long scheduleBytes() {
        return choice.scheduleBytes();
    }

    /** {@return memory of the handle in bytes; 0 for operations without one} */
    public long handleBytes() {
        return choice.handleBytes();
    }

    @Override
    public String kernel() {
        return choice.kernel();
    }

    @Override
    public String explanation() {
        return choice.explanation();
    }

    @Override
    public void close() {
        if (lifetime.close()) {
            kernelsLease.release();
            destroy(handle);
        }
    }

    @Override
    public String toString() {
        return spec() + " by " + kernel();
    }
}
