package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.gemm.Bf16GroupedGemmLaunch;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.internal.Bf16Operands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link Bf16GroupedGemmSpec}. */
final class HostBf16GroupedGemm extends HostPlan<Bf16GroupedGemmSpec> implements Bf16GroupedGemmPlan<HostTensor> {
    HostBf16GroupedGemm(final Bf16GroupedGemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public Bf16GroupedGemmLaunch<HostTensor> bind(
            final HostTensor a,
            final HostTensor b,
            final HostTensor groupEnds,
            final @Nullable HostTensor c,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, groupEnds, c, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements Bf16GroupedGemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final HostTensor a,
                final HostTensor b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Bf16Operands.check(
                    spec(),
                    Operands.specOf(a, "a"),
                    Operands.specOf(b, "b"),
                    Operands.specOf(groupEnds, "groupEnds"),
                    Operands.specOf(c),
                    Operands.specOf(out, "out"));
            Operands.checkWorkspace(spec().operation(), Operands.specOf(workspace), workspaceBytes());
            bindTo(m, rows -> {
                final RowGroups groups = RowGroups.consecutive("gemm_bf16_grouped: group_ends", groupEnds, rows);
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    MatrixProduct.multiply(
                            Parts.matrix(a, 0).slice(0, from, to),
                            Parts.matrix(b, g),
                            c == null ? null : Parts.matrix(c, 0).slice(0, from, to),
                            Parts.matrix(out, 0).slice(0, from, to));
                }
                groups.requireGood();
            });
        }
    }
}
