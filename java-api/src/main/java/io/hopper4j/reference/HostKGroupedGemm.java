package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.gemm.KGroupedGemmLaunch;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link KGroupedGemmSpec}. */
final class HostKGroupedGemm extends HostPlan<KGroupedGemmSpec> implements KGroupedGemmPlan<HostTensor> {
    HostKGroupedGemm(final KGroupedGemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public KGroupedGemmLaunch<HostTensor> bind(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final HostTensor groupEnds,
            final @Nullable HostTensor c,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, groupEnds, c, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements KGroupedGemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most = GroupedOperands.check(
                    spec(),
                    a,
                    b,
                    Operands.specOf(groupEnds, "groupEnds"),
                    Operands.specOf(c),
                    Operands.specOf(out, "out"));
            Operands.checkWorkspace(spec().operation(), Operands.specOf(workspace), workspaceBytes());
            bindTo(most, inUse -> {
                if (inUse == 0) {
                    return;
                }
                final RowGroups groups =
                        RowGroups.blocks("gemm_k_grouped: group_ends", groupEnds, inUse, spec().maxK());
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(
                            Parts.columns(a, from, to),
                            Parts.columns(b, from, to),
                            c == null ? null : c.select(0, g),
                            out.select(0, g));
                }
                groups.requireGood();
            });
        }
    }
}
