package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.stream.LongStream;

/** Host tensors for the checks: allocation in the layouts that the kernels take, seeded contents, comparison bit by bit. */
final class HostData {
    /** Elements between rows are a multiple of this, which suits every operand of every operation. */
    private static final int ROW_UNIT = 16;

    private static final long BLOCK = 128;

    /** Random values are repeated after so many, a prime number, so that no two rows or tiles of a matrix come to be alike. */
    private static final long LONGEST_STRETCH = 268_435_399;

    /** Elements of a matrix that are compared bit by bit, roughly, at most. */
    private static final long COMPARED_ELEMENTS = 4_000_000;

    /** Codes of E4M3 that random bytes choose from: 256 quantiles of a normal distribution of standard deviation 64, both signs. */
    private static final byte[] NORMAL_CODES = normalCodes();

    private HostData() {}

    /** {@return rows in use as reports show them: {@code 423} or, where the tensors have more, {@code 423/468}} */
    static String rows(final long used, final long all) {
        return used == all ? Long.toString(used) : used + "/" + all;
    }

    /** {@return the elements from one row to the next: at least {@code gap} more than a row has, and what every operation takes} */
    static long rowStride(final long cols, final long gap) {
        return Math.ceilDiv(cols + gap, ROW_UNIT) * ROW_UNIT;
    }

    /** {@return the layout of the scales of a matrix} */
    static TensorSpec scaleSpec(final Scaling scaling, final long rows, final long cols) {
        return scaling.equals(Scaling.ACTIVATION_1X128)
                ? Scaled.activationScaleSpec(rows, cols)
                : Scaled.weightScaleSpec(rows, cols);
    }

    /** A matrix of zeros; the starts of its rows are aligned as every operation takes them. */
    static HostTensor matrix(final Arena arena, final DType dtype, final long rows, final long cols) {
        final long[] strides = {rowStride(cols, 0), 1};
        return HostTensor.allocate(arena, TensorSpec.strided(dtype, new long[] {rows, cols}, strides));
    }

    /** A quantised matrix of zeros. */
    static Scaled<HostTensor> quantized(final Arena arena, final Scaling scaling, final long rows, final long cols) {
        return new Scaled<>(
                matrix(arena, DType.F8_E4M3, rows, cols),
                HostTensor.allocate(arena, scaleSpec(scaling, rows, cols)),
                scaling);
    }

    /** A quantised matrix of normal values and scales between 2^-9 and 2^-7, as activations and weights have them. */
    static Scaled<HostTensor> randomQuantized(
            final Arena arena, final SplitMix64 random, final Scaling scaling, final long rows, final long cols) {
        final Scaled<HostTensor> result = quantized(arena, scaling, rows, cols);
        fillWithNormalCodes(result.values().segment(), random);
        fillScales(result.scales(), random);
        return result;
    }

    /** A stack of quantised matrices like those of {@link #randomQuantized}; a stretch of random values is repeated where there are many. */
    static Scaled<HostTensor> randomStack(
            final Arena arena,
            final SplitMix64 random,
            final Scaling scaling,
            final long groups,
            final long rows,
            final long cols) {
        final HostTensor values = HostTensor.allocate(arena, DType.F8_E4M3, groups, rows, cols);
        fillWithNormalCodes(values.segment(), random);
        final boolean activations = scaling.equals(Scaling.ACTIVATION_1X128);
        final Scaled<HostTensor> one = quantized(arena, scaling, activations ? 0 : rows, cols);
        final HostTensor scales = HostTensor.allocate(
                arena,
                activations
                        ? Scaled.activationScaleSpec(groups, rows, cols)
                        : TensorSpec.packed(
                                DType.F32,
                                groups,
                                one.scales().shape().size(0),
                                one.scales().shape().size(1)));
        for (long g = 0; g < groups; g++) {
            fillScales(scales.select(0, g), random);
        }
        return new Scaled<>(values, scales, scaling);
    }

    /** A quantised matrix of any codes, NaN among them. */
    static Scaled<HostTensor> anyQuantized(
            final Arena arena, final SplitMix64 random, final Scaling scaling, final long rows, final long cols) {
        final Scaled<HostTensor> result = quantized(arena, scaling, rows, cols);
        final MemorySegment bytes = result.values().segment();
        for (long i = 0; i < bytes.byteSize(); i++) {
            bytes.set(ValueLayout.JAVA_BYTE, i, (byte) (random.next() >>> 56));
        }
        fillScales(result.scales(), random);
        return result;
    }

    private static void fillScales(final HostTensor scales, final SplitMix64 random) {
        for (long i = 0; i < scales.shape().size(0); i++) {
            for (long j = 0; j < scales.shape().size(1); j++) {
                scales.setFloat((float) Math.scalb(1 + 3 * random.fraction(), -9), i, j);
            }
        }
    }

    /** Fills memory with E4M3 codes of normal values of standard deviation 64. */
    static void fillWithNormalCodes(final MemorySegment bytes, final SplitMix64 random) {
        final long own = Math.min(bytes.byteSize(), LONGEST_STRETCH);
        long eight = 0;
        for (long i = 0; i < own; i++) {
            eight = i % 8 == 0 ? random.next() : eight >>> 8;
            bytes.set(ValueLayout.JAVA_BYTE, i, NORMAL_CODES[(int) (eight & 0xFF)]);
        }
        for (long i = own; i < bytes.byteSize(); i += own) {
            MemorySegment.copy(bytes, 0, bytes, i, Math.min(own, bytes.byteSize() - i));
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

    /** Fills a matrix with normal values of standard deviation 1. */
    static void fillWithNormal(final HostTensor matrix, final SplitMix64 random) {
        final float[] row = new float[Math.toIntExact(matrix.shape().size(1))];
        for (long i = 0; i < matrix.shape().size(0); i++) {
            for (int j = 0; j < row.length; j++) {
                row[j] = (float) normal(random);
            }
            matrix.select(0, i).setFloats(row);
        }
    }

    /** Fills a matrix with a choice from 4096 normal values of standard deviation 1: for matrices of many millions. */
    static void fillWithNormalFast(final HostTensor matrix, final SplitMix64 random) {
        final float[] normal = new float[4096];
        for (int i = 0; i < normal.length; i++) {
            normal[i] = (float) normal(random);
        }
        final float[] row = new float[Math.toIntExact(matrix.shape().size(1))];
        for (long i = 0; i < matrix.shape().size(0); i++) {
            long bits = 0;
            for (int j = 0; j < row.length; j++) {
                bits = j % 5 == 0 ? random.next() : bits >>> 12; // five choices a draw
                row[j] = normal[(int) (bits & 4095)];
            }
            matrix.select(0, i).setFloats(row);
        }
    }

    /** A normal number by the method of Box and Muller. */
    private static double normal(final SplitMix64 random) {
        return Math.sqrt(-2 * Math.log(1 - random.fraction())) * Math.cos(2 * Math.PI * random.fraction());
    }

    /** Fills a matrix with normal values whose size differs from row to row and that hold zeros and, here and there, what is not finite. */
    static void fillForQuantization(final HostTensor matrix, final SplitMix64 random) {
        final double[] normal = new double[4096];
        for (int i = 0; i < normal.length; i++) {
            normal[i] = normal(random);
        }
        final float[] odd = {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY, Float.MIN_VALUE, -0f};
        final float[] row = new float[Math.toIntExact(matrix.shape().size(1))];
        for (long i = 0; i < matrix.shape().size(0); i++) {
            final double size = Math.scalb(1.0, (int) random.below(24) - 14);
            final boolean zero = random.below(16) == 0;
            for (int j = 0; j < row.length; j++) {
                row[j] = zero ? 0 : (float) (size * normal[(int) (random.next() >>> 52)]);
            }
            if (random.below(8) == 0) {
                row[(int) random.below(row.length)] = odd[(int) random.below(odd.length)];
            }
            matrix.select(0, i).setFloats(row);
        }
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

    /** {@return {@code count} of the numbers 0 to {@code size - 1} in order: the first and last ones, where tiles are ragged, and a random choice between; all if there are no more} */
    static long[] sample(final SplitMix64 random, final long size, final long count) {
        if (size <= count) {
            return LongStream.range(0, size).toArray();
        }
        final SortedSet<Long> chosen = new TreeSet<>(List.of(0L, 1L, size - 2, size - 1));
        while (chosen.size() < count) {
            chosen.add(random.below(size));
        }
        return chosen.stream().limit(count).mapToLong(Long::longValue).toArray();
    }

    /**
     * Rows that begin at a block and are checked together.
     *
     * @param first the first row, a multiple of 128
     * @param count how many rows, at most 128
     */
    record Rows(long first, long count) {
        HostTensor of(final HostTensor matrix) {
            return matrix.slice(0, first, first + count);
        }

        Scaled<HostTensor> of(final Scaled<HostTensor> matrix) {
            final int blockRows = ((Scaling.Block) matrix.scaling()).rows();
            final long firstBlock = first / blockRows;
            final long blocks = Math.ceilDiv(count, blockRows);
            return new Scaled<>(
                    of(matrix.values()), matrix.scales().slice(0, firstBlock, firstBlock + blocks), matrix.scaling());
        }
    }

    /** {@return the parts of a matrix to compare: all of it, or, where it is large, the first and last blocks and a random choice between} */
    static List<Rows> parts(final SplitMix64 random, final long rows, final long cols) {
        final long count = Math.max(4, COMPARED_ELEMENTS / (BLOCK * cols));
        return LongStream.of(sample(random, Math.ceilDiv(rows, BLOCK), count))
                .mapToObj(block -> new Rows(block * BLOCK, Math.min(BLOCK, rows - block * BLOCK)))
                .toList();
    }
}
