package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.bindings.h4j_mla_decode_args;
import io.hopper4j.bindings.h4j_mla_decode_spec;
import io.hopper4j.bindings.h4j_mla_schedule_args;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.AttentionOperands;
import io.hopper4j.internal.Operands;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** MLA decode and its schedule in the terms of the C ABI. */
final class CudaMlaDecode {
    private static final String SCHEDULE = "mla_schedule";
    private static final int TMA = 16;
    private static final int WORKSPACE = 256;

    private CudaMlaDecode() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final MlaDecodeSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_mla_decode_spec.layout());
        h4j_mla_decode_spec.struct_size(s, (int) h4j_mla_decode_spec.sizeof());
        h4j_mla_decode_spec.heads(s, spec.heads());
        h4j_mla_decode_spec.s_q(s, spec.sQ());
        h4j_mla_decode_spec.page_size(s, spec.pageSize());
        h4j_mla_decode_spec.causal(s, spec.causal() ? 1 : 0);
        h4j_mla_decode_spec.window(s, spec.window());
        h4j_mla_decode_spec.sm_budget(s, spec.smBudget());
        h4j_mla_decode_spec.softmax_scale(s, spec.softmaxScale());
        h4j_mla_decode_spec.max_batch(s, spec.maxBatch());
        h4j_mla_decode_spec.max_length(s, spec.maxLength());
        h4j_mla_decode_spec.pages(s, spec.pages());
        h4j_mla_decode_spec.cache_format(s, spec.cacheFormat().code());
        return hopper4j_h.h4j_mla_decode_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment scheduleArgs(
            final DeviceTensor lengths,
            final @Nullable DeviceTensor qTokens,
            final DeviceTensor schedule,
            final Binding binding,
            final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_mla_schedule_args.layout());
        h4j_mla_schedule_args.struct_size(args, (int) h4j_mla_schedule_args.sizeof());
        h4j_mla_schedule_args.lengths(args, binding.address("lengths", lengths, Integer.BYTES));
        h4j_mla_schedule_args.q_tokens(args, binding.address("qTokens", qTokens, Integer.BYTES));
        h4j_mla_schedule_args.schedule(args, binding.address("schedule", schedule, WORKSPACE));
        return args;
    }

    private static MemorySegment decodeArgs(
            final MlaDecodeSpec spec, final MlaDecodeOperands<DeviceTensor> x, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_mla_decode_args.layout());
        h4j_mla_decode_args.struct_size(args, (int) h4j_mla_decode_args.sizeof());
        h4j_mla_decode_args.q(args, binding.address("q", x.q(), TMA));
        h4j_mla_decode_args.q_ld(args, AttentionOperands.rowStride(spec, x.q().spec()));
        final TensorSpec cache = x.cache().spec();
        h4j_mla_decode_args.cache(args, binding.address("cache", x.cache(), TMA));
        h4j_mla_decode_args.cache_ld(args, AttentionOperands.tokenStride(cache));
        h4j_mla_decode_args.cache_page_ld(args, AttentionOperands.pageStride(cache));
        h4j_mla_decode_args.block_table(args, binding.address("blockTable", x.blockTable(), Integer.BYTES));
        h4j_mla_decode_args.block_table_ld(
                args, AttentionOperands.tableStride(x.blockTable().spec()));
        h4j_mla_decode_args.lengths(args, binding.address("lengths", x.lengths(), Integer.BYTES));
        h4j_mla_decode_args.q_tokens(args, binding.address("qTokens", x.qTokens(), Integer.BYTES));
        h4j_mla_decode_args.sink(args, binding.address("sink", x.sink(), Float.BYTES));
        h4j_mla_decode_args.schedule(args, binding.address("schedule", x.schedule(), WORKSPACE));
        h4j_mla_decode_args.out(args, binding.address("out", x.out(), TMA));
        h4j_mla_decode_args.lse(args, binding.address("lse", x.lse(), Float.BYTES));
        final DeviceTensor workspace = x.workspace();
        if (workspace != null) {
            h4j_mla_decode_args.workspace(args, binding.address("workspace", workspace, WORKSPACE));
            h4j_mla_decode_args.workspace_bytes(args, workspace.spec().elements());
        }
        return args;
    }

    static final class Planned extends CudaPlan<MlaDecodeSpec> implements MlaDecodePlan<DeviceTensor> {
        Planned(final MlaDecodeSpec spec, final NativePlan made) {
            super(spec, made);
        }

        private void check(
                final DeviceTensor lengths, final @Nullable DeviceTensor qTokens, final DeviceTensor schedule) {
            AttentionOperands.checkSchedule(
                    spec(),
                    Operands.specOf(lengths, "lengths"),
                    Operands.specOf(qTokens),
                    Operands.specOf(schedule, "schedule"),
                    scheduleBytes());
        }

        private void check(final MlaDecodeOperands<DeviceTensor> operands) {
            AttentionOperands.check(spec(), operands, scheduleBytes(), workspaceBytes());
        }

        @Override
        public MlaScheduleLaunch<DeviceTensor> bindSchedule(
                final DeviceTensor lengths, final @Nullable DeviceTensor qTokens, final DeviceTensor schedule) {
            check(lengths, qTokens, schedule);
            return CudaLaunch.bind(
                    this,
                    SCHEDULE,
                    hopper4j_h::h4j_mla_schedule_bind,
                    (binding, call) -> scheduleArgs(lengths, qTokens, schedule, binding, call),
                    BoundSchedule::new);
        }

        @Override
        public MlaDecodeLaunch<DeviceTensor> bind(final MlaDecodeOperands<DeviceTensor> operands) {
            check(operands);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_mla_decode_bind,
                    (binding, call) -> decodeArgs(spec(), operands, binding, call),
                    Bound::new);
        }

        private final class BoundSchedule extends CudaLaunch implements MlaScheduleLaunch<DeviceTensor> {
            BoundSchedule(final NativeLaunch made) {
                super(Planned.this, SCHEDULE, spec().maxBatch(), made);
            }

            @Override
            public void rebind(
                    final DeviceTensor lengths, final @Nullable DeviceTensor qTokens, final DeviceTensor schedule) {
                check(lengths, qTokens, schedule);
                rebind(
                        hopper4j_h::h4j_mla_schedule_rebind,
                        (binding, call) -> scheduleArgs(lengths, qTokens, schedule, binding, call));
            }
        }

        private final class Bound extends CudaLaunch implements MlaDecodeLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxBatch(), made);
            }

            @Override
            public void rebind(final MlaDecodeOperands<DeviceTensor> operands) {
                check(operands);
                rebind(
                        hopper4j_h::h4j_mla_decode_rebind,
                        (binding, call) -> decodeArgs(spec(), operands, binding, call));
            }
        }
    }
}
