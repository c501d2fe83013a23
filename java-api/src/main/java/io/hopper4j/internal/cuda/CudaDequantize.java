package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.bindings.h4j_dequantize_args;
import io.hopper4j.bindings.h4j_dequantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import java.lang.foreign.MemorySegment;

/** Dequantisation in the terms of the C ABI. */
final class CudaDequantize {
    private static final int VECTOR = 16;
    /** Row strides of the input are whole 16 elements, of the output whole 8. */
    private static final int IN_UNIT = 16;

    private static final int OUT_UNIT = 8;

    private CudaDequantize() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final DequantizeSpec spec, final Call call) {
        final Scaling.Block block = CudaQuantize.block("dequantize", spec.scaling());
        final MemorySegment s = call.arena().allocate(h4j_dequantize_spec.layout());
        h4j_dequantize_spec.struct_size(s, (int) h4j_dequantize_spec.sizeof());
        h4j_dequantize_spec.out_dtype(s, spec.outDType().code());
        h4j_dequantize_spec.block_rows(s, block.rows());
        h4j_dequantize_spec.block_cols(s, block.cols());
        h4j_dequantize_spec.sm_budget(s, spec.smBudget());
        h4j_dequantize_spec.max_rows(s, spec.maxRows());
        h4j_dequantize_spec.cols(s, spec.cols());
        return hopper4j_h.h4j_dequantize_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final Scaled<DeviceTensor> in, final DeviceTensor out, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_dequantize_args.layout());
        h4j_dequantize_args.struct_size(args, (int) h4j_dequantize_args.sizeof());
        h4j_dequantize_args.in(args, binding.address("in.values", in.values(), VECTOR));
        h4j_dequantize_args.in_ld(args, Operands.rowStride(in.values().spec(), IN_UNIT));
        h4j_dequantize_args.scales(args, binding.address("in.scales", in.scales(), VECTOR));
        h4j_dequantize_args.scales_ld(args, Operands.scaleStride(in.scales().spec(), in.scaling()));
        h4j_dequantize_args.out(args, binding.address("out", out, VECTOR));
        h4j_dequantize_args.out_ld(args, Operands.rowStride(out.spec(), OUT_UNIT));
        return args;
    }

    static final class Planned extends CudaPlan<DequantizeSpec> implements DequantizePlan<DeviceTensor> {
        Planned(final DequantizeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public DequantizeLaunch<DeviceTensor> bind(final Scaled<DeviceTensor> in, final DeviceTensor out) {
            Operands.check(spec(), in, Operands.specOf(out, "out"));
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_dequantize_bind,
                    (binding, call) -> args(in, out, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements DequantizeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(final Scaled<DeviceTensor> in, final DeviceTensor out) {
                Operands.check(spec(), in, Operands.specOf(out, "out"));
                rebind(hopper4j_h::h4j_dequantize_rebind, (binding, call) -> args(in, out, binding, call));
            }
        }
    }
}
