package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;

/** The reference of {@link GateSpec}. */
final class HostGate extends HostPlan<GateSpec> implements GatePlan<HostTensor> {
    HostGate(final GateSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public GateLaunch<HostTensor> bind(final GateOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class Bound extends HostLaunch implements GateLaunch<HostTensor> {
        @Override
        public void rebind(final GateOperands<HostTensor> x) {
            RoutingOperands.check(spec(), x);
            bindTo(spec().maxTokens(), rows -> ExpertGate.run(spec(), x, rows));
        }
    }
}
