package io.hopper4j.cli;

import java.util.Arrays;

/**
 * The middle and the spread of repeated times.
 *
 * @param median of all, the mean of the two middle ones where their number is even
 * @param p10 the 10th percentile, the nearest rank
 * @param p90 the 90th percentile, the nearest rank
 */
record Statistics(double median, double p10, double p90) {
    /**
     * {@return the statistics of some values}
     *
     * @throws IllegalArgumentException if there is none
     */
    static Statistics of(final double... values) {
        if (values.length == 0) {
            throw new IllegalArgumentException("statistics: got no value, need at least 1");
        }
        final double[] sorted = values.clone();
        Arrays.sort(sorted);
        final int half = sorted.length / 2;
        final double median = sorted.length % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
        return new Statistics(median, rank(sorted, 0.1), rank(sorted, 0.9));
    }

    private static double rank(final double[] sorted, final double share) {
        return sorted[Math.max(0, (int) Math.ceil(share * sorted.length) - 1)];
    }
}
