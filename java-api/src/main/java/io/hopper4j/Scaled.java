package io.hopper4j;

import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * A quantised matrix: FP8 values and the scales that give them back their size. The number meant by an element is
 * {@code values[i,j] * scales[i / blockRows, j / blockCols]}. Or a stack of such matrices, with one more dimension in front on both sides.
 *
 * <p>Scales are F32; power-of-two scales are F32 values that UE8M0 could hold. Their shape is {@code [ceil(rows/blockRows),
 * ceil(cols/blockCols)]}, or {@code [1]} per tensor. The kernels want the scales of 1x128 blocks column by column: {@link
 * #activationScaleSpec} gives that layout.
 *
 * @param <T> host or device tensors
 * @param values {@code [rows, cols]} or {@code [groups, rows, cols]}, F8_E4M3 or F8_E5M2
 * @param scales F32, one a block
 * @param scaling the blocks
 */
public record Scaled<T extends Tensor>(T values, T scales, Scaling scaling) {
    /**
     * Checks that the parts fit.
     *
     * @throws IllegalArgumentException if a type, rank or shape does not fit
     */
    public Scaled {
        Objects.requireNonNull(values, "values");
        Objects.requireNonNull(scales, "scales");
        Objects.requireNonNull(scaling, "scaling");
        final TensorSpec v = values.spec();
        Arguments.require(
                v.dtype() == DType.F8_E4M3 || v.dtype() == DType.F8_E5M2,
                "scaled: values",
                "dtype " + v.dtype(),
                "F8_E4M3 or F8_E5M2");
        Arguments.require(v.rank() == 2 || v.rank() == 3, "scaled: values", "shape " + v.shape(), "rank 2 or 3");
        Arguments.require(scales.dtype() == DType.F32, "scaled: scales", "dtype " + scales.dtype(), "F32");
        switch (scaling) {
            case Scaling.PerTensor _ ->
                Arguments.require(
                        scales.shape().equals(Shape.of(1)),
                        "scaled: scales",
                        "shape " + scales.shape(),
                        "[1], one scale");
            case Scaling.Block block -> {
                final boolean stack = v.rank() == 3;
                final long rows = v.shape().size(v.rank() - 2);
                final long cols = v.shape().size(v.rank() - 1);
                final Shape matrix = block.scaleShape(rows, cols);
                final Shape need = stack ? Shape.of(v.shape().size(0), matrix.size(0), matrix.size(1)) : matrix;
                Arguments.require(
                        scales.shape().equals(need),
                        "scaled: scales",
                        "shape " + scales.shape(),
                        need + " = " + (stack ? v.shape().size(0) + " x " : "") + times(rows, block.rows()) + " x "
                                + times(cols, block.cols()));
            }
        }
    }

    private static String times(final long size, final int block) {
        return block == 1 ? Long.toString(size) : "ceil(" + size + "/" + block + ")";
    }

    /**
     * {@return a quantised matrix with one scale for each row and 128 columns}
     *
     * @param <T> host or device tensors
     * @param values {@code [M, K]}
     * @param scales {@code [M, ceil(K/128)]}
     */
    public static <T extends Tensor> Scaled<T> activation(final T values, final T scales) {
        return new Scaled<>(values, scales, Scaling.ACTIVATION_1X128);
    }

    /**
     * {@return a quantised matrix with one scale for each block of 128 x 128}
     *
     * @param <T> host or device tensors
     * @param values {@code [N, K]}
     * @param scales {@code [ceil(N/128), ceil(K/128)]}
     */
    public static <T extends Tensor> Scaled<T> weight(final T values, final T scales) {
        return new Scaled<>(values, scales, Scaling.WEIGHT_128X128);
    }

    /**
     * {@return the layout of 1x128 scales that the kernels read: shape {@code [M, ceil(K/128)]}, element (m, kb) at {@code kb * ld + m}
     * with {@code ld} = M rounded up to a multiple of 4, so that a column of scales is a TMA row of whole 16-byte units}
     *
     * @param m rows of the matrix
     * @param k columns of the matrix
     * @throws IllegalArgumentException if a size is negative or too large
     */
    public static TensorSpec activationScaleSpec(final long m, final long k) {
        final Shape shape = Scaling.ACTIVATION_1X128.scaleShape(m, k);
        final long ld = Math.max(4, Arguments.multiply("scaled: ld", Math.ceilDiv(m, 4), 4));
        return new TensorSpec(DType.F32, shape, Strides.of(1, ld));
    }

    /**
     * {@return the layout of 128x128 scales: shape {@code [ceil(N/128), ceil(K/128)]}, row-major}
     *
     * @param n rows of the matrix
     * @param k columns of the matrix
     * @throws IllegalArgumentException if a size is negative or too large
     */
    public static TensorSpec weightScaleSpec(final long n, final long k) {
        return TensorSpec.packed(
                DType.F32, Scaling.WEIGHT_128X128.scaleShape(n, k).toArray());
    }

    /**
     * {@return the layout of the activation scales of a stack of matrices: one after the other, each as for one matrix}
     *
     * @param groups how many matrices
     * @param m rows of each
     * @param k columns of each
     */
    public static TensorSpec activationScaleSpec(final long groups, final long m, final long k) {
        final TensorSpec one = activationScaleSpec(m, k);
        final long blocks = one.shape().size(1);
        final long ld = one.strides().step(1);
        return new TensorSpec(
                DType.F32,
                Shape.of(groups, m, blocks),
                Strides.of(Arguments.multiply("scaled: ld", blocks, ld), 1, ld));
    }

    /** {@return the number of rows of the matrix, or of each of a stack} */
    public long rows() {
        return values.shape().size(values.spec().rank() - 2);
    }

    /** {@return the number of columns of the matrix, or of each of a stack} */
    public long cols() {
        return values.shape().size(values.spec().rank() - 1);
    }
}
