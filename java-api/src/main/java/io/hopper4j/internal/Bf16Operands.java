package io.hopper4j.internal;

import io.hopper4j.DType;
import io.hopper4j.Shape;
import io.hopper4j.Support.Reason;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What {@link Operands} is for matrices with scales, for BF16 matrices and batches of them. */
public final class Bf16Operands {
    /** Batches and groups are 16 bits of a launch. */
    private static final int MOST_MATRICES = 65535;

    private static final int UNIT_BYTES = 16;

    private Bf16Operands() {}

    // ---- specs ----

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final Bf16GemmSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(
                reasons, spec.batch() <= MOST_MATRICES, "gemm_bf16: batch", spec.batch(), "at most " + MOST_MATRICES);
        sizes(reasons, spec.operation(), spec.n(), spec.k(), spec.outDType());
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final Bf16GroupedGemmSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(
                reasons,
                spec.groups() <= MOST_MATRICES,
                "gemm_bf16_grouped: groups",
                spec.groups(),
                "at most " + MOST_MATRICES);
        sizes(reasons, spec.operation(), spec.n(), spec.k(), spec.outDType());
        return reasons;
    }

    /**
     * {@return the spec that operands of an eager product ask for}
     *
     * @throws IllegalArgumentException if they are no matrices or batches of matrices
     */
    public static Bf16GemmSpec specOf(
            final TensorSpec a, final TensorSpec b, final boolean accumulate, final DType outDType) {
        requireMatrices("a", a);
        requireMatrices("b", b);
        final int rows = a.rank() - 2;
        return Bf16GemmSpec.batched(
                        rows == 0 ? 1 : a.shape().size(0),
                        a.shape().size(rows),
                        b.shape().size(b.rank() - 2),
                        a.shape().size(rows + 1))
                .withOut(outDType)
                .withAccumulate(accumulate);
    }

    private static void requireMatrices(final String name, final TensorSpec spec) {
        if (spec.rank() != 2 && spec.rank() != 3) {
            throw Arguments.bad("gemm_bf16: " + name, "shape " + spec.shape(), "2 or 3 dimensions");
        }
    }

    private static void sizes(
            final List<Reason> reasons, final String operation, final long n, final long k, final DType out) {
        Operands.need(reasons, n % 8 == 0, operation + ": n", n, "a multiple of 8");
        Operands.need(reasons, k % 8 == 0, operation + ": k", k, "a multiple of 8");
        Operands.need(
                reasons, out == DType.BF16 || out == DType.F32, operation + ": out", "dtype " + out, "BF16 or F32");
    }

    // ---- operands ----

    /**
     * Checks the operands of products.
     *
     * @return M, the rows of each product: as many as the spec allows, since kernels read ahead to that
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final Bf16GemmSpec spec,
            final TensorSpec a,
            final TensorSpec b,
            final @Nullable TensorSpec c,
            final TensorSpec out) {
        final String operation = spec.operation();
        matrices(operation, "a", a, DType.BF16, spec.batch(), spec.maxM(), spec.k());
        matrices(operation, "b", b, DType.BF16, spec.batch(), spec.n(), spec.k());
        addend(operation, c, spec.accumulate(), spec.outDType(), spec.batch(), spec.maxM(), spec.n());
        matrices(operation, "out", out, spec.outDType(), spec.batch(), spec.maxM(), spec.n());
        return spec.maxM();
    }

    /**
     * Checks the operands of groups.
     *
     * @return M, the rows of all groups: as many as the spec allows, since kernels read ahead to that
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final Bf16GroupedGemmSpec spec,
            final TensorSpec a,
            final TensorSpec b,
            final TensorSpec groupEnds,
            final @Nullable TensorSpec c,
            final TensorSpec out) {
        final String operation = spec.operation();
        matrices(operation, "a", a, DType.BF16, 1, spec.maxM(), spec.k());
        matrices(operation, "b", b, DType.BF16, spec.groups(), spec.n(), spec.k());
        if (groupEnds.dtype() != DType.I32
                || !groupEnds.shape().equals(Shape.of(spec.groups()))
                || !groupEnds.isContiguous()) {
            throw Arguments.bad(operation + ": groupEnds", groupEnds, "contiguous I32 [" + spec.groups() + "]");
        }
        addend(operation, c, spec.accumulate(), spec.outDType(), 1, spec.maxM(), spec.n());
        matrices(operation, "out", out, spec.outDType(), 1, spec.maxM(), spec.n());
        return spec.maxM();
    }

    private static void addend(
            final String operation,
            final @Nullable TensorSpec c,
            final boolean accumulate,
            final DType dtype,
            final long batch,
            final long rows,
            final long cols) {
        if (accumulate && c == null) {
            throw Arguments.bad(operation + ": c", "null", "a tensor, as the spec accumulates");
        }
        if (!accumulate && c != null) {
            throw Arguments.bad(operation + ": c", c, "null, as the spec does not accumulate");
        }
        if (c != null) {
            matrices(operation, "c", c, dtype, batch, rows, cols);
        }
    }

    /** Type, shape, packed rows, and rows and matrices that start at a multiple of 16 bytes. */
    private static void matrices(
            final String operation,
            final String name,
            final TensorSpec spec,
            final DType dtype,
            final long batch,
            final long rows,
            final long cols) {
        if (spec.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + spec.dtype(), dtype);
        }
        final Shape needed = Shape.of(batch, rows, cols);
        if (!spec.shape().equals(needed) && !(batch == 1 && spec.shape().equals(Shape.of(rows, cols)))) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "shape " + spec.shape(),
                    batch == 1 ? needed + " without its first dimension or with it" : needed);
        }
        if (spec.elements() == 0) {
            return;
        }
        final int unit = UNIT_BYTES / dtype.size();
        boolean fits = cols <= 1 || spec.strides().step(spec.rank() - 1) == 1;
        for (int dim = 0; dim < spec.rank() - 1; dim++) {
            final long step = spec.strides().step(dim);
            fits &= spec.shape().size(dim) <= 1 || (step >= cols && step % unit == 0);
        }
        if (!fits) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "strides " + spec.strides(),
                    "packed rows, all else at least " + cols + " apart, by a multiple of " + unit);
        }
    }

    // ---- strides ----

    /** {@return elements between the rows of checked matrices} */
    public static long rowStride(final TensorSpec matrices) {
        final int dim = matrices.rank() - 2;
        final int unit = UNIT_BYTES / matrices.dtype().size();
        return matrices.shape().size(dim) <= 1
                ? Math.ceilDiv(matrices.shape().size(dim + 1), unit) * unit
                : matrices.strides().step(dim);
    }

    /** {@return elements between checked matrices; 0 where there is one} */
    public static long matrixStride(final TensorSpec matrices) {
        return matrices.rank() < 3 || matrices.shape().size(0) <= 1
                ? 0
                : matrices.strides().step(0);
    }
}
