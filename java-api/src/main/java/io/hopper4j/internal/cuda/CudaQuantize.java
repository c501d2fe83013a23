package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.bindings.h4j_quantize_args;
import io.hopper4j.bindings.h4j_quantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import java.lang.foreign.MemorySegment;

/** Quantisation in the terms of the C ABI. */
final class CudaQuantize {
    private static final int VECTOR = 16;
    /** Row strides of the input are whole 8 elements, of the output whole 16. */
    private static final int IN_UNIT = 8;

    private static final int OUT_UNIT = 16;

    private CudaQuantize() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final QuantizeSpec spec, final Call call) {
        final Scaling.Block block = block("quantize", spec.scaling());
        final MemorySegment s = call.arena().allocate(h4j_quantize_spec.layout());
        h4j_quantize_spec.struct_size(s, (int) h4j_quantize_spec.sizeof());
        h4j_quantize_spec.in_dtype(s, spec.inDType().code());
        h4j_quantize_spec.block_rows(s, block.rows());
        h4j_quantize_spec.block_cols(s, block.cols());
        h4j_quantize_spec.scale_kind(s, spec.scaleKind().code());
        h4j_quantize_spec.sm_budget(s, spec.smBudget());
        h4j_quantize_spec.max_rows(s, spec.maxRows());
        h4j_quantize_spec.cols(s, spec.cols());
        return hopper4j_h.h4j_quantize_plan(device, s, call.output(), call.error());
    }

    /** {@return the block of a scaling that has one} */
    static Scaling.Block block(final String operation, final Scaling scaling) {
        if (scaling instanceof Scaling.Block block) {
            return block;
        }
        throw Arguments.bad(operation + ": scaling", scaling, "blocks");
    }

    private static MemorySegment args(
            final DeviceTensor in, final Scaled<DeviceTensor> out, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_quantize_args.layout());
        h4j_quantize_args.struct_size(args, (int) h4j_quantize_args.sizeof());
        h4j_quantize_args.in(args, binding.address("in", in, VECTOR));
        h4j_quantize_args.in_ld(args, Operands.rowStride(in.spec(), IN_UNIT));
        h4j_quantize_args.out(args, binding.address("out.values", out.values(), VECTOR));
        h4j_quantize_args.out_ld(args, Operands.rowStride(out.values().spec(), OUT_UNIT));
        h4j_quantize_args.scales(args, binding.address("out.scales", out.scales(), VECTOR));
        h4j_quantize_args.scales_ld(args, Operands.scaleStride(out.scales().spec(), out.scaling()));
        return args;
    }

    static final class Planned extends CudaPlan<QuantizeSpec> implements QuantizePlan<DeviceTensor> {
        Planned(final QuantizeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public QuantizeLaunch<DeviceTensor> bind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
            Operands.check(spec(), Operands.specOf(in, "in"), out);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_quantize_bind,
                    (binding, call) -> args(in, out, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements QuantizeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
                Operands.check(spec(), Operands.specOf(in, "in"), out);
                rebind(hopper4j_h::h4j_quantize_rebind, (binding, call) -> args(in, out, binding, call));
            }
        }
    }
}
