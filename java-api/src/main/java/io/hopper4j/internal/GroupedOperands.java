package io.hopper4j.internal;

import io.hopper4j.DType;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Shape;
import io.hopper4j.Support.Reason;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** What every implementation asks of the operands of the grouped FP8 products; see {@link Operands}. */
public final class GroupedOperands {
    private static final int ROW_BYTES = 16;
    private static final int MAX_GROUPS = 512;

    private GroupedOperands() {}

    // ---- specs ----

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final GroupedGemmSpec spec) {
        return unmetNeeds(spec.operation(), spec.groups(), spec.n(), "k", spec.k(), "ends", spec.endsDType());
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final MaskedGemmSpec spec) {
        return unmetNeeds(spec.operation(), spec.groups(), spec.n(), "k", spec.k(), "counts", spec.countsDType());
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final KGroupedGemmSpec spec) {
        return unmetNeeds(spec.operation(), spec.groups(), spec.n(), "maxK", spec.maxK(), "ends", spec.endsDType());
    }

    private static List<Reason> unmetNeeds(
            final String operation,
            final long groups,
            final long n,
            final String kName,
            final long k,
            final String extents,
            final DType type) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(reasons, groups <= MAX_GROUPS, operation + ": groups", groups, "at most " + MAX_GROUPS);
        Operands.need(reasons, n % 8 == 0, operation + ": n", n, "a multiple of 8");
        Operands.need(reasons, k % 16 == 0, operation + ": " + kName, k, "a multiple of 16");
        Operands.need(
                reasons,
                type == DType.I32 || type == DType.I64,
                operation + ": " + extents,
                "dtype " + type,
                "I32 or I64");
        return reasons;
    }

    // ---- operands ----

    /**
     * Checks the operands of groups of rows.
     *
     * @return M, the rows of all groups: as many as the spec allows, since kernels read ahead to that
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final GroupedGemmSpec spec,
            final Scaled<?> a,
            final Scaled<?> b,
            final TensorSpec groupEnds,
            final TensorSpec out) {
        final String operation = spec.operation();
        activations(operation, "a", a, Shape.of(spec.maxM(), spec.k()));
        weights(operation, b, spec.groups(), spec.n(), spec.k());
        extents(operation, "groupEnds", groupEnds, spec.endsDType(), spec.groups());
        matrices(operation, "out", out, DType.BF16, Shape.of(spec.maxM(), spec.n()), ROW_BYTES);
        return spec.maxM();
    }

    /**
     * Checks the operands of groups that each have rows of their own.
     *
     * @return the rows of each group: as many as the spec allows
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final MaskedGemmSpec spec,
            final Scaled<?> a,
            final Scaled<?> b,
            final TensorSpec counts,
            final TensorSpec out) {
        final String operation = spec.operation();
        activations(operation, "a", a, Shape.of(spec.groups(), spec.maxRows(), spec.k()));
        weights(operation, b, spec.groups(), spec.n(), spec.k());
        extents(operation, "counts", counts, spec.countsDType(), spec.groups());
        matrices(operation, "out", out, DType.BF16, Shape.of(spec.groups(), spec.maxRows(), spec.n()), ROW_BYTES);
        return spec.maxRows();
    }

    /**
     * Checks the operands of groups of K.
     *
     * @return K of all groups: as many as the spec allows
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final KGroupedGemmSpec spec,
            final Scaled<?> a,
            final Scaled<?> b,
            final TensorSpec groupEnds,
            final @Nullable TensorSpec c,
            final TensorSpec out) {
        final String operation = spec.operation();
        activations(operation, "a", a, Shape.of(spec.m(), spec.maxK()));
        activations(operation, "b", b, Shape.of(spec.n(), spec.maxK()));
        extents(operation, "groupEnds", groupEnds, spec.endsDType(), spec.groups());
        final Shape shape = Shape.of(spec.groups(), spec.m(), spec.n());
        if (spec.accumulate()) {
            if (c == null) {
                throw Arguments.bad(operation + ": c", "null", "a tensor, as the spec accumulates");
            }
            matrices(operation, "c", c, DType.F32, shape, ROW_BYTES);
        } else if (c != null) {
            throw Arguments.bad(operation + ": c", c, "null, as the spec does not accumulate");
        }
        matrices(operation, "out", out, DType.F32, shape, ROW_BYTES);
        return spec.maxK();
    }

    private static void extents(
            final String operation, final String name, final TensorSpec spec, final DType dtype, final long groups) {
        if (spec.dtype() != dtype || !spec.shape().equals(Shape.of(groups)) || !spec.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, spec, "contiguous " + dtype + " [" + groups + "]");
        }
    }

    private static void activations(
            final String operation, final String name, final Scaled<?> scaled, final Shape shape) {
        scaling(operation, name, scaled, Scaling.ACTIVATION_1X128);
        matrices(operation, name + ".values", scaled.values().spec(), DType.F8_E4M3, shape, ROW_BYTES);
        final TensorSpec scales = scaled.scales().spec();
        final int dim = scales.rank() - 2;
        final long rows = scales.shape().size(dim);
        final long blocks = scales.shape().size(dim + 1);
        if (scales.elements() == 0) {
            return;
        }
        final long ld = scales.strides().step(dim + 1);
        boolean fits = rows <= 1 || scales.strides().step(dim) == 1;
        fits &= blocks <= 1 || (ld >= rows && ld % 4 == 0);
        if (dim == 1 && scales.shape().size(0) > 1) {
            final long group = scales.strides().step(0);
            fits &= group >= blocks * scaleStride(scales) && group % 4 == 0;
        }
        if (!fits) {
            throw Arguments.bad(
                    operation + ": " + name + ".scales",
                    "strides " + scales.strides(),
                    (dim == 1 ? "[groups apart,1,ld]" : "[1,ld]") + " with ld at least " + rows
                            + ", all but the rows' multiples of 4");
        }
    }

    private static void weights(
            final String operation, final Scaled<?> b, final long groups, final long n, final long k) {
        scaling(operation, "b", b, Scaling.WEIGHT_128X128);
        matrices(operation, "b.values", b.values().spec(), DType.F8_E4M3, Shape.of(groups, n, k), ROW_BYTES);
        matrices(operation, "b.scales", b.scales().spec(), DType.F32, b.scales().shape(), Float.BYTES);
    }

    private static void scaling(
            final String operation, final String name, final Scaled<?> scaled, final Scaling scaling) {
        Objects.requireNonNull(scaled, name);
        if (!scaled.scaling().equals(scaling)) {
            throw Arguments.bad(operation + ": " + name + ".scaling", scaled.scaling(), scaling);
        }
    }

    /** Type, shape, packed rows, and rows and matrices that do not overlap and start at a multiple of so many bytes. */
    private static void matrices(
            final String operation,
            final String name,
            final TensorSpec spec,
            final DType dtype,
            final Shape shape,
            final int bytes) {
        if (spec.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + spec.dtype(), dtype);
        }
        if (!spec.shape().equals(shape)) {
            throw Arguments.bad(operation + ": " + name, "shape " + spec.shape(), shape);
        }
        if (spec.elements() == 0) {
            return;
        }
        final int unit = bytes / dtype.size();
        final int last = shape.rank() - 1;
        boolean fits = shape.size(last) <= 1 || spec.strides().step(last) == 1;
        long inside = shape.size(last);
        for (int dim = last - 1; dim >= 0; dim--) {
            final long size = shape.size(dim);
            final long step = size <= 1 ? roundUp(inside, unit) : spec.strides().step(dim);
            fits &= step >= inside && step % unit == 0;
            inside = Arguments.multiply(operation + ": " + name, size, step);
        }
        if (!fits) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "strides " + spec.strides(),
                    "packed rows, and rows" + (last == 2 ? " and groups" : "") + " apart by multiples of " + unit
                            + " that do not overlap");
        }
    }

    private static long roundUp(final long value, final int unit) {
        return Math.ceilDiv(value, unit) * unit;
    }

    // ---- strides ----

    /** {@return elements between the rows of checked matrices} */
    public static long rowStride(final TensorSpec matrices, final int bytes) {
        final int dim = matrices.rank() - 2;
        return matrices.elements() == 0 || matrices.shape().size(dim) <= 1
                ? roundUp(
                        matrices.shape().size(dim + 1), bytes / matrices.dtype().size())
                : matrices.strides().step(dim);
    }

    /** {@return elements between checked matrices} */
    public static long groupStride(final TensorSpec matrices, final int bytes) {
        return matrices.elements() == 0 || matrices.shape().size(0) <= 1
                ? matrices.shape().size(1) * rowStride(matrices, bytes)
                : matrices.strides().step(0);
    }

    /** {@return elements between the columns of checked activation scales} */
    public static long scaleStride(final TensorSpec scales) {
        final int dim = scales.rank() - 2;
        return scales.elements() == 0 || scales.shape().size(dim + 1) <= 1
                ? Math.max(4, roundUp(scales.shape().size(dim), 4))
                : scales.strides().step(dim + 1);
    }

    /** {@return elements between the checked activation scales of the matrices of a stack} */
    public static long scaleGroupStride(final TensorSpec scales) {
        return scales.elements() == 0 || scales.shape().size(0) <= 1
                ? scales.shape().size(2) * scaleStride(scales)
                : scales.strides().step(0);
    }
}
