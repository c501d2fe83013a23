package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import org.jspecify.annotations.Nullable;

/** The reference of {@link RmsNormQuantizeSpec}. */
final class HostRmsNormQuantize extends HostPlan<RmsNormQuantizeSpec> implements RmsNormQuantizePlan<HostTensor> {
    HostRmsNormQuantize(final RmsNormQuantizeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public RmsNormQuantizeLaunch<HostTensor> bind(
            final HostTensor in,
            final @Nullable HostTensor residual,
            final HostTensor weight,
            final Scaled<HostTensor> out,
            final @Nullable HostTensor normalized) {
        final Bound launch = new Bound();
        launch.rebind(in, residual, weight, out, normalized);
        return launch;
    }

    private final class Bound extends HostLaunch implements RmsNormQuantizeLaunch<HostTensor> {
        @Override
        public void rebind(
                final HostTensor in,
                final @Nullable HostTensor residual,
                final HostTensor weight,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor normalized) {
            Operands.check(
                    spec(),
                    Operands.specOf(in, "in"),
                    Operands.specOf(residual),
                    Operands.specOf(weight, "weight"),
                    out,
                    Operands.specOf(normalized));
            bindTo(
                    spec().maxRows(),
                    rows -> FusedQuantization.rmsNormQuantize(
                            spec(),
                            Parts.firstRows(in, rows),
                            Parts.firstRowsIfAny(residual, rows),
                            weight,
                            Parts.firstRows(out, rows),
                            Parts.firstRowsIfAny(normalized, rows)));
        }
    }
}
