package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.bindings.h4j_transpose_quantize_args;
import io.hopper4j.bindings.h4j_transpose_quantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.TransposeQuantizeLaunch;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.lang.foreign.MemorySegment;

/** Transposition and quantisation in the terms of the C ABI. */
final class CudaTransposeQuantize {
    private static final int VECTOR = 16;

    private CudaTransposeQuantize() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final TransposeQuantizeSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_transpose_quantize_spec.layout());
        h4j_transpose_quantize_spec.struct_size(s, (int) h4j_transpose_quantize_spec.sizeof());
        h4j_transpose_quantize_spec.scale_kind(s, spec.scaleKind().code());
        h4j_transpose_quantize_spec.sm_budget(s, spec.smBudget());
        h4j_transpose_quantize_spec.max_rows(s, spec.maxRows());
        h4j_transpose_quantize_spec.cols(s, spec.cols());
        return hopper4j_h.h4j_transpose_quantize_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final DeviceTensor in, final Scaled<DeviceTensor> out, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_transpose_quantize_args.layout());
        h4j_transpose_quantize_args.struct_size(args, (int) h4j_transpose_quantize_args.sizeof());
        h4j_transpose_quantize_args.in(args, binding.address("in", in, VECTOR));
        h4j_transpose_quantize_args.in_ld(args, Operands.rowStride(in.spec(), 8));
        h4j_transpose_quantize_args.out(args, binding.address("out.values", out.values(), VECTOR));
        h4j_transpose_quantize_args.out_ld(args, Operands.rowStride(out.values().spec(), 16));
        h4j_transpose_quantize_args.scales(args, binding.address("out.scales", out.scales(), VECTOR));
        h4j_transpose_quantize_args.scales_ld(
                args, Operands.scaleStride(out.scales().spec(), out.scaling()));
        return args;
    }

    static final class Planned extends CudaPlan<TransposeQuantizeSpec> implements TransposeQuantizePlan<DeviceTensor> {
        Planned(final TransposeQuantizeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public TransposeQuantizeLaunch<DeviceTensor> bind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
            Operands.check(spec(), Operands.specOf(in, "in"), out);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_transpose_quantize_bind,
                    (binding, call) -> args(in, out, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements TransposeQuantizeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
                Operands.check(spec(), Operands.specOf(in, "in"), out);
                rebind(hopper4j_h::h4j_transpose_quantize_rebind, (binding, call) -> args(in, out, binding, call));
            }
        }
    }
}
