package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.internal.AttentionOperands;

/** The reference of {@link MlaMergeSpec}. */
final class HostMlaMerge extends HostPlan<MlaMergeSpec> implements MlaMergePlan<HostTensor> {
    HostMlaMerge(final MlaMergeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public MlaMergeLaunch<HostTensor> bind(
            final MlaResult<HostTensor> a, final MlaResult<HostTensor> b, final MlaResult<HostTensor> merged) {
        final Bound launch = new Bound();
        launch.rebind(a, b, merged);
        return launch;
    }

    private final class Bound extends HostLaunch implements MlaMergeLaunch<HostTensor> {
        @Override
        public void rebind(
                final MlaResult<HostTensor> a, final MlaResult<HostTensor> b, final MlaResult<HostTensor> merged) {
            AttentionOperands.check(spec(), a, b, merged);
            bindTo(
                    spec().maxBatch(),
                    batch -> MlaMerge.merge(
                            Parts.firstRows(a.out(), batch),
                            Parts.firstRows(a.lse(), batch),
                            Parts.firstRows(b.out(), batch),
                            Parts.firstRows(b.lse(), batch),
                            Parts.firstRows(merged.out(), batch),
                            Parts.firstRows(merged.lse(), batch)));
        }
    }
}
