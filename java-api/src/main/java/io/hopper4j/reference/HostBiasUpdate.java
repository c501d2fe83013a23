package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.BiasUpdateLaunch;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;

/** The reference of {@link BiasUpdateSpec}. */
final class HostBiasUpdate extends HostPlan<BiasUpdateSpec> implements BiasUpdatePlan<HostTensor> {
    HostBiasUpdate(final BiasUpdateSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public BiasUpdateLaunch<HostTensor> bind(final BiasUpdateOperands<HostTensor> x) {
        final Bound launch = new Bound();
        launch.rebind(x);
        return launch;
    }

    private final class Bound extends HostLaunch implements BiasUpdateLaunch<HostTensor> {
        @Override
        public void rebind(final BiasUpdateOperands<HostTensor> x) {
            RoutingOperands.check(spec(), x);
            bindTo(1, rows -> ExpertGate.updateBias(spec(), x, rows));
        }
    }
}
