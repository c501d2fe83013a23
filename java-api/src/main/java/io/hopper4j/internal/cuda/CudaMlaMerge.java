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
        return args;
    }

    static final class Planned extends CudaPlan<MlaMergeSpec> implements MlaMergePlan<DeviceTensor> {
        Planned(final MlaMergeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public MlaMergeLaunch<DeviceTensor> bind(
                final MlaResult<DeviceTensor> a,
                final MlaResult<DeviceTensor> b,
                final MlaResult<DeviceTensor> merged) {
            AttentionOperands.check(spec(), a, b, merged);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_mla_merge_bind,
                    (binding, call) -> args(a, b, merged, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements MlaMergeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxBatch(), made);
            }

            @Override
            public void rebind(
                    final MlaResult<DeviceTensor> a,
                    final MlaResult<DeviceTensor> b,
                    final MlaResult<DeviceTensor> merged) {
                AttentionOperands.check(spec(), a, b, merged);
                rebind(hopper4j_h::h4j_mla_merge_rebind, (binding, call) -> args(a, b, merged, binding, call));
            }
        }
    }
}
