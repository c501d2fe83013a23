package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaling;
import io.hopper4j.bindings.h4j_moe_permute_args;
import io.hopper4j.bindings.h4j_moe_permute_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** Permutation to expert-major rows in the terms of the C ABI. */
final class CudaPermute {
    private static final int VECTOR = 16;

    private CudaPermute() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final PermuteSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_permute_spec.layout());
        h4j_moe_permute_spec.struct_size(s, (int) h4j_moe_permute_spec.sizeof());
        h4j_moe_permute_spec.in_dtype(s, spec.inDType().code());
        h4j_moe_permute_spec.out_dtype(s, spec.outDType().code());
        h4j_moe_permute_spec.scale_kind(s, spec.scaleKind().code());
        h4j_moe_permute_spec.experts(s, spec.experts());
        h4j_moe_permute_spec.top_k(s, spec.topK());
        h4j_moe_permute_spec.alignment(s, spec.alignment());
        h4j_moe_permute_spec.sm_budget(s, spec.smBudget());
        h4j_moe_permute_spec.max_tokens(s, spec.maxTokens());
        h4j_moe_permute_spec.hidden(s, spec.hidden());
        return hopper4j_h.h4j_moe_permute_plan(device, s, call.output(), call.error());
    }

    private static long scaleStride(final @Nullable DeviceTensor scales) {
        return scales == null ? 0 : Operands.scaleStride(scales.spec(), Scaling.ACTIVATION_1X128);
    }

    private static MemorySegment args(final PermuteOperands<DeviceTensor> x, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_moe_permute_args.layout());
        h4j_moe_permute_args.struct_size(args, (int) h4j_moe_permute_args.sizeof());
        h4j_moe_permute_args.ids(args, binding.address("ids", x.ids(), VECTOR));
        h4j_moe_permute_args.in(args, binding.address("in", x.in(), VECTOR));
        h4j_moe_permute_args.in_ld(
                args, Operands.rowStride(x.in().spec(), VECTOR / x.in().dtype().size()));
        h4j_moe_permute_args.in_scales(args, binding.address("inScales", x.inScales(), Float.BYTES));
        h4j_moe_permute_args.in_scales_ld(args, scaleStride(x.inScales()));
        h4j_moe_permute_args.out(args, binding.address("out", x.out(), VECTOR));
        h4j_moe_permute_args.out_ld(
                args,
                Operands.rowStride(x.out().spec(), VECTOR / x.out().dtype().size()));
        h4j_moe_permute_args.out_scales(args, binding.address("outScales", x.outScales(), Float.BYTES));
        h4j_moe_permute_args.out_scales_ld(args, scaleStride(x.outScales()));
        h4j_moe_permute_args.group_ends(args, binding.address("groupEnds", x.groupEnds(), Integer.BYTES));
        h4j_moe_permute_args.places(args, binding.address("places", x.places(), Integer.BYTES));
        h4j_moe_permute_args.sources(args, binding.address("sources", x.sources(), Integer.BYTES));
        return args;
    }

    static final class Planned extends CudaPlan<PermuteSpec> implements PermutePlan<DeviceTensor> {
        Planned(final PermuteSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public PermuteLaunch<DeviceTensor> bind(final PermuteOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_moe_permute_bind,
                    (binding, call) -> args(operands, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements PermuteLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final PermuteOperands<DeviceTensor> operands) {
                RoutingOperands.check(spec(), operands);
                rebind(hopper4j_h::h4j_moe_permute_rebind, (binding, call) -> args(operands, binding, call));
            }
        }
    }
}
