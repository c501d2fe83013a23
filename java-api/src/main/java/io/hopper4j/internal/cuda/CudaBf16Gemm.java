package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.bindings.h4j_gemm_bf16_args;
import io.hopper4j.bindings.h4j_gemm_bf16_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.internal.Bf16Operands;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** The BF16 GEMM in the terms of the C ABI. */
final class CudaBf16Gemm {
    private static final int TMA = 16;
    private static final int WORKSPACE = 256;

    private CudaBf16Gemm() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final Bf16GemmSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_gemm_bf16_spec.layout());
        h4j_gemm_bf16_spec.struct_size(s, (int) h4j_gemm_bf16_spec.sizeof());
        h4j_gemm_bf16_spec.out_dtype(s, spec.outDType().code());
        h4j_gemm_bf16_spec.accumulate(s, spec.accumulate() ? 1 : 0);
        h4j_gemm_bf16_spec.sm_budget(s, spec.smBudget());
        h4j_gemm_bf16_spec.batch(s, spec.batch());
        h4j_gemm_bf16_spec.max_m(s, spec.maxM());
        h4j_gemm_bf16_spec.n(s, spec.n());
        h4j_gemm_bf16_spec.k(s, spec.k());
        return hopper4j_h.h4j_gemm_bf16_plan(device, s, call.output(), call.error());
    }

    /** The operands of a launch. */
    private record Tensors(
            DeviceTensor a,
            DeviceTensor b,
            @Nullable DeviceTensor c,
            DeviceTensor out,
            @Nullable DeviceTensor workspace) {
        void check(final Planned plan) {
            Bf16Operands.check(
                    plan.spec(),
                    Operands.specOf(a, "a"),
                    Operands.specOf(b, "b"),
                    Operands.specOf(c),
                    Operands.specOf(out, "out"));
            Operands.checkWorkspace(plan.spec().operation(), Operands.specOf(workspace), plan.workspaceBytes());
        }

        MemorySegment args(final Binding binding, final Call call) {
            final MemorySegment args = call.arena().allocate(h4j_gemm_bf16_args.layout());
            h4j_gemm_bf16_args.struct_size(args, (int) h4j_gemm_bf16_args.sizeof());
            h4j_gemm_bf16_args.a(args, binding.address("a", a, TMA));
            h4j_gemm_bf16_args.a_ld(args, Bf16Operands.rowStride(a.spec()));
            h4j_gemm_bf16_args.a_batch_ld(args, Bf16Operands.matrixStride(a.spec()));
            h4j_gemm_bf16_args.b(args, binding.address("b", b, TMA));
            h4j_gemm_bf16_args.b_ld(args, Bf16Operands.rowStride(b.spec()));
            h4j_gemm_bf16_args.b_batch_ld(args, Bf16Operands.matrixStride(b.spec()));
            if (c != null) {
                h4j_gemm_bf16_args.c(args, binding.address("c", c, TMA));
                h4j_gemm_bf16_args.c_ld(args, Bf16Operands.rowStride(c.spec()));
                h4j_gemm_bf16_args.c_batch_ld(args, Bf16Operands.matrixStride(c.spec()));
            }
            h4j_gemm_bf16_args.d(args, binding.address("out", out, TMA));
            h4j_gemm_bf16_args.d_ld(args, Bf16Operands.rowStride(out.spec()));
            h4j_gemm_bf16_args.d_batch_ld(args, Bf16Operands.matrixStride(out.spec()));
            if (workspace != null) {
                h4j_gemm_bf16_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
                h4j_gemm_bf16_args.workspace_bytes(args, workspace.spec().elements());
            }
            return args;
        }
    }

    static final class Planned extends CudaPlan<Bf16GemmSpec> implements Bf16GemmPlan<DeviceTensor> {
        Planned(final Bf16GemmSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public Bf16GemmLaunch<DeviceTensor> bind(
                final DeviceTensor a,
                final DeviceTensor b,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            final Tensors tensors = new Tensors(a, b, c, out, workspace);
            tensors.check(this);
            return CudaLaunch.bind(this, spec().operation(), hopper4j_h::h4j_gemm_bf16_bind, tensors::args, Bound::new);
        }

        private final class Bound extends CudaLaunch implements Bf16GemmLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxM(), made);
            }

            @Override
            public void rebind(
                    final DeviceTensor a,
                    final DeviceTensor b,
                    final @Nullable DeviceTensor c,
                    final DeviceTensor out,
                    final @Nullable DeviceTensor workspace) {
                final Tensors tensors = new Tensors(a, b, c, out, workspace);
                tensors.check(Planned.this);
                rebind(hopper4j_h::h4j_gemm_bf16_rebind, tensors::args);
            }
        }
    }
}
