package io.hopper4j.attention;

import io.hopper4j.internal.Arguments;

/**
 * The softmax scale of DeepSeek's latent attention: {@code d^-0.5}, and with YaRN (arXiv 2309.00071, section 3.4), which stretches a model
 * trained on {@code original} positions by {@code factor}, the attention temperature on top of it:
 *
 * <pre>
 * scale = d^-0.5 * (0.1 * mscale * ln(factor) + 1)^2
 * </pre>
 *
 * where d counts the values of a query head before absorption, 128 + 64 for DeepSeek-V3. The published inference code of DeepSeek-V3
 * ({@code inference/model.py}) applies the temperature only where the model is set up for more positions than it was trained on.
 */
public final class MlaSoftmaxScale {
    /** DeepSeek-V3 and R1 beyond 4096 positions: 192 values a head, factor 40, mscale 1. */
    public static final float DEEPSEEK_V3 = yarn(192, 40, 1);

    private MlaSoftmaxScale() {}

    /**
     * {@return {@code headDim^-0.5}}
     *
     * @param headDim values of a query head before absorption, rope part included
     * @throws IllegalArgumentException if it is less than 1
     */
    public static float plain(final int headDim) {
        return (float) root(headDim);
    }

    /**
     * {@return the scale with YaRN's temperature}
     *
     * @param headDim values of a query head before absorption, rope part included
     * @param factor by how much the context is stretched; up to 1 there is no temperature
     * @param mscale the configuration's {@code mscale_all_dim}
     * @throws IllegalArgumentException if {@code headDim} is less than 1, or {@code factor} not above 0
     */
    public static float yarn(final int headDim, final double factor, final double mscale) {
        Arguments.require(factor > 0, "softmax scale: factor", factor, "above 0");
        final double temperature = factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
        return (float) (root(headDim) * temperature * temperature);
    }

    /**
     * {@return DeepSeek-V3's scale for a context: with the temperature above 4096 positions, without it up to that}
     *
     * @param maxPositions positions that the model is set up for
     * @throws IllegalArgumentException if it is less than 1
     */
    public static float deepSeekV3(final long maxPositions) {
        Arguments.require(maxPositions >= 1, "softmax scale: maxPositions", maxPositions, "at least 1");
        return maxPositions > 4096 ? DEEPSEEK_V3 : plain(192);
    }

    private static double root(final int headDim) {
        Arguments.require(headDim >= 1, "softmax scale: headDim", headDim, "at least 1");
        return 1 / Math.sqrt(headDim);
    }
}
