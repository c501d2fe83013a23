package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;

/** Host tensors for the checks: allocation in the layouts that the kernels take, seeded contents, comparison bit by bit. */
final class HostData {
    /** Elements between rows are a multiple of this, which suits every operand of every operation. */
    private static final int ROW_UNIT = 16;

    /** Codes of E4M3 that random bytes choose from: 256 quantiles of a normal distribution of standard deviation 64, both signs. */
    private static final byte[] NORMAL_CODES = normalCodes();

    private HostData() {}

    /** A matrix of zeros, rows packed but for the alignment of their starts. */
    static HostTensor matrix(final Arena arena, final DType dtype, final long rows, final long cols) {
        return matrix(arena, dtype, rows, cols, 0);
    }

    /** A matrix of zeros with at least {@code gap} elements between the rows. */
    static HostTensor matrix(final Arena arena, final DType dtype, final long rows, final long cols, final long gap) {
        final long ld = Math.ceilDiv(cols + gap, ROW_UNIT) * ROW_UNIT;
        return HostTensor.allocate(arena, TensorSpec.strided(dtype, new long[] {rows, cols}, new long[] {ld, 1}));
    }

    /** A matrix of scales in the layout of its blocks. */
    static HostTensor scales(final Arena arena, final Scaling scaling, final long rows, final long cols) {
        return HostTensor.allocate(
                arena,
                scaling.equals(Scaling.ACTIVATION_1X128)
                        ? Scaled.activationScaleSpec(rows, cols)
                        : Scaled.weightScaleSpec(rows, cols));
    }

    /** A quantised matrix of zeros. */
    static Scaled<HostTensor> quantized(
            final Arena arena, final Scaling scaling, final long rows, final long cols, final long gap) {
        return new Scaled<>(matrix(arena, DType.F8_E4M3, rows, cols, gap), scales(arena, scaling, rows, cols), scaling);
    }

    /** A quantised matrix of normal values and scales between 2^-9 and 2^-7, as activations and weights have them. */
    static Scaled<HostTensor> randomQuantized(
            final Arena arena,
            final SplitMix64 random,
            final Scaling scaling,
            final long rows,
            final long cols,
            final long gap) {
        final Scaled<HostTensor> result = quantized(arena, scaling, rows, cols, gap);
        // Gaps hold numbers too: a kernel that reads them gives wrong sums.
        fillWithNormalCodes(result.values(), random);
        for (long i = 0; i < result.scales().shape().size(0); i++) {
            for (long j = 0; j < result.scales().shape().size(1); j++) {
                result.scales().setFloat((float) Math.scalb(1 + 3 * random.fraction(), -9), i, j);
            }
        }
        return result;
    }

    private static void fillWithNormalCodes(final HostTensor values, final SplitMix64 random) {
        final long bytes = values.segment().byteSize();
        long eight = 0;
        for (long i = 0; i < bytes; i++) {
            eight = i % 8 == 0 ? random.next() : eight >>> 8;
            values.segment().set(ValueLayout.JAVA_BYTE, i, NORMAL_CODES[(int) (eight & 0xFF)]);
        }
    }

    private static byte[] normalCodes() {
        final byte[] codes = new byte[256];
        final SplitMix64 random = new SplitMix64(1);
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor one = HostTensor.allocate(arena, DType.F8_E4M3, 256);
            for (int i = 0; i < 256; i++) {
                final double radius = Math.sqrt(-2 * Math.log((Math.floorDiv(i, 2) + 0.5) / 128));
                final double value = 64 * radius * Math.cos(Math.PI * random.fraction());
                one.setFloat((float) value, i);
                codes[i] = one.segment().get(ValueLayout.JAVA_BYTE, i);
            }
        }
        return codes;
    }

    /** Fills a matrix with normal values whose size differs from row to row and that hold zeros and, where wanted, what is not finite. */
    static void fillForQuantization(final HostTensor matrix, final SplitMix64 random, final boolean withNonFinite) {
        final double[] normal = new double[4096];
        for (int i = 0; i < normal.length; i++) {
            normal[i] = Math.sqrt(-2 * Math.log(1 - random.fraction())) * Math.cos(2 * Math.PI * random.fraction());
        }
        final float[] row = new float[Math.toIntExact(matrix.shape().size(1))];
        for (long i = 0; i < matrix.shape().size(0); i++) {
            final double size = Math.scalb(1.0, (int) random.below(24) - 14);
            final boolean zero = random.below(16) == 0;
            for (int j = 0; j < row.length; j++) {
                row[j] = zero ? 0 : (float) (size * normal[(int) (random.next() >>> 52)]);
            }
            if (withNonFinite && random.below(8) == 0) {
                final float[] odd = {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY, Float.MIN_VALUE, -0f};
                row[(int) random.below(row.length)] = odd[(int) random.below(odd.length)];
            }
            matrix.select(0, i).setFloats(row);
        }
    }

    /** Overwrites the whole storage of a tensor, gaps included, with one byte: what must not be read, or is to be written. */
    static void poison(final HostTensor tensor) {
        tensor.segment().fill((byte) 0xFF);
    }

    /** How many elements differ in their bits; any NaN equals any other, but for FP8, whose NaN has one code. */
    static long differing(final HostTensor x, final HostTensor y) {
        final float[] left = raw(x).toFloats();
        final float[] right = raw(y).toFloats();
        long count = Math.abs(left.length - right.length);
        for (int i = 0; i < Math.min(left.length, right.length); i++) {
            if (Float.floatToIntBits(left[i]) != Float.floatToIntBits(right[i])) {
                count++;
            }
        }
        return count;
    }

    /** Tensors of one byte an element as their codes. */
    private static HostTensor raw(final HostTensor tensor) {
        return tensor.dtype().size() == 1
                ? HostTensor.wrap(tensor.segment(), new TensorSpec(DType.U8, tensor.shape(), tensor.strides()))
                : tensor;
    }

    /** Copies elements between tensors of one type and shape and any strides. */
    static void copy(final HostTensor from, final HostTensor to) {
        raw(to).setFloats(raw(from).toFloats());
    }
}
