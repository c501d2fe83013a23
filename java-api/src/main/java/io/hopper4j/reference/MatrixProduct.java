package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.internal.codec.Bf16;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.jspecify.annotations.Nullable;

/**
 * The product {@code D = A B^T (+ C)} of BF16 matrices, {@code D[m,n] = sum over k of A[m,k] B[n,k] (+ C[m,n])}, in {@code double}: a product of two BF16
 * numbers has 16 bits, and their sum loses nothing that a tolerance could see. A batch is many of these, groups of rows are one each.
 */
public final class MatrixProduct {
    /** Rows of B computed together: as doubles they stay in a core's cache while each serves many times. */
    private static final int TILE = 64;

    private MatrixProduct() {}

    /**
     * Computes the whole product and rounds it once, to nearest even.
     *
     * @param a {@code [M, K]}
     * @param b {@code [N, K]}
     * @param c {@code [M, N]} to add, or null; may be {@code out}
     * @param out {@code [M, N]}, F32 or BF16; overwritten
     */
    public static void multiply(
            final HostTensor a, final HostTensor b, final @Nullable HostTensor c, final HostTensor out) {
        final boolean toBf16 = out.dtype() == DType.BF16;
        final long n = b.shape().size(0);
        for (long left = 0; left < n; left += TILE) {
            final int width = (int) Math.min(TILE, n - left);
            final double[][] columns =
                    lines(b, LongStream.range(left, left + width).toArray());
            for (long top = 0; top < a.shape().size(0); top += TILE) {
                final int height = (int) Math.min(TILE, a.shape().size(0) - top);
                final double[][] rows =
                        lines(a, LongStream.range(top, top + height).toArray());
                final float @Nullable [] addend =
                        c == null ? null : tile(c, top, height, left, width).toFloats();
                final float[] result = new float[height * width];
                IntStream.range(0, height).parallel().forEach(i -> {
                    for (int j = 0; j < width; j++) {
                        final double product = dot(rows[i], columns[j]);
                        final double exact = addend == null ? product : product + addend[i * width + j];
                        result[i * width + j] = toBf16 ? Bf16.toFloat(Bf16.fromDouble(exact)) : (float) exact;
                    }
                });
                tile(out, top, height, left, width).setFloats(result);
            }
        }
    }

    /**
     * Computes some rows and columns of the product, unrounded, with the magnitudes that a tolerance needs.
     *
     * @param a {@code [M, K]}
     * @param b {@code [N, K]}
     * @param c {@code [M, N]} to add, or null
     * @param rows which rows of the product
     * @param columns which columns
     * @return the product at every wanted row and column
     */
    public static ProductSample sample(
            final HostTensor a,
            final HostTensor b,
            final @Nullable HostTensor c,
            final long[] rows,
            final long[] columns) {
        final double[][] values = new double[rows.length][columns.length];
        final double[][] magnitudes = new double[rows.length][columns.length];
        final double[][] lines = lines(a, rows);
        for (int left = 0; left < columns.length; left += TILE) {
            final int first = left;
            final int width = Math.min(TILE, columns.length - first);
            final double[][] others = lines(
                    b,
                    LongStream.range(first, first + width)
                            .map(j -> columns[(int) j])
                            .toArray());
            // Read by the calling thread, which may be the only one that may.
            final float[][] addends = new float[rows.length][width];
            for (int i = 0; c != null && i < rows.length; i++) {
                for (int j = 0; j < width; j++) {
                    addends[i][j] = c.getFloat(rows[i], columns[first + j]);
                }
            }
            IntStream.range(0, rows.length).parallel().forEach(i -> {
                for (int j = 0; j < width; j++) {
                    final double addend = addends[i][j];
                    values[i][first + j] = dot(lines[i], others[j]) + addend;
                    magnitudes[i][first + j] = magnitude(lines[i], others[j]) + Math.abs(addend);
                }
            });
        }
        return new ProductSample(rows, columns, values, magnitudes);
    }

    private static double[][] lines(final HostTensor matrix, final long[] rows) {
        return LongStream.of(rows)
                .mapToObj(row -> {
                    final float[] floats = matrix.select(0, row).toFloats();
                    return IntStream.range(0, floats.length)
                            .mapToDouble(i -> floats[i])
                            .toArray();
                })
                .toArray(double[][]::new);
    }

    private static HostTensor tile(
            final HostTensor matrix, final long top, final int height, final long left, final int width) {
        return matrix.slice(0, top, top + height).slice(1, left, left + width);
    }

    /** Four sums at a time keep the processor busy. */
    private static double dot(final double[] a, final double[] b) {
        double sum0 = 0;
        double sum1 = 0;
        double sum2 = 0;
        double sum3 = 0;
        int k = 0;
        for (; k < a.length - 3; k += 4) {
            sum0 += a[k] * b[k];
            sum1 += a[k + 1] * b[k + 1];
            sum2 += a[k + 2] * b[k + 2];
            sum3 += a[k + 3] * b[k + 3];
        }
        for (; k < a.length; k++) {
            sum0 += a[k] * b[k];
        }
        return sum0 + sum1 + sum2 + sum3;
    }

    private static double magnitude(final double[] a, final double[] b) {
        double sum = 0;
        for (int k = 0; k < a.length; k++) {
            sum += Math.abs(a[k] * b[k]);
        }
        return sum;
    }
}
