package io.hopper4j.internal.cuda;

import static io.hopper4j.internal.GroupedOperands.groupStride;
import static io.hopper4j.internal.GroupedOperands.rowStride;
import static io.hopper4j.internal.GroupedOperands.scaleStride;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.bindings.h4j_gemm_k_grouped_args;
import io.hopper4j.bindings.h4j_gemm_k_grouped_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.gemm.KGroupedGemmLaunch;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** The FP8 GEMM over groups of K in the terms of the C ABI. */
final class CudaKGroupedGemm {
    private static final int TMA = 16;
    private static final int WORKSPACE = 256;

    private CudaKGroupedGemm() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final KGroupedGemmSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_gemm_k_grouped_spec.layout());
        h4j_gemm_k_grouped_spec.struct_size(s, (int) h4j_gemm_k_grouped_spec.sizeof());
        h4j_gemm_k_grouped_spec.groups(s, Math.toIntExact(spec.groups()));
        h4j_gemm_k_grouped_spec.sm_budget(s, spec.smBudget());
        h4j_gemm_k_grouped_spec.ends_dtype(s, spec.endsDType().code());
        h4j_gemm_k_grouped_spec.accumulate(s, spec.accumulate() ? 1 : 0);
        h4j_gemm_k_grouped_spec.m(s, spec.m());
        h4j_gemm_k_grouped_spec.n(s, spec.n());
        h4j_gemm_k_grouped_spec.max_k(s, spec.maxK());
        return hopper4j_h.h4j_gemm_k_grouped_plan(device, s, call.output(), call.error());
    }

    /** The operands of a launch. */
    private record Tensors(
            Scaled<DeviceTensor> a,
            Scaled<DeviceTensor> b,
            DeviceTensor groupEnds,
            @Nullable DeviceTensor c,
            DeviceTensor out,
            @Nullable DeviceTensor workspace) {
        void check(final Planned plan) {
            GroupedOperands.check(
                    plan.spec(),
                    a,
                    b,
                    Operands.specOf(groupEnds, "groupEnds"),
                    Operands.specOf(c),
                    Operands.specOf(out, "out"));
            Operands.checkWorkspace(plan.spec().operation(), Operands.specOf(workspace), plan.workspaceBytes());
        }

        MemorySegment args(final Binding binding, final Call call) {
            final MemorySegment args = call.arena().allocate(h4j_gemm_k_grouped_args.layout());
            h4j_gemm_k_grouped_args.struct_size(args, (int) h4j_gemm_k_grouped_args.sizeof());
            h4j_gemm_k_grouped_args.a(args, binding.address("a.values", a.values(), TMA));
            h4j_gemm_k_grouped_args.a_ld(args, rowStride(a.values().spec(), TMA));
            h4j_gemm_k_grouped_args.a_scales(args, binding.address("a.scales", a.scales(), TMA));
            h4j_gemm_k_grouped_args.a_scales_ld(args, scaleStride(a.scales().spec()));
            h4j_gemm_k_grouped_args.b(args, binding.address("b.values", b.values(), TMA));
            h4j_gemm_k_grouped_args.b_ld(args, rowStride(b.values().spec(), TMA));
            h4j_gemm_k_grouped_args.b_scales(args, binding.address("b.scales", b.scales(), TMA));
            h4j_gemm_k_grouped_args.b_scales_ld(args, scaleStride(b.scales().spec()));
            h4j_gemm_k_grouped_args.group_ends(
                    args,
                    binding.address(
                            "groupEnds", groupEnds, groupEnds.spec().dtype().size()));
            if (c != null) {
                h4j_gemm_k_grouped_args.c(args, binding.address("c", c, TMA));
                h4j_gemm_k_grouped_args.c_ld(args, rowStride(c.spec(), TMA));
                h4j_gemm_k_grouped_args.c_group_ld(args, groupStride(c.spec(), TMA));
            }
            h4j_gemm_k_grouped_args.d(args, binding.address("out", out, TMA));
            h4j_gemm_k_grouped_args.d_ld(args, rowStride(out.spec(), TMA));
            h4j_gemm_k_grouped_args.d_group_ld(args, groupStride(out.spec(), TMA));
            if (workspace != null) {
                h4j_gemm_k_grouped_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
                h4j_gemm_k_grouped_args.workspace_bytes(args, workspace.spec().elements());
            }
            return args;
        }
    }

    static final class Planned extends CudaPlan<KGroupedGemmSpec> implements KGroupedGemmPlan<DeviceTensor> {
        Planned(final KGroupedGemmSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public KGroupedGemmLaunch<DeviceTensor> bind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final DeviceTensor groupEnds,
                final @Nullable DeviceTensor c,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            final Tensors tensors = new Tensors(a, b, groupEnds, c, out, workspace);
            tensors.check(this);
            return CudaLaunch.bind(
                    this, spec().operation(), hopper4j_h::h4j_gemm_k_grouped_bind, tensors::args, Bound::new);
        }

        private final class Bound extends CudaLaunch implements KGroupedGemmLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxK(), made);
            }

            @Override
            public void rebind(
                    final Scaled<DeviceTensor> a,
                    final Scaled<DeviceTensor> b,
                    final DeviceTensor groupEnds,
                    final @Nullable DeviceTensor c,
                    final DeviceTensor out,
                    final @Nullable DeviceTensor workspace) {
                final Tensors tensors = new Tensors(a, b, groupEnds, c, out, workspace);
                tensors.check(Planned.this);
                rebind(hopper4j_h::h4j_gemm_k_grouped_rebind, tensors::args);
            }
        }
    }
}
