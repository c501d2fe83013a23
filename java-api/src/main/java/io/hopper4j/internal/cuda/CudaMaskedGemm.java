package io.hopper4j.internal.cuda;

import static io.hopper4j.internal.GroupedOperands.groupStride;
import static io.hopper4j.internal.GroupedOperands.rowStride;
import static io.hopper4j.internal.GroupedOperands.scaleGroupStride;
import static io.hopper4j.internal.GroupedOperands.scaleStride;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Scaled;
import io.hopper4j.bindings.h4j_gemm_masked_args;
import io.hopper4j.bindings.h4j_gemm_masked_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.gemm.MaskedGemmLaunch;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** The FP8 GEMM over groups with rows of their own in the terms of the C ABI. */
final class CudaMaskedGemm {
    private static final int TMA = 16;
    private static final int WORKSPACE = 256;

    private CudaMaskedGemm() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final MaskedGemmSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_gemm_masked_spec.layout());
        h4j_gemm_masked_spec.struct_size(s, (int) h4j_gemm_masked_spec.sizeof());
        h4j_gemm_masked_spec.groups(s, Math.toIntExact(spec.groups()));
        h4j_gemm_masked_spec.sm_budget(s, spec.smBudget());
        h4j_gemm_masked_spec.counts_dtype(s, spec.countsDType().code());
        h4j_gemm_masked_spec.max_rows(s, spec.maxRows());
        h4j_gemm_masked_spec.expected_rows(s, spec.expectedRows());
        h4j_gemm_masked_spec.n(s, spec.n());
        h4j_gemm_masked_spec.k(s, spec.k());
        return hopper4j_h.h4j_gemm_masked_plan(device, s, call.output(), call.error());
    }

    /** The operands of a launch. */
    private record Tensors(
            Scaled<DeviceTensor> a,
            Scaled<DeviceTensor> b,
            DeviceTensor counts,
            DeviceTensor out,
            @Nullable DeviceTensor workspace) {
        void check(final Planned plan) {
            GroupedOperands.check(plan.spec(), a, b, Operands.specOf(counts, "counts"), Operands.specOf(out, "out"));
            Operands.checkWorkspace(plan.spec().operation(), Operands.specOf(workspace), plan.workspaceBytes());
        }

        MemorySegment args(final Binding binding, final Call call) {
            final MemorySegment args = call.arena().allocate(h4j_gemm_masked_args.layout());
            h4j_gemm_masked_args.struct_size(args, (int) h4j_gemm_masked_args.sizeof());
            h4j_gemm_masked_args.a(args, binding.address("a.values", a.values(), TMA));
            h4j_gemm_masked_args.a_ld(args, rowStride(a.values().spec(), TMA));
            h4j_gemm_masked_args.a_group_ld(args, groupStride(a.values().spec(), TMA));
            h4j_gemm_masked_args.a_scales(args, binding.address("a.scales", a.scales(), TMA));
            h4j_gemm_masked_args.a_scales_ld(args, scaleStride(a.scales().spec()));
            h4j_gemm_masked_args.a_scales_group_ld(
                    args, scaleGroupStride(a.scales().spec()));
            h4j_gemm_masked_args.b(args, binding.address("b.values", b.values(), TMA));
            h4j_gemm_masked_args.b_ld(args, rowStride(b.values().spec(), TMA));
            h4j_gemm_masked_args.b_group_ld(args, groupStride(b.values().spec(), TMA));
            h4j_gemm_masked_args.b_scales(args, binding.address("b.scales", b.scales(), Float.BYTES));
            h4j_gemm_masked_args.b_scales_ld(args, rowStride(b.scales().spec(), Float.BYTES));
            h4j_gemm_masked_args.b_scales_group_ld(args, groupStride(b.scales().spec(), Float.BYTES));
            h4j_gemm_masked_args.counts(
                    args,
                    binding.address("counts", counts, counts.spec().dtype().size()));
            h4j_gemm_masked_args.d(args, binding.address("out", out, TMA));
            h4j_gemm_masked_args.d_ld(args, rowStride(out.spec(), TMA));
            h4j_gemm_masked_args.d_group_ld(args, groupStride(out.spec(), TMA));
            if (workspace != null) {
                h4j_gemm_masked_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
                h4j_gemm_masked_args.workspace_bytes(args, workspace.spec().elements());
            }
            return args;
        }
    }

    static final class Planned extends CudaPlan<MaskedGemmSpec> implements MaskedGemmPlan<DeviceTensor> {
        Planned(final MaskedGemmSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public MaskedGemmLaunch<DeviceTensor> bind(
                final Scaled<DeviceTensor> a,
                final Scaled<DeviceTensor> b,
                final DeviceTensor counts,
                final DeviceTensor out,
                final @Nullable DeviceTensor workspace) {
            final Tensors tensors = new Tensors(a, b, counts, out, workspace);
            tensors.check(this);
            return CudaLaunch.bind(
                    this, spec().operation(), hopper4j_h::h4j_gemm_masked_bind, tensors::args, Bound::new);
        }

        private final class Bound extends CudaLaunch implements MaskedGemmLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxRows(), made);
            }

            @Override
            public void rebind(
                    final Scaled<DeviceTensor> a,
                    final Scaled<DeviceTensor> b,
                    final DeviceTensor counts,
                    final DeviceTensor out,
                    final @Nullable DeviceTensor workspace) {
                final Tensors tensors = new Tensors(a, b, counts, out, workspace);
                tensors.check(Planned.this);
                rebind(hopper4j_h::h4j_gemm_masked_rebind, tensors::args);
            }
        }
    }
}
