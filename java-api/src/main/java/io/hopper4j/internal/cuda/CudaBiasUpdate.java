package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.bindings.h4j_moe_bias_update_args;
import io.hopper4j.bindings.h4j_moe_bias_update_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.BiasUpdateLaunch;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import java.lang.foreign.MemorySegment;

/** The bias update in the terms of the C ABI. */
final class CudaBiasUpdate {
    private CudaBiasUpdate() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final BiasUpdateSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_bias_update_spec.layout());
        h4j_moe_bias_update_spec.struct_size(s, (int) h4j_moe_bias_update_spec.sizeof());
        h4j_moe_bias_update_spec.experts(s, spec.experts());
        h4j_moe_bias_update_spec.step(s, spec.step());
        h4j_moe_bias_update_spec.clear_counts(s, spec.clearCounts() ? 1 : 0);
        h4j_moe_bias_update_spec.sm_budget(s, spec.smBudget());
        return hopper4j_h.h4j_moe_bias_update_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final BiasUpdateOperands<DeviceTensor> x, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_moe_bias_update_args.layout());
        h4j_moe_bias_update_args.struct_size(args, (int) h4j_moe_bias_update_args.sizeof());
        h4j_moe_bias_update_args.counts(args, binding.address("counts", x.counts(), Integer.BYTES));
        h4j_moe_bias_update_args.bias(args, binding.address("bias", x.bias(), Float.BYTES));
        binding.hold();
        return args;
    }

    /** A plan. */
    static final class Planned extends CudaPlan implements BiasUpdatePlan<DeviceTensor> {
        private final BiasUpdateSpec spec;

        Planned(
                final CudaKernels kernels,
                final BiasUpdateSpec spec,
                final MemorySegment handle,
                final Lifetime.Lease lease) {
            super(kernels, spec, handle, lease);
            this.spec = spec;
        }

        @Override
        public BiasUpdateSpec spec() {
            return spec;
        }

        @Override
        public BiasUpdateLaunch<DeviceTensor> bind(final BiasUpdateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec, operands);
            return CudaLaunch.bind(
                    this,
                    spec.operation(),
                    (plan, device, binding, call) -> hopper4j_h.h4j_moe_bias_update_bind(
                            plan, device, args(operands, binding, call), call.output(), call.error()),
                    (lease, handle, binding) -> new Bound(this, lease, handle, binding));
        }
    }

    /** A launch. */
    private static final class Bound extends CudaLaunch implements BiasUpdateLaunch<DeviceTensor> {
        private final BiasUpdateSpec spec;

        Bound(final Planned plan, final Lifetime.Lease lease, final MemorySegment handle, final Binding binding) {
            super(plan, plan.spec().operation(), 1, lease, handle, binding);
            this.spec = plan.spec();
        }

        @Override
        public void rebind(final BiasUpdateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec, operands);
            rebind((launch, binding, call) ->
                    hopper4j_h.h4j_moe_bias_update_rebind(launch, args(operands, binding, call), call.error()));
        }
    }
}
