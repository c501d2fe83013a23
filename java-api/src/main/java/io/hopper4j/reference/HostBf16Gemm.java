package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.internal.Bf16Operands;
import io.hopper4j.internal.Operands;
import org.jspecify.annotations.Nullable;

/** The reference of {@link Bf16GemmSpec}. */
final class HostBf16Gemm extends HostPlan<Bf16GemmSpec> implements Bf16GemmPlan<HostTensor> {
    HostBf16Gemm(final Bf16GemmSpec spec, final Lifetime kernels) {
        super(spec, kernels);
    }

    @Override
    public Bf16GemmLaunch<HostTensor> bind(
            final HostTensor a,
            final HostTensor b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final @Nullable HostTensor workspace) {
        final Bound launch = new Bound();
        launch.rebind(a, b, c, out, workspace);
        return launch;
    }

    private final class Bound extends HostLaunch implements Bf16GemmLaunch<HostTensor> {
        @Override
        public void rebind(
                final HostTensor a,
                final HostTensor b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Bf16Operands.check(
                    spec(),
                    Operands.specOf(a, "a"),
                    Operands.specOf(b, "b"),
                    Operands.specOf(c),
                    Operands.specOf(out, "out"));
            Operands.checkWorkspace(spec().operation(), Operands.specOf(workspace), workspaceBytes());
            bindTo(m, rows -> {
                for (long z = 0; z < spec().batch(); z++) {
                    MatrixProduct.multiply(
                            Parts.firstRows(Parts.matrix(a, z), rows),
                            Parts.matrix(b, z),
                            c == null ? null : Parts.firstRows(Parts.matrix(c, z), rows),
                            Parts.firstRows(Parts.matrix(out, z), rows));
                }
            });
        }
    }
}
