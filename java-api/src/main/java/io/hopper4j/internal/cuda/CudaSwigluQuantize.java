package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.bindings.h4j_swiglu_quantize_args;
import io.hopper4j.bindings.h4j_swiglu_quantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** SwiGLU and quantisation in the terms of the C ABI. Groups lie one behind the other, in rows as in columns of scales. */
final class CudaSwigluQuantize {
    private static final int VECTOR = 16;

    private CudaSwigluQuantize() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final SwigluQuantizeSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_swiglu_quantize_spec.layout());
        h4j_swiglu_quantize_spec.struct_size(s, (int) h4j_swiglu_quantize_spec.sizeof());
        h4j_swiglu_quantize_spec.scale_kind(s, spec.scaleKind().code());
        h4j_swiglu_quantize_spec.weighted(s, spec.weighted() ? 1 : 0);
        h4j_swiglu_quantize_spec.masked(s, spec.masked() ? 1 : 0);
        h4j_swiglu_quantize_spec.sm_budget(s, spec.smBudget());
        h4j_swiglu_quantize_spec.groups(s, spec.groups());
        h4j_swiglu_quantize_spec.max_rows(s, spec.maxRows());
        h4j_swiglu_quantize_spec.cols(s, spec.cols());
        return hopper4j_h.h4j_swiglu_quantize_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final SwigluQuantizeSpec spec,
            final DeviceTensor in,
            final @Nullable DeviceTensor weights,
            final @Nullable DeviceTensor rowCounts,
            final Scaled<DeviceTensor> out,
            final Binding binding,
            final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_swiglu_quantize_args.layout());
        h4j_swiglu_quantize_args.struct_size(args, (int) h4j_swiglu_quantize_args.sizeof());
        final long inStride = Operands.rowStride(in.spec(), 8);
        final long outStride = Operands.rowStride(out.values().spec(), 16);
        h4j_swiglu_quantize_args.in(args, binding.address("in", in, VECTOR));
        h4j_swiglu_quantize_args.in_ld(args, inStride);
        h4j_swiglu_quantize_args.in_group_ld(args, spec.maxRows() * inStride);
        h4j_swiglu_quantize_args.weights(args, binding.address("weights", weights, Float.BYTES));
        h4j_swiglu_quantize_args.row_counts(args, binding.address("rowCounts", rowCounts, Integer.BYTES));
        h4j_swiglu_quantize_args.out(args, binding.address("out.values", out.values(), VECTOR));
        h4j_swiglu_quantize_args.out_ld(args, outStride);
        h4j_swiglu_quantize_args.out_group_ld(args, spec.maxRows() * outStride);
        h4j_swiglu_quantize_args.scales(args, binding.address("out.scales", out.scales(), VECTOR));
        h4j_swiglu_quantize_args.scales_ld(
                args, Operands.scaleStride(out.scales().spec(), out.scaling()));
        h4j_swiglu_quantize_args.scales_group_ld(args, spec.maxRows());
        return args;
    }

    static final class Planned extends CudaPlan<SwigluQuantizeSpec> implements SwigluQuantizePlan<DeviceTensor> {
        Planned(final SwigluQuantizeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public SwigluQuantizeLaunch<DeviceTensor> bind(
                final DeviceTensor in,
                final @Nullable DeviceTensor weights,
                final @Nullable DeviceTensor rowCounts,
                final Scaled<DeviceTensor> out) {
            Operands.check(
                    spec(), Operands.specOf(in, "in"), Operands.specOf(weights), Operands.specOf(rowCounts), out);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_swiglu_quantize_bind,
                    (binding, call) -> args(spec(), in, weights, rowCounts, out, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements SwigluQuantizeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(
                    final DeviceTensor in,
                    final @Nullable DeviceTensor weights,
                    final @Nullable DeviceTensor rowCounts,
                    final Scaled<DeviceTensor> out) {
                Operands.check(
                        spec(), Operands.specOf(in, "in"), Operands.specOf(weights), Operands.specOf(rowCounts), out);
                rebind(
                        hopper4j_h::h4j_swiglu_quantize_rebind,
                        (binding, call) -> args(spec(), in, weights, rowCounts, out, binding, call));
            }
        }
    }
}
