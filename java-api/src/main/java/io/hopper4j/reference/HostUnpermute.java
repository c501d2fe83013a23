package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;

/** The reference of {@link UnpermuteSpec}. */
final class HostUnpermute extends HostPlan<UnpermuteSpec> implements UnpermutePlan<HostTensor> {
    HostUnpermute(final UnpermuteSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public UnpermuteLaunch<HostTensor> bind(final UnpermuteOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class Bound extends HostLaunch implements UnpermuteLaunch<HostTensor> {
        @Override
        public void rebind(final UnpermuteOperands<HostTensor> x) {
            RoutingOperands.check(spec(), x);
            bindTo(spec().maxTokens(), rows -> ExpertRows.unpermute(spec(), x, rows));
        }
    }
}
