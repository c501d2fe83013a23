package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.internal.codec.Bf16;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.jspecify.annotations.Nullable;

/**
 * The product {@code D = A B^T (+ C)} of two FP8 matrices with block scales (DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3.2):
 *
 * <pre>
 *   D[m,n] = sum over blocks kb of 128 along K of (sum over k in kb of A[m,k] B[n,k]) * (sa[m,kb] * sb[n/128,kb])  (+ C[m,n])
 * </pre>
 *
 * All of it in {@code double}. The inner sum is exact whatever its order: an E4M3 value is a multiple of 2^-9 and at most 448, so 128 products add up to
 * multiples of 2^-18 below 2^25, 43 bits of the 53; the product of two FP32 scales has 48 bits and is exact too.
 */
public final class BlockScaledProduct {
    private static final int BLOCK = 128;

    /** Rows and columns computed together: their operands, as doubles, stay in a core's cache while each serves many times. */
    private static final int TILE = 64;

    private BlockScaledProduct() {}

    /** One row of A or of B with the scales of its blocks. */
    private static final class Line {
        final double[] values;
        final double[] scales;

        Line(final Scaled<HostTensor> matrix, final long row, final int blockRows) {
            this.values = doubles(matrix.values().select(0, row));
            this.scales = doubles(matrix.scales().select(0, row / blockRows));
        }

        private static double[] doubles(final HostTensor vector) {
            final float[] floats = vector.toFloats();
            return IntStream.range(0, floats.length).mapToDouble(i -> floats[i]).toArray();
        }
    }

    /**
     * Computes the whole product and rounds it once, to nearest even.
     *
     * @param a {@code [M, K]} with scales {@code [M, ceil(K/128)]}
     * @param b {@code [N, K]} with scales {@code [ceil(N/128), ceil(K/128)]}
     * @param c {@code [M, N]} to add, or null; may be {@code out}
     * @param out {@code [M, N]}, F32 or BF16; overwritten
     */
    public static void multiply(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor out) {
        final boolean toBf16 = out.dtype() == DType.BF16;
        for (long left = 0; left < b.rows(); left += TILE) {
            final int width = (int) Math.min(TILE, b.rows() - left);
            final Line[] columns = lines(b, LongStream.range(left, left + width).toArray());
            for (long top = 0; top < a.rows(); top += TILE) {
                final int height = (int) Math.min(TILE, a.rows() - top);
                final Line[] rows = lines(a, LongStream.range(top, top + height).toArray());
                final float @Nullable [] addend =
                        c == null ? null : tile(c, top, height, left, width).toFloats();
                final float[] result = new float[height * width];
                IntStream.range(0, height).parallel().forEach(i -> {
                    for (int j = 0; j < width; j++) {
                        final double product = product(rows[i], columns[j]);
                        final double exact = addend == null ? product : product + addend[i * width + j];
                        result[i * width + j] = toBf16 ? Bf16.toFloat(Bf16.fromDouble(exact)) : (float) exact;
                    }
                });
                tile(out, top, height, left, width).setFloats(result);
            }
        }
    }

    /**
     * Computes the whole product, rounds it to F32 and quantises it.
     *
     * @param a as in {@link #multiply(Scaled, Scaled, HostTensor, HostTensor)}
     * @param b likewise
     * @param out {@code [M, N]} E4M3 with scales {@code [M, ceil(N/128)]}; overwritten
     * @param kind F32 or power-of-two scales
     */
    public static void multiply(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final Scaled<HostTensor> out,
            final ScaleKind kind) {
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor sums = HostTensor.allocate(arena, DType.F32, a.rows(), b.rows());
            multiply(a, b, null, sums);
            BlockQuantization.quantize(sums, out, kind);
        }
    }

    /**
     * Computes some rows and columns of the product, unrounded, with the magnitudes that a tolerance needs.
     *
     * @param a {@code [M, K]} with scales {@code [M, ceil(K/128)]}
     * @param b {@code [N, K]} with scales {@code [ceil(N/128), ceil(K/128)]}
     * @param c {@code [M, N]} to add, or null
     * @param rows which rows of the product
     * @param columns which columns
     * @return the product at every wanted row and column
     */
    public static ProductSample sample(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final long[] rows,
            final long[] columns) {
        final double[][] values = new double[rows.length][columns.length];
        final double[][] magnitudes = new double[rows.length][columns.length];
        final Line[] lines = lines(a, rows);
        for (int left = 0; left < columns.length; left += TILE) {
            final int first = left;
            final int width = Math.min(TILE, columns.length - first);
            final Line[] others = lines(
                    b,
                    LongStream.range(first, first + width)
                            .map(j -> columns[(int) j])
                            .toArray());
            IntStream.range(0, rows.length).parallel().forEach(i -> {
                for (int j = 0; j < width; j++) {
                    values[i][first + j] = product(lines[i], others[j]);
                    magnitudes[i][first + j] = magnitude(lines[i], others[j]);
                }
            });
        }
        if (c != null) {
            for (int i = 0; i < rows.length; i++) {
                for (int j = 0; j < columns.length; j++) {
                    final double addend = c.getFloat(rows[i], columns[j]);
                    values[i][j] += addend;
                    magnitudes[i][j] += Math.abs(addend);
                }
            }
        }
        return new ProductSample(rows, columns, values, magnitudes);
    }

    private static Line[] lines(final Scaled<HostTensor> matrix, final long[] rows) {
        if (!(matrix.scaling() instanceof Scaling.Block block) || block.cols() != BLOCK) {
            throw new IllegalArgumentException(
                    "gemm: scaling: got " + matrix.scaling() + ", need blocks of 128 columns");
        }
        return LongStream.of(rows)
                .mapToObj(row -> new Line(matrix, row, block.rows()))
                .toArray(Line[]::new);
    }

    private static HostTensor tile(
            final HostTensor matrix, final long top, final int height, final long left, final int width) {
        return matrix.slice(0, top, top + height).slice(1, left, left + width);
    }

    private static double product(final Line a, final Line b) {
        double sum = 0;
        for (int kb = 0; kb < a.scales.length; kb++) {
            sum += blockDot(a.values, b.values, kb * BLOCK) * (a.scales[kb] * b.scales[kb]);
        }
        return sum;
    }

    /** The sum of products of one block. Four sums at a time keep the processor busy; being exact, they give the one result. */
    private static double blockDot(final double[] a, final double[] b, final int from) {
        final int to = Math.min(from + BLOCK, a.length);
        double sum0 = 0;
        double sum1 = 0;
        double sum2 = 0;
        double sum3 = 0;
        int k = from;
        for (; k < to - 3; k += 4) {
            sum0 += a[k] * b[k];
            sum1 += a[k + 1] * b[k + 1];
            sum2 += a[k + 2] * b[k + 2];
            sum3 += a[k + 3] * b[k + 3];
        }
        for (; k < to; k++) {
            sum0 += a[k] * b[k];
        }
        return sum0 + sum1 + sum2 + sum3;
    }

    /** The same sum over magnitudes: sum |a b| s_a s_b. */
    private static double magnitude(final Line a, final Line b) {
        double sum = 0;
        for (int kb = 0; kb < a.scales.length; kb++) {
            final int to = Math.min((kb + 1) * BLOCK, a.values.length);
            double dot = 0;
            for (int k = kb * BLOCK; k < to; k++) {
                dot += Math.abs(a.values[k] * b.values[k]);
            }
            sum += dot * Math.abs(a.scales[kb] * b.scales[kb]);
        }
        return sum;
    }
}
