package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.bindings.h4j_mla_merge_args;
import io.hopper4j.bindings.h4j_mla_merge_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.AttentionOperands;
import java.lang.foreign.MemorySegment;

/** Merging results of attention in the terms of the C ABI. */
final class CudaMlaMerge {
    private static final int VECTOR = 16;

    private CudaMlaMerge() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final MlaMergeSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_mla_merge_spec.layout());
        h4j_mla_merge_spec.struct_size(s, (int) h4j_mla_merge_spec.sizeof());
        h4j_mla_merge_spec.out_dtype(s, spec.outDType().code());
        h4j_mla_merge_spec.heads(s, spec.heads());
        h4j_mla_merge_spec.s_q(s, spec.sQ());
        h4j_mla_merge_spec.sm_budget(s, spec.smBudget());
        h4j_mla_merge_spec.max_batch(s, spec.maxBatch());
        return hopper4j_h.h4j_mla_merge_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final MlaResult<DeviceTensor> a,
            final MlaResult<DeviceTensor> b,
            final MlaResult<DeviceTensor> merged,
            final Binding binding,
            final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_mla_merge_args.layout());
        h4j_mla_merge_args.struct_size(args, (int) h4j_mla_merge_args.sizeof());
        h4j_mla_merge_args.out_a(args, binding.address("a.out", a.out(), VECTOR));
        h4j_mla_merge_args.lse_a(args, binding.address("a.lse", a.lse(), Float.BYTES));
        h4j_mla_merge_args.out_b(args, binding.address("b.out", b.out(), VECTOR));
        h4j_mla_merge_args.lse_b(args, binding.address("b.lse", b.lse(), Float.BYTES));
        h4j_mla_merge_args.out(args, binding.address("merged.out", merged.out(), VECTOR));
        h4j_mla_merge_args.lse(args, binding.address("merged.lse", merged.lse(), Float.BYTES));
        binding.hold();
        return args;
    }

    /** A plan. */
    static final class Planned extends CudaPlan implements MlaMergePlan<DeviceTensor> {
        private final MlaMergeSpec spec;

        Planned(
                final CudaKernels kernels,
                final MlaMergeSpec spec,
                final MemorySegment handle,
                final Lifetime.Lease lease) {
            super(kernels, spec, handle, lease);
            this.spec = spec;
        }

        @Override
        public MlaMergeSpec spec() {
            return spec;
        }

        @Override
        public MlaMergeLaunch<DeviceTensor> bind(
                final MlaResult<DeviceTensor> a,
                final MlaResult<DeviceTensor> b,
                final MlaResult<DeviceTensor> merged) {
            AttentionOperands.check(spec, a, b, merged);
            return CudaLaunch.bind(
                    this,
                    spec.operation(),
                    (plan, device, binding, call) -> hopper4j_h.h4j_mla_merge_bind(
                            plan, device, args(a, b, merged, binding, call), call.output(), call.error()),
                    (lease, handle, binding) -> new Bound(this, lease, handle, binding));
        }
    }

    /** A launch. */
    private static final class Bound extends CudaLaunch implements MlaMergeLaunch<DeviceTensor> {
        private final MlaMergeSpec spec;

        Bound(final Planned plan, final Lifetime.Lease lease, final MemorySegment handle, final Binding binding) {
            super(plan, plan.spec().operation(), plan.spec().maxBatch(), lease, handle, binding);
            this.spec = plan.spec();
        }

        @Override
        public void rebind(
                final MlaResult<DeviceTensor> a,
                final MlaResult<DeviceTensor> b,
                final MlaResult<DeviceTensor> merged) {
            AttentionOperands.check(spec, a, b, merged);
            rebind((launch, binding, call) ->
                    hopper4j_h.h4j_mla_merge_rebind(launch, args(a, b, merged, binding, call), call.error()));
        }
    }
}
