package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.gemm.GroupedGemmLaunch;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link GroupedGemmSpec}. */
final class HostGroupedGemm extends HostPlan<GroupedGemmSpec> implements GroupedGemmPlan<HostTensor> {
    HostGroupedGemm(final GroupedGemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public GroupedGemmLaunch<HostTensor> bind(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final HostTensor groupEnds,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, groupEnds, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements GroupedGemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most = GroupedOperands.check(
                    spec(), a, b, Operands.specOf(groupEnds, "groupEnds"), Operands.specOf(out, "out"));
            Operands.checkWorkspace(spec().operation(), Operands.specOf(workspace), workspaceBytes());
            bindTo(most, inUse -> {
                final RowGroups groups = RowGroups.consecutive("gemm_grouped: group_ends", groupEnds, inUse);
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(
                            Parts.rows(a, from, to), Parts.matrix(b, g), null, out.slice(0, from, to));
                }
                groups.requireGood();
            });
        }
    }
}
