package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.internal.AttentionOperands;

/** The reference of {@link MlaCacheWriteSpec}. */
final class HostMlaCacheWrite extends HostPlan<MlaCacheWriteSpec> implements MlaCacheWritePlan<HostTensor> {
    HostMlaCacheWrite(final MlaCacheWriteSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public MlaCacheWriteLaunch<HostTensor> bind(final MlaCacheWriteOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class Bound extends HostLaunch implements MlaCacheWriteLaunch<HostTensor> {
        @Override
        public void rebind(final MlaCacheWriteOperands<HostTensor> x) {
            AttentionOperands.check(spec(), x);
            bindTo(spec().maxTokens(), tokens -> LatentCacheWriting.write(spec(), x, tokens));
        }
    }
}
