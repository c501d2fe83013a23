package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import org.jspecify.annotations.Nullable;

/** The reference of {@link SwigluQuantizeSpec}. */
final class HostSwigluQuantize extends HostPlan<SwigluQuantizeSpec> implements SwigluQuantizePlan<HostTensor> {
    HostSwigluQuantize(final SwigluQuantizeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public SwigluQuantizeLaunch<HostTensor> bind(
            final HostTensor in,
            final @Nullable HostTensor weights,
            final @Nullable HostTensor rowCounts,
            final Scaled<HostTensor> out) {
        final Bound launch = new Bound();
        launch.rebind(in, weights, rowCounts, out);
        return launch;
    }

    private final class Bound extends HostLaunch implements SwigluQuantizeLaunch<HostTensor> {
        @Override
        public void rebind(
                final HostTensor in,
                final @Nullable HostTensor weights,
                final @Nullable HostTensor rowCounts,
                final Scaled<HostTensor> out) {
            Operands.check(
                    spec(), Operands.specOf(in, "in"), Operands.specOf(weights), Operands.specOf(rowCounts), out);
            bindTo(
                    spec().maxRows(),
                    used -> FusedQuantization.swigluQuantize(spec(), in, weights, rowCounts, out, used));
        }
    }
}
