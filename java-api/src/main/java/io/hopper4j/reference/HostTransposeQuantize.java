package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.Operands;
import io.hopper4j.quant.TransposeQuantizeLaunch;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;

/** The reference of {@link TransposeQuantizeSpec}. */
final class HostTransposeQuantize extends HostPlan<TransposeQuantizeSpec> implements TransposeQuantizePlan<HostTensor> {
    HostTransposeQuantize(final TransposeQuantizeSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public TransposeQuantizeLaunch<HostTensor> bind(final HostTensor in, final Scaled<HostTensor> out) {
        final Bound launch = new Bound();
        launch.rebind(in, out);
        return launch;
    }

    private final class Bound extends HostLaunch implements TransposeQuantizeLaunch<HostTensor> {
        @Override
        public void rebind(final HostTensor in, final Scaled<HostTensor> out) {
            Operands.check(spec(), Operands.specOf(in, "in"), out);
            bindTo(
                    spec().maxRows(),
                    rows -> FusedQuantization.transposeQuantize(
                            Parts.firstRows(in, rows), Parts.firstCols(out, rows), spec().scaleKind()));
        }
    }
}
