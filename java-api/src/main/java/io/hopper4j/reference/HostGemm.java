package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link GemmSpec}. */
final class HostGemm extends HostPlan<GemmSpec> implements GemmPlan<HostTensor> {
    HostGemm(final GemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public GemmLaunch<HostTensor> bind(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, c, out, workspace);
        return launch;
    }

    @Override
    public GemmLaunch<HostTensor> bind(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final Scaled<HostTensor> out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements GemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Operands.check(spec(), a, b, Operands.specOf(c), Operands.specOf(out, "out"));
            Operands.checkWorkspace("gemm", Operands.specOf(workspace), workspaceBytes());
            bindTo(
                    m,
                    rows -> BlockScaledProduct.multiply(
                            Parts.firstRows(a, rows), b, Parts.firstRowsIfAny(c, rows), Parts.firstRows(out, rows)));
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor workspace) {
            final long m = Operands.check(spec(), a, b, out);
            Operands.checkWorkspace("gemm", Operands.specOf(workspace), workspaceBytes());
            bindTo(
                    m,
                    rows -> BlockScaledProduct.multiply(
                            Parts.firstRows(a, rows), b, Parts.firstRows(out, rows), spec().outScaleKind()));
        }
    }
}
