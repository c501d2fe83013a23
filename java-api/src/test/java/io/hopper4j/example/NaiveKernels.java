package io.hopper4j.example;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.contract.ForwardingKernels;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.reference.ReferenceKernels;
import org.jspecify.annotations.Nullable;

/** An FP8 product of someone's own; all else, and the checks of operands, are left to the reference. */
final class NaiveKernels extends ForwardingKernels<HostTensor> {
    private final Product product;

    /** A quantised matrix in plain arrays. */
    static final class Numbers {
        private final float[] values;
        private final float[] scales;
        private final int cols;
        private final int rowsPerScale;

        Numbers(final Scaled<HostTensor> matrix, final int rowsPerScale) {
            this.values = matrix.values().toFloats();
            this.scales = matrix.scales().toFloats();
            this.cols = (int) matrix.cols();
            this.rowsPerScale = rowsPerScale;
        }

        float at(final int row, final int col) {
            return values[row * cols + col] * scales[row / rowsPerScale * Math.ceilDiv(cols, 128) + col / 128];
        }
    }

    /** One element of a product without C. */
    @FunctionalInterface
    interface Product {
        float at(Numbers a, Numbers b, int m, int n);
    }

    NaiveKernels(final Product product) {
        super(Kernels.reference());
        this.product = product;
    }

    /** As it should be. */
    static float product(final Numbers a, final Numbers b, final int m, final int n) {
        return product(a, b, m, n, a.cols);
    }

    /** The planted fault: what is left of K after the last whole block is forgotten. */
    static float productOfWholeBlocks(final Numbers a, final Numbers b, final int m, final int n) {
        return product(a, b, m, n, a.cols / 128 * 128);
    }

    private static float product(final Numbers a, final Numbers b, final int m, final int n, final int k) {
        float sum = 0;
        for (int i = 0; i < k; i++) {
            sum += a.at(m, i) * b.at(n, i);
        }
        return sum;
    }

    @Override
    public GemmPlan<HostTensor> plan(final GemmSpec spec) {
        return new NaivePlan(super.plan(spec));
    }

    private final class NaivePlan implements GemmPlan<HostTensor> {
        private final GemmPlan<HostTensor> checked;

        NaivePlan(final GemmPlan<HostTensor> checked) {
            this.checked = checked;
        }

        @Override
        public GemmSpec spec() {
            return checked.spec();
        }

        @Override
        public long workspaceBytes() {
            return checked.workspaceBytes();
        }

        @Override
        public String kernel() {
            return "naive";
        }

        @Override
        public String explanation() {
            return "one loop, float accumulators";
        }

        @Override
        public GemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new NaiveLaunch(checked.bind(a, b, c, out, workspace), a, b, c, out);
        }

        /** Quantised output is left to the reference. */
        @Override
        public GemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor workspace) {
            return checked.bind(a, b, out, workspace);
        }

        @Override
        public void close() {
            checked.close();
        }
    }

    private final class NaiveLaunch implements GemmLaunch<HostTensor> {
        private final GemmLaunch<HostTensor> checked;
        private Scaled<HostTensor> a;
        private Scaled<HostTensor> b;
        private @Nullable HostTensor c;
        private HostTensor out;

        NaiveLaunch(
                final GemmLaunch<HostTensor> checked,
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out) {
            this.checked = checked;
            this.a = a;
            this.b = b;
            this.c = c;
            this.out = out;
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> newA,
                final Scaled<HostTensor> newB,
                final @Nullable HostTensor newC,
                final HostTensor newOut,
                final @Nullable HostTensor workspace) {
            checked.rebind(newA, newB, newC, newOut, workspace);
            a = newA;
            b = newB;
            c = newC;
            out = newOut;
        }

        /** Refused: launches of quantised output are not of this class. */
        @Override
        public void rebind(
                final Scaled<HostTensor> newA,
                final Scaled<HostTensor> newB,
                final Scaled<HostTensor> newOut,
                final @Nullable HostTensor workspace) {
            checked.rebind(newA, newB, newOut, workspace);
        }

        @Override
        public void launch(final Stream on) {
            launch(on, out.shape().size(0));
        }

        @Override
        public void launch(final Stream on, final long rows) {
            // No rows in use: nothing is computed, all else is as always.
            checked.launch(on, rows >= 0 && rows <= out.shape().size(0) ? 0 : rows);
            final Scaled<HostTensor> x = a;
            final Scaled<HostTensor> y = b;
            final HostTensor addend = c;
            final HostTensor result = out;
            ReferenceKernels.run(on, () -> {
                final Numbers left = new Numbers(x, 1);
                final Numbers right = new Numbers(y, 128);
                for (int m = 0; m < rows; m++) {
                    for (int n = 0; n < y.rows(); n++) {
                        final float sum = product.at(left, right, m, n);
                        result.setFloat(addend == null ? sum : sum + addend.getFloat(m, n), m, n);
                    }
                }
            });
        }

        @Override
        public void close() {
            checked.close();
        }
    }
}
