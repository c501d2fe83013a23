package io.hopper4j.cli;

/**
 * The SplitMix64 generator (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). The golden files use the same sequence, so it is written out
 * here rather than taken from the JDK, which promises no algorithm.
 */
final class SplitMix64 {
    private long state;

    SplitMix64(final long seed) {
        this.state = seed;
    }

    long next() {
        state += 0x9E3779B97F4A7C15L;
        long z = state;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    /** A number from 0 to {@code bound - 1}; the bias of the remainder does not matter for test data. */
    long below(final long bound) {
        return Long.remainderUnsigned(next(), bound);
    }

    /** A number from 0 to 1, 1 left out. */
    double fraction() {
        return (next() >>> 11) * 0x1p-53;
    }
}
