package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.TensorSpec;
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
        return hopper4j_h.h4j_gemm_plan(device, s, call.output(), call.error());
    }

    /** The operands of a launch. */
    private record Tensors(
            Scaled<DeviceTensor> a,
            Scaled<DeviceTensor> b,
            @Nullable DeviceTensor c,
            DeviceTensor out,
            @Nullable DeviceTensor workspace) {
        void check(final CudaGemm.Planned plan) {
            Operands.check(plan.spec(), a, b, specOf(c), out.spec());
            Operands.checkWorkspace("gemm", specOf(workspace), plan.workspaceBytes());
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
            h4j_gemm_args.d(args, binding.address("out", out, TMA));
            h4j_gemm_args.d_ld(args, Operands.rowStride(out.spec(), outUnit));
            if (workspace != null) {
                h4j_gemm_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
                h4j_gemm_args.workspace_bytes(args, workspace.spec().elements());
            }
            binding.hold();
            return args;
        }

        private static @Nullable TensorSpec specOf(final @Nullable DeviceTensor tensor) {
            return tensor == null ? null : tensor.spec();
        }
    }

    /** A plan. */
    static final class Planned extends CudaPlan implements GemmPlan<DeviceTensor> {
        private final GemmSpec spec;

        Planned(
                final CudaKernels kernels,
                final GemmSpec spec,
                final MemorySegment handle,
                final Lifetime.Lease lease) {
            super(kernels, spec, handle, lease);
            this.spec = spec;
        }

        @Override
        public GemmSpec spec() {
            return spec;
        }

        @Override
        public GemmLaunch<DeviceTensor> bind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            final Tensors tensors = new Tensors(a, b, c, out, workspace);
            tensors.check(this);
            return CudaLaunch.bind(
                    this,
                    spec.operation(),
                    (plan, device, binding, call) -> hopper4j_h.h4j_gemm_bind(
                            plan, device, tensors.args(spec, binding, call), call.output(), call.error()),
                    (lease, handle, binding) -> new Bound(this, lease, handle, binding));
        }
    }

    /** A launch. */
    private static final class Bound extends CudaLaunch implements GemmLaunch<DeviceTensor> {
        private final Planned plan;

        Bound(final Planned plan, final Lifetime.Lease lease, final MemorySegment handle, final Binding binding) {
            super(plan, plan.spec().operation(), plan.spec().maxM(), lease, handle, binding);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            final Tensors tensors = new Tensors(a, b, c, out, workspace);
            tensors.check(plan);
            rebind((launch, binding, call) ->
                    hopper4j_h.h4j_gemm_rebind(launch, tensors.args(plan.spec(), binding, call), call.error()));
        }
    }
}
