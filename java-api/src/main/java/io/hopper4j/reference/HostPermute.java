package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;

/** The reference of {@link PermuteSpec}. */
final class HostPermute extends HostPlan<PermuteSpec> implements PermutePlan<HostTensor> {
    HostPermute(final PermuteSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public PermuteLaunch<HostTensor> bind(final PermuteOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class Bound extends HostLaunch implements PermuteLaunch<HostTensor> {
        @Override
        public void rebind(final PermuteOperands<HostTensor> x) {
            RoutingOperands.check(spec(), x);
            bindTo(spec().maxTokens(), rows -> ExpertRows.permute(spec(), x, rows));
        }
    }
}
