package io.hopper4j.reference;

/** RMSNorm (Zhang and Sennrich, arXiv 1910.07467, equation 4) with the eps that DeepSeek-V3's published code adds to the mean of squares. */
public final class RmsNorm {
    private RmsNorm() {}

    /**
     * {@return {@code x[c] / sqrt(mean(x^2) + eps) * weight[c]}, unrounded}
     *
     * @param x a row
     * @param weight as many
     * @param eps what the mean of squares is raised by
     */
    public static double[] normalize(final float[] x, final float[] weight, final float eps) {
        double squares = 0;
        for (final float value : x) {
            squares += (double) value * value;
        }
        final double root = Math.sqrt(squares / x.length + eps);
        final double[] y = new double[x.length];
        for (int c = 0; c < x.length; c++) {
            y[c] = x[c] / root * weight[c];
        }
        return y;
    }
}
