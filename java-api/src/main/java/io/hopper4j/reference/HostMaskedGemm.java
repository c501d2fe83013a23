package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.gemm.MaskedGemmLaunch;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link MaskedGemmSpec}. */
final class HostMaskedGemm extends HostPlan<MaskedGemmSpec> implements MaskedGemmPlan<HostTensor> {
    HostMaskedGemm(final MaskedGemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public MaskedGemmLaunch<HostTensor> bind(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final HostTensor counts,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, counts, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements MaskedGemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor counts,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most =
                    GroupedOperands.check(spec(), a, b, Operands.specOf(counts, "counts"), Operands.specOf(out, "out"));
            Operands.checkWorkspace(spec().operation(), Operands.specOf(workspace), workspaceBytes());
            bindTo(most, inUse -> {
                final RowGroups groups = RowGroups.separate("gemm_masked: counts", counts, inUse);
                for (int g = 0; g < groups.count(); g++) {
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(
                            Parts.rows(Parts.matrix(a, g), 0, to),
                            Parts.matrix(b, g),
                            null,
                            Parts.firstRows(Parts.matrix(out, g), to));
                }
                groups.requireGood();
            });
        }
    }
}
