package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.bindings.h4j_mla_cache_write_args;
import io.hopper4j.bindings.h4j_mla_cache_write_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.AttentionOperands;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;

/** Writing of a latent cache in the terms of the C ABI. */
final class CudaMlaCacheWrite {
    private static final int VECTOR = 16;

    private CudaMlaCacheWrite() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final MlaCacheWriteSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_mla_cache_write_spec.layout());
        h4j_mla_cache_write_spec.struct_size(s, (int) h4j_mla_cache_write_spec.sizeof());
        h4j_mla_cache_write_spec.format(s, spec.format().code());
        h4j_mla_cache_write_spec.scale_kind(s, spec.scaleKind().code());
        h4j_mla_cache_write_spec.weight_dtype(s, spec.weightDType().code());
        h4j_mla_cache_write_spec.position_dtype(s, spec.positionDType().code());
        h4j_mla_cache_write_spec.page_size(s, spec.pageSize());
        h4j_mla_cache_write_spec.request_tokens(s, spec.requestTokens());
        h4j_mla_cache_write_spec.sm_budget(s, spec.smBudget());
        h4j_mla_cache_write_spec.eps(s, spec.eps());
        h4j_mla_cache_write_spec.max_tokens(s, spec.maxTokens());
        h4j_mla_cache_write_spec.max_batch(s, spec.maxBatch());
        h4j_mla_cache_write_spec.max_length(s, spec.maxLength());
        h4j_mla_cache_write_spec.pages(s, spec.pages());
        return hopper4j_h.h4j_mla_cache_write_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(
            final MlaCacheWriteSpec spec,
            final MlaCacheWriteOperands<DeviceTensor> x,
            final Binding binding,
            final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_mla_cache_write_args.layout());
        h4j_mla_cache_write_args.struct_size(args, (int) h4j_mla_cache_write_args.sizeof());
        h4j_mla_cache_write_args.in(args, binding.address("in", x.in(), VECTOR));
        h4j_mla_cache_write_args.in_ld(args, Operands.rowStride(x.in().spec(), 8));
        h4j_mla_cache_write_args.weight(args, binding.address("weight", x.weight(), VECTOR));
        h4j_mla_cache_write_args.rope(args, binding.address("rope", x.rope(), Float.BYTES));
        h4j_mla_cache_write_args.positions(
                args,
                binding.address("positions", x.positions(), spec.positionDType().size()));
        h4j_mla_cache_write_args.requests(args, binding.address("requests", x.requests(), Integer.BYTES));
        h4j_mla_cache_write_args.block_table(args, binding.address("blockTable", x.blockTable(), Integer.BYTES));
        h4j_mla_cache_write_args.block_table_ld(
                args, AttentionOperands.tableStride(x.blockTable().spec()));
        final TensorSpec cache = x.cache().spec();
        h4j_mla_cache_write_args.cache(args, binding.address("cache", x.cache(), VECTOR));
        h4j_mla_cache_write_args.cache_ld(args, AttentionOperands.tokenStride(cache));
        h4j_mla_cache_write_args.cache_page_ld(args, AttentionOperands.pageStride(cache));
        return args;
    }

    static final class Planned extends CudaPlan<MlaCacheWriteSpec> implements MlaCacheWritePlan<DeviceTensor> {
        Planned(final MlaCacheWriteSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public MlaCacheWriteLaunch<DeviceTensor> bind(final MlaCacheWriteOperands<DeviceTensor> x) {
            AttentionOperands.check(spec(), x);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_mla_cache_write_bind,
                    (binding, call) -> args(spec(), x, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements MlaCacheWriteLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final MlaCacheWriteOperands<DeviceTensor> x) {
                AttentionOperands.check(spec(), x);
                rebind(hopper4j_h::h4j_mla_cache_write_rebind, (binding, call) -> args(spec(), x, binding, call));
            }
        }
    }
}
