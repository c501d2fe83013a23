package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;

/** The reference of {@link QuantizeSpec}. */
final class HostQuantize extends HostPlan<QuantizeSpec> implements QuantizePlan<HostTensor> {
    HostQuantize(final QuantizeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public QuantizeLaunch<HostTensor> bind(final HostTensor in, final Scaled<HostTensor> out) {
        final Bound launch = new Bound();
        launch.rebind(in, out);
        return launch;
    }

    private final class Bound extends HostLaunch implements QuantizeLaunch<HostTensor> {
        @Override
        public void rebind(final HostTensor in, final Scaled<HostTensor> out) {
            bindTo(
                    Operands.check(spec(), Operands.specOf(in, "in"), out),
                    rows -> BlockQuantization.quantize(
                            Parts.firstRows(in, rows), Parts.firstRows(out, rows), spec().scaleKind()));
        }
    }
}
