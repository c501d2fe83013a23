package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.internal.AttentionOperands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link MlaDecodeSpec}. */
final class HostMlaDecode extends HostPlan<MlaDecodeSpec> implements MlaDecodePlan<HostTensor> {
    HostMlaDecode(final MlaDecodeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public long scheduleBytes() {
        return StepRecord.bytes(spec().maxBatch());
    }

    @Override
    public MlaScheduleLaunch<HostTensor> bindSchedule(
            final HostTensor lengths, final @Nullable HostTensor qTokens, final HostTensor schedule) {
        final BoundSchedule launch = new BoundSchedule();
        launch.rebind(lengths, qTokens, schedule);
        return launch;
    }

    @Override
    public MlaDecodeLaunch<HostTensor> bind(final MlaDecodeOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class BoundSchedule extends HostLaunch implements MlaScheduleLaunch<HostTensor> {
        BoundSchedule() {
            super("mla_schedule");
        }

        @Override
        public void rebind(final HostTensor lengths, final @Nullable HostTensor qTokens, final HostTensor schedule) {
            AttentionOperands.checkSchedule(
                    spec(),
                    Operands.specOf(lengths, "lengths"),
                    Operands.specOf(qTokens),
                    Operands.specOf(schedule, "schedule"),
                    scheduleBytes());
            bindTo(spec().maxBatch(), batch -> {
                StepRecord.write(lengths, qTokens, batch, schedule);
                StepRecord.requireBounds(spec(), lengths, qTokens, batch);
            });
        }
    }

    private final class Bound extends HostLaunch implements MlaDecodeLaunch<HostTensor> {
        @Override
        public void rebind(final MlaDecodeOperands<HostTensor> x) {
            AttentionOperands.check(spec(), x, scheduleBytes(), workspaceBytes());
            bindTo(spec().maxBatch(), batch -> {
                StepRecord.require(x.lengths(), x.qTokens(), batch, x.schedule());
                PagedLatentAttention.decode(spec(), x, batch);
            });
        }
    }
}
