package io.hopper4j.reference;

/** The attention of one query token and head, unrounded. Immutable. */
public final class AttentionRow {
    private final double[] values;
    private final double logSumExp;

    AttentionRow(final double[] values, final double logSumExp) {
        this.values = values;
        this.logSumExp = logSumExp;
    }

    /** {@return how many values the output has} */
    public int size() {
        return values.length;
    }

    /** {@return value {@code i} of the output} */
    public double value(final int i) {
        return values[i];
    }

    /** {@return the natural logarithm of the sum of exponentials over the keys, without a sink; positive infinity where there is no key} */
    public double logSumExp() {
        return logSumExp;
    }
}
