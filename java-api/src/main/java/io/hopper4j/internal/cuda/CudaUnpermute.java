package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.bindings.h4j_moe_unpermute_args;
import io.hopper4j.bindings.h4j_moe_unpermute_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import java.lang.foreign.MemorySegment;

/** The way back from expert-major rows in the terms of the C ABI. */
final class CudaUnpermute {
    private static final int VECTOR = 16;
    /** Row strides are whole 8 elements. */
    private static final int UNIT = 8;

    private CudaUnpermute() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final UnpermuteSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_unpermute_spec.layout());
        h4j_moe_unpermute_spec.struct_size(s, (int) h4j_moe_unpermute_spec.sizeof());
        h4j_moe_unpermute_spec.top_k(s, spec.topK());
        h4j_moe_unpermute_spec.weighted(s, spec.weighted() ? 1 : 0);
        h4j_moe_unpermute_spec.residual(s, spec.residual() ? 1 : 0);
        h4j_moe_unpermute_spec.sm_budget(s, spec.smBudget());
        h4j_moe_unpermute_spec.max_tokens(s, spec.maxTokens());
        h4j_moe_unpermute_spec.rows(s, spec.rows());
        h4j_moe_unpermute_spec.hidden(s, spec.hidden());
        return hopper4j_h.h4j_moe_unpermute_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(final UnpermuteOperands<DeviceTensor> x, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_moe_unpermute_args.layout());
        h4j_moe_unpermute_args.struct_size(args, (int) h4j_moe_unpermute_args.sizeof());
        h4j_moe_unpermute_args.x(args, binding.address("x", x.x(), VECTOR));
        h4j_moe_unpermute_args.x_ld(args, Operands.rowStride(x.x().spec(), UNIT));
        h4j_moe_unpermute_args.places(args, binding.address("places", x.places(), Integer.BYTES));
        h4j_moe_unpermute_args.weights(args, binding.address("weights", x.weights(), Float.BYTES));
        final DeviceTensor residual = x.residual();
        if (residual != null) {
            h4j_moe_unpermute_args.residual(args, binding.address("residual", residual, VECTOR));
            h4j_moe_unpermute_args.residual_ld(args, Operands.rowStride(residual.spec(), UNIT));
        }
        h4j_moe_unpermute_args.out(args, binding.address("out", x.out(), VECTOR));
        h4j_moe_unpermute_args.out_ld(args, Operands.rowStride(x.out().spec(), UNIT));
        return args;
    }

    static final class Planned extends CudaPlan<UnpermuteSpec> implements UnpermutePlan<DeviceTensor> {
        Planned(final UnpermuteSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public UnpermuteLaunch<DeviceTensor> bind(final UnpermuteOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_moe_unpermute_bind,
                    (binding, call) -> args(operands, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements UnpermuteLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final UnpermuteOperands<DeviceTensor> operands) {
                RoutingOperands.check(spec(), operands);
                rebind(hopper4j_h::h4j_moe_unpermute_rebind, (binding, call) -> args(operands, binding, call));
            }
        }
    }
}
