package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.ScaleKind;
import java.util.stream.IntStream;

/**
 * Quantisation of a matrix to FP8 with one scale a block, and back, as DeepSeek-V3.2-Exp's published inference code does it
 * ({@code inference/kernel.py}; the recipe is section 3.3.2 of the DeepSeek-V3 technical report, arXiv 2412.19437). Per block:
 *
 * <pre>
 *   amax = max(max |x|, 1e-4)                   NaN left out
 *   s    = amax * (1/448)                       one FP32 product with the FP32 number nearest to 1/448
 *   s    = 2^ceil(log2(amax * (1/448)))         with power-of-two scales, exact, from the exponent bits
 *   q    = E4M3(x / s)                          one FP32 division, then to nearest even, saturating; NaN gives 0x7F
 * </pre>
 *
 * Blocks at the right and bottom edges hold only the elements that are there. Where a block holds an infinity its scale is infinite: its finite
 * elements become 0 and its infinities NaN.
 */
public final class BlockQuantization {
    private static final float SMALLEST_AMAX = 1e-4f;
    private static final float ONE_OVER_MAX = 1f / 448f;
    private static final int FRACTION_BITS = 23;
    private static final int FRACTION = (1 << FRACTION_BITS) - 1;

    /** Rows read at a time; a multiple of every block height. */
    private static final int CHUNK = 128;

    private BlockQuantization() {}

    /**
     * Quantises a matrix.
     *
     * @param in {@code [rows, cols]}, any floating-point type
     * @param out values {@code [rows, cols]} and scales {@code [ceil(rows/blockRows), ceil(cols/blockCols)]}; overwritten
     * @param kind how a scale follows from the largest magnitude of its block
     */
    public static void quantize(final HostTensor in, final Scaled<HostTensor> out, final ScaleKind kind) {
        final Scaling.Block block = blockOf(out);
        final int cols = Math.toIntExact(out.cols());
        final int blockCols = Math.ceilDiv(cols, block.cols());
        for (long first = 0; first < out.rows(); first += CHUNK) {
            final int rows = (int) Math.min(CHUNK, out.rows() - first);
            final float[] x = in.slice(0, first, first + rows).toFloats();
            final float[] quotient = new float[x.length];
            final float[] scales = new float[Math.ceilDiv(rows, block.rows()) * blockCols];
            IntStream.range(0, scales.length).parallel().forEach(i -> {
                final int top = i / blockCols * block.rows();
                final int left = i % blockCols * block.cols();
                final int bottom = Math.min(top + block.rows(), rows);
                final int right = Math.min(left + block.cols(), cols);
                float amax = SMALLEST_AMAX;
                for (int r = top; r < bottom; r++) {
                    for (int c = left; c < right; c++) {
                        final float magnitude = Math.abs(x[r * cols + c]);
                        if (magnitude > amax) { // false for NaN
                            amax = magnitude;
                        }
                    }
                }
                final float s = scale(amax, kind);
                for (int r = top; r < bottom; r++) {
                    for (int c = left; c < right; c++) {
                        quotient[r * cols + c] = x[r * cols + c] / s;
                    }
                }
                scales[i] = s;
            });
            out.values().slice(0, first, first + rows).setFloats(quotient); // converts to E4M3
            final long firstBlock = first / block.rows();
            out.scales()
                    .slice(0, firstBlock, firstBlock + Math.ceilDiv(rows, block.rows()))
                    .setFloats(scales);
        }
    }

    private static float scale(final float amax, final ScaleKind kind) {
        final float s = amax * ONE_OVER_MAX;
        return switch (kind) {
            case F32 -> s;
            case POWER_OF_TWO -> powerOfTwoNotBelow(s);
        };
    }

    /** The smallest power of two that is not below a positive normal {@code s}; infinity stays. */
    private static float powerOfTwoNotBelow(final float s) {
        final int bits = Float.floatToRawIntBits(s);
        final int exponent = (bits >>> FRACTION_BITS) + ((bits & FRACTION) == 0 ? 0 : 1);
        return Float.intBitsToFloat(exponent << FRACTION_BITS);
    }

    /**
     * Gives a quantised matrix its size back: {@code out[i,j] = values[i,j] * scales[i/blockRows, j/blockCols]}, one FP32 product, rounded to
     * nearest even to the type of {@code out}.
     *
     * @param in values {@code [rows, cols]} and their scales
     * @param out {@code [rows, cols]}, any floating-point type; overwritten
     */
    public static void dequantize(final Scaled<HostTensor> in, final HostTensor out) {
        final Scaling.Block block = blockOf(in);
        final int cols = Math.toIntExact(in.cols());
        for (long first = 0; first < in.rows(); first += CHUNK) {
            final int rows = (int) Math.min(CHUNK, in.rows() - first);
            final float[] x = in.values().slice(0, first, first + rows).toFloats();
            final float[][] scales = new float[Math.ceilDiv(rows, block.rows())][];
            for (int i = 0; i < scales.length; i++) {
                scales[i] = in.scales().select(0, first / block.rows() + i).toFloats();
            }
            IntStream.range(0, rows).parallel().forEach(r -> {
                for (int c = 0; c < cols; c++) {
                    x[r * cols + c] *= scales[r / block.rows()][c / block.cols()];
                }
            });
            out.slice(0, first, first + rows).setFloats(x);
        }
    }

    private static Scaling.Block blockOf(final Scaled<HostTensor> matrix) {
        if (matrix.scaling() instanceof Scaling.Block block && CHUNK % block.rows() == 0) {
            return block;
        }
        throw new IllegalArgumentException(
                "quantize: scaling: got " + matrix.scaling() + ", need blocks whose height divides 128");
    }
}
