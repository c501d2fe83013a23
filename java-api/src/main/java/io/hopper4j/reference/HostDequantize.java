package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;

/** The reference of {@link DequantizeSpec}. */
final class HostDequantize extends HostPlan<DequantizeSpec> implements DequantizePlan<HostTensor> {
    HostDequantize(final DequantizeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public DequantizeLaunch<HostTensor> bind(final Scaled<HostTensor> in, final HostTensor out) {
        final Bound launch = new Bound();
        launch.rebind(in, out);
        return launch;
    }

    private final class Bound extends HostLaunch implements DequantizeLaunch<HostTensor> {
        @Override
        public void rebind(final Scaled<HostTensor> in, final HostTensor out) {
            bindTo(
                    Operands.check(spec(), in, Operands.specOf(out, "out")),
                    rows -> BlockQuantization.dequantize(Parts.firstRows(in, rows), Parts.firstRows(out, rows)));
        }
    }
}
