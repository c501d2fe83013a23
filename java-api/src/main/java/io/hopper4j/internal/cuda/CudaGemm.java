package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.bindings.h4j_gemm_args;
import io.hopper4j.bindings.h4j_gemm_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** The dense GEMM in the terms of the C ABI. */
final class CudaGemm {
    private static final int TMA = 16;
    private static final int WORKSPACE = 256;

    private CudaGemm() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final GemmSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_gemm_spec.layout());
        h4j_gemm_spec.struct_size(s, (int) h4j_gemm_spec.sizeof());
        h4j_gemm_spec.out_dtype(s, spec.outDType().code());
        h4j_gemm_spec.accumulate(s, spec.accumulate() ? 1 : 0);
        h4j_gemm_spec.sm_budget(s, spec.smBudget());
        h4j_gemm_spec.max_m(s, spec.maxM());
        h4j_gemm_spec.n(s, spec.n());
        h4j_gemm_spec.k(s, spec.k());
        h4j_gemm_spec.batch_invariant(s, spec.batchInvariant() ? 1 : 0);
        h4j_gemm_spec.constant_b(s, spec.constantB() ? 1 : 0);
        h4j_gemm_spec.out_scale_kind(s, spec.outScaleKind().code());
        return hopper4j_h.h4j_gemm_plan(device, s, call.output(), call.error());
    }

    /** The operands of a launch; {@code outScales} are those of quantised output. */
    private record Tensors(
            Scaled<DeviceTensor> a,
            Scaled<DeviceTensor> b,
            @Nullable DeviceTensor c,
            DeviceTensor out,
            @Nullable DeviceTensor outScales,
            @Nullable DeviceTensor workspace) {
        static Tensors checked(
                final CudaGemm.Planned plan,
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            Operands.check(plan.spec(), a, b, Operands.specOf(c), Operands.specOf(out, "out"));
            Operands.checkWorkspace("gemm", Operands.specOf(workspace), plan.workspaceBytes());
            return new Tensors(a, b, c, out, null, workspace);
        }

        static Tensors checked(
                final CudaGemm.Planned plan,
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final Scaled<DeviceTensor> out,
                final @Nullable DeviceTensor workspace) {
            Operands.check(plan.spec(), a, b, out);
            Operands.checkWorkspace("gemm", Operands.specOf(workspace), plan.workspaceBytes());
            return new Tensors(a, b, null, out.values(), out.scales(), workspace);
        }

        MemorySegment args(final GemmSpec spec, final Binding binding, final Call call) {
            final int outUnit = TMA / spec.outDType().size();
            final MemorySegment args = call.arena().allocate(h4j_gemm_args.layout());
            h4j_gemm_args.struct_size(args, (int) h4j_gemm_args.sizeof());
            h4j_gemm_args.a(args, binding.address("a.values", a.values(), TMA));
            h4j_gemm_args.a_ld(args, Operands.rowStride(a.values().spec(), TMA));
            h4j_gemm_args.a_scales(args, binding.address("a.scales", a.scales(), TMA));
            h4j_gemm_args.a_scales_ld(args, Operands.scaleStride(a.scales().spec(), a.scaling()));
            h4j_gemm_args.b(args, binding.address("b.values", b.values(), TMA));
            h4j_gemm_args.b_ld(args, Operands.rowStride(b.values().spec(), TMA));
            h4j_gemm_args.b_scales(args, binding.address("b.scales", b.scales(), Float.BYTES));
            h4j_gemm_args.b_scales_ld(args, Operands.scaleStride(b.scales().spec(), b.scaling()));
            if (c != null) {
                h4j_gemm_args.c(args, binding.address("c", c, TMA));
                h4j_gemm_args.c_ld(args, Operands.rowStride(c.spec(), outUnit));
            }
            h4j_gemm_args.d(args, binding.address(outScales == null ? "out" : "out.values", out, TMA));
            h4j_gemm_args.d_ld(args, Operands.rowStride(out.spec(), outUnit));
            if (outScales != null) {
                h4j_gemm_args.d_scales(args, binding.address("out.scales", outScales, TMA));
                h4j_gemm_args.d_scales_ld(args, Operands.scaleStride(outScales.spec(), Scaling.ACTIVATION_1X128));
            }
            if (workspace != null) {
                h4j_gemm_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
                h4j_gemm_args.workspace_bytes(args, workspace.spec().elements());
            }
            return args;
        }
    }

    static final class Planned extends CudaPlan<GemmSpec> implements GemmPlan<DeviceTensor> {
        Planned(final GemmSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public GemmLaunch<DeviceTensor> bind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            return bind(Tensors.checked(this, a, b, c, out, workspace));
        }

        @Override
        public GemmLaunch<DeviceTensor> bind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final Scaled<DeviceTensor> out,
                final @Nullable DeviceTensor workspace) {
            return bind(Tensors.checked(this, a, b, out, workspace));
        }

        private GemmLaunch<DeviceTensor> bind(final Tensors tensors) {
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_gemm_bind,
                    (binding, call) -> tensors.args(spec(), binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements GemmLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxM(), made);
            }

            @Override
            public void rebind(
                    final Scaled<DeviceTensor> a,
                    final Scaled<DeviceTensor> b,
                    final @Nullable DeviceTensor c,
                    final DeviceTensor out,
                    final @Nullable DeviceTensor workspace) {
                rebind(Tensors.checked(Planned.this, a, b, c, out, workspace));
            }

            @Override
            public void rebind(
                    final Scaled<DeviceTensor> a,
                    final Scaled<DeviceTensor> b,
                    final Scaled<DeviceTensor> out,
                    final @Nullable DeviceTensor workspace) {
                rebind(Tensors.checked(Planned.this, a, b, out, workspace));
            }

            private void rebind(final Tensors tensors) {
                rebind(hopper4j_h::h4j_gemm_rebind, (binding, call) -> tensors.args(spec(), binding, call));
            }
        }
    }
}
