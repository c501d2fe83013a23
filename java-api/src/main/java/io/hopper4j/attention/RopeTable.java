package io.hopper4j.attention;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.SegmentAllocator;

/**
 * Cosines and sines of RoPE (arXiv 2104.09864) for the 32 pairs of a latent cache's rope part: F32 {@code [positions, 64]}, the cosines of a position
 * before its sines. Pair i turns by {@code position * f_i} with {@code f_i = theta^(-i/32)}.
 *
 * <p>YaRN (arXiv 2309.00071, section 3.2; formulas as in the published inference code of DeepSeek-V3, {@code inference/model.py}) slows the pairs that
 * turn less than {@code betaSlow} times within the {@code original} positions by {@code factor}, leaves those that turn more than {@code betaFast} times
 * alone, and blends in between:
 *
 * <pre>
 * d(r)  = 64 ln(original / (2 pi r)) / (2 ln theta)            the dimension whose pair turns r times
 * low   = max(floor(d(betaFast)), 0),  high = min(ceil(d(betaSlow)), 63)
 * ramp  = clamp((i - low) / (high - low), 0, 1)                high is raised by 0.001 where it equals low
 * f_i   = theta^(-i/32) * ((1 - ramp) + ramp / factor)
 * </pre>
 *
 * The temperature that YaRN asks for is part of {@link MlaSoftmaxScale}, as in DeepSeek's code; cosines and sines are not scaled. Angles are computed in
 * double and rounded once.
 */
public final class RopeTable {
    /** Values of the rope part. */
    public static final int DIM = MlaDecodeSpec.TOKEN_DIM - MlaDecodeSpec.VALUE_DIM;

    private static final int PAIRS = DIM / 2;

    private RopeTable() {}

    /**
     * {@return the table without YaRN}
     *
     * @param allocator owns the table
     * @param positions how many
     * @param theta base of the frequencies, 10000 for DeepSeek-V3
     * @throws IllegalArgumentException if there are negatively many positions or theta is not above 1
     */
    public static HostTensor plain(final SegmentAllocator allocator, final long positions, final double theta) {
        return table(allocator, positions, frequencies(theta));
    }

    /**
     * {@return the table with YaRN}
     *
     * @param allocator owns the table
     * @param positions how many
     * @param theta base of the frequencies
     * @param factor by how much the context is stretched
     * @param original positions that the model was trained on
     * @param betaFast turns within those from which a pair is left alone
     * @param betaSlow turns up to which it is slowed fully
     * @throws IllegalArgumentException if there are negatively many positions, theta is not above 1, or another parameter is not above 0
     */
    public static HostTensor yarn(
            final SegmentAllocator allocator,
            final long positions,
            final double theta,
            final double factor,
            final double original,
            final double betaFast,
            final double betaSlow) {
        Arguments.require(factor > 0, "rope: factor", factor, "above 0");
        Arguments.require(original > 0, "rope: original", original, "above 0");
        Arguments.require(betaFast > 0, "rope: betaFast", betaFast, "above 0");
        Arguments.require(betaSlow > 0, "rope: betaSlow", betaSlow, "above 0");
        final double[] frequencies = frequencies(theta);
        final double low = Math.max(Math.floor(dimension(betaFast, theta, original)), 0);
        final double last = Math.min(Math.ceil(dimension(betaSlow, theta, original)), DIM - 1.0);
        final double high = last == low ? last + 0.001 : last;
        for (int i = 0; i < PAIRS; i++) {
            final double ramp = Math.clamp((i - low) / (high - low), 0.0, 1.0);
            frequencies[i] *= (1 - ramp) + ramp / factor;
        }
        return table(allocator, positions, frequencies);
    }

    /**
     * {@return DeepSeek-V3's table: theta 10000; beyond 4096 positions YaRN with factor 40, 32 fast and 1 slow turns}
     *
     * @param allocator owns the table
     * @param positions how many, which is also what the model is set up for
     * @throws IllegalArgumentException if there are negatively many
     */
    public static HostTensor deepSeekV3(final SegmentAllocator allocator, final long positions) {
        return positions > 4096
                ? yarn(allocator, positions, 10_000, 40, 4096, 32, 1)
                : plain(allocator, positions, 10_000);
    }

    private static double[] frequencies(final double theta) {
        Arguments.require(theta > 1, "rope: theta", theta, "above 1");
        final double[] frequencies = new double[PAIRS];
        for (int i = 0; i < PAIRS; i++) {
            frequencies[i] = Math.pow(theta, -i / (double) PAIRS);
        }
        return frequencies;
    }

    private static double dimension(final double turns, final double theta, final double original) {
        return DIM * Math.log(original / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
    }

    private static HostTensor table(
            final SegmentAllocator allocator, final long positions, final double[] frequencies) {
        Arguments.require(positions >= 0, "rope: positions", positions, "at least 0");
        final HostTensor table = HostTensor.allocate(allocator, DType.F32, positions, DIM);
        final float[] row = new float[DIM];
        for (long position = 0; position < positions; position++) {
            for (int i = 0; i < PAIRS; i++) {
                final double angle = position * frequencies[i];
                row[i] = (float) Math.cos(angle);
                row[PAIRS + i] = (float) Math.sin(angle);
            }
            table.select(0, position).setFloats(row);
        }
        return table;
    }
}
