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
        return args;
    }

    static final class Planned extends CudaPlan<BiasUpdateSpec> implements BiasUpdatePlan<DeviceTensor> {
        Planned(final BiasUpdateSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public BiasUpdateLaunch<DeviceTensor> bind(final BiasUpdateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_moe_bias_update_bind,
                    (binding, call) -> args(operands, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements BiasUpdateLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), 1, made);
            }

            @Override
            public void rebind(final BiasUpdateOperands<DeviceTensor> operands) {
                RoutingOperands.check(spec(), operands);
                rebind(hopper4j_h::h4j_moe_bias_update_rebind, (binding, call) -> args(operands, binding, call));
            }
        }
    }
}
