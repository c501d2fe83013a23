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
        binding.hold();
        return args;
    }

    /** A plan. */
    static final class Planned extends CudaPlan implements TransposeQuantizePlan<DeviceTensor> {
        private final TransposeQuantizeSpec spec;

        Planned(
                final CudaKernels kernels,
                final TransposeQuantizeSpec spec,
                final MemorySegment handle,
                final Lifetime.Lease lease) {
            super(kernels, spec, handle, lease);
            this.spec = spec;
        }

        @Override
        public TransposeQuantizeSpec spec() {
            return spec;
        }

        @Override
        public TransposeQuantizeLaunch<DeviceTensor> bind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
            Operands.check(spec, in.spec(), out);
            return CudaLaunch.bind(
                    this,
                    spec.operation(),
                    (plan, device, binding, call) -> hopper4j_h.h4j_transpose_quantize_bind(
                            plan, device, args(in, out, binding, call), call.output(), call.error()),
                    (lease, handle, binding) -> new Bound(this, lease, handle, binding));
        }
    }

    /** A launch. */
    private static final class Bound extends CudaLaunch implements TransposeQuantizeLaunch<DeviceTensor> {
        private final TransposeQuantizeSpec spec;

        Bound(final Planned plan, final Lifetime.Lease lease, final MemorySegment handle, final Binding binding) {
            super(plan, plan.spec().operation(), plan.spec().maxRows(), lease, handle, binding);
            this.spec = plan.spec();
        }

        @Override
        public void rebind(final DeviceTensor in, final Scaled<DeviceTensor> out) {
            Operands.check(spec, in.spec(), out);
            rebind((launch, binding, call) ->
                    hopper4j_h.h4j_transpose_quantize_rebind(launch, args(in, out, binding, call), call.error()));
        }
    }
}
