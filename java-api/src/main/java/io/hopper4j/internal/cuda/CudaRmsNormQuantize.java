package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.bindings.h4j_rmsnorm_quantize_args;
import io.hopper4j.bindings.h4j_rmsnorm_quantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** RMSNorm and quantisation in the terms of the C ABI. */
final class CudaRmsNormQuantize {
    private static final int VECTOR = 16;

    private CudaRmsNormQuantize() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final RmsNormQuantizeSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_rmsnorm_quantize_spec.layout());
        h4j_rmsnorm_quantize_spec.struct_size(s, (int) h4j_rmsnorm_quantize_spec.sizeof());
        h4j_rmsnorm_quantize_spec.weight_dtype(s, spec.weightDType().code());
        h4j_rmsnorm_quantize_spec.scale_kind(s, spec.scaleKind().code());
        h4j_rmsnorm_quantize_spec.residual(s, spec.residual() ? 1 : 0);
        h4j_rmsnorm_quantize_spec.normalized(s, spec.normalized() ? 1 : 0);
        h4j_rmsnorm_quantize_spec.sm_budget(s, spec.smBudget());
        h4j_rmsnorm_quantize_spec.eps(s, spec.eps());
        h4j_rmsnorm_quantize_spec.max_rows(s, spec.maxRows());
        h4j_rmsnorm_quantize_spec.cols(s, spec.cols());
        return hopper4j_h.h4j_rmsnorm_quantize_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final DeviceTensor in,
            final @Nullable DeviceTensor residual,
            final DeviceTensor weight,
            final Scaled<DeviceTensor> out,
            final @Nullable DeviceTensor normalized,
            final Binding binding,
            final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_rmsnorm_quantize_args.layout());
        h4j_rmsnorm_quantize_args.struct_size(args, (int) h4j_rmsnorm_quantize_args.sizeof());
        h4j_rmsnorm_quantize_args.in(args, binding.address("in", in, VECTOR));
        h4j_rmsnorm_quantize_args.in_ld(args, Operands.rowStride(in.spec(), 8));
        if (residual != null) {
            h4j_rmsnorm_quantize_args.residual(args, binding.address("residual", residual, VECTOR));
            h4j_rmsnorm_quantize_args.residual_ld(args, Operands.rowStride(residual.spec(), 8));
        }
        h4j_rmsnorm_quantize_args.weight(args, binding.address("weight", weight, VECTOR));
        h4j_rmsnorm_quantize_args.out(args, binding.address("out.values", out.values(), VECTOR));
        h4j_rmsnorm_quantize_args.out_ld(args, Operands.rowStride(out.values().spec(), 16));
        h4j_rmsnorm_quantize_args.scales(args, binding.address("out.scales", out.scales(), VECTOR));
        h4j_rmsnorm_quantize_args.scales_ld(
                args, Operands.scaleStride(out.scales().spec(), out.scaling()));
        if (normalized != null) {
            h4j_rmsnorm_quantize_args.normalized(args, binding.address("normalized", normalized, VECTOR));
            h4j_rmsnorm_quantize_args.normalized_ld(args, Operands.rowStride(normalized.spec(), 8));
        }
        return args;
    }

    static final class Planned extends CudaPlan<RmsNormQuantizeSpec> implements RmsNormQuantizePlan<DeviceTensor> {
        Planned(final RmsNormQuantizeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public RmsNormQuantizeLaunch<DeviceTensor> bind(
                final DeviceTensor in,
                final @Nullable DeviceTensor residual,
                final DeviceTensor weight,
                final Scaled<DeviceTensor> out,
                final @Nullable DeviceTensor normalized) {
            Operands.check(
                    spec(),
                    Operands.specOf(in, "in"),
                    Operands.specOf(residual),
                    Operands.specOf(weight, "weight"),
                    out,
                    Operands.specOf(normalized));
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_rmsnorm_quantize_bind,
                    (binding, call) -> args(in, residual, weight, out, normalized, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements RmsNormQuantizeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(
                    final DeviceTensor in,
                    final @Nullable DeviceTensor residual,
                    final DeviceTensor weight,
                    final Scaled<DeviceTensor> out,
                    final @Nullable DeviceTensor normalized) {
                Operands.check(
                        spec(),
                        Operands.specOf(in, "in"),
                        Operands.specOf(residual),
                        Operands.specOf(weight, "weight"),
                        out,
                        Operands.specOf(normalized));
                rebind(
                        hopper4j_h::h4j_rmsnorm_quantize_rebind,
                        (binding, call) -> args(in, residual, weight, out, normalized, binding, call));
            }
        }
    }
}
