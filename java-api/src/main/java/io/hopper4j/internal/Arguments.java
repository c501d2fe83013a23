package io.hopper4j.internal;

/** The form of every message about a caller's mistake: {@code gemm: b.scales: got ..., need ...}. */
public final class Arguments {
    private Arguments() {}

    /**
     * {@return the exception for a bad argument, to be thrown by the caller}
     *
     * @param where operation and argument, such as {@code gemm: b.scales}
     * @param got what was given
     * @param need what is allowed
     */
    public static IllegalArgumentException bad(final String where, final Object got, final Object need) {
        return new IllegalArgumentException(where + ": got " + got + ", need " + need);
    }

    /**
     * Refuses an argument. What it is told is made whether or not it is needed: where calls are many, throw {@link #bad} instead.
     *
     * @throws IllegalArgumentException if {@code ok} is false
     */
    public static void require(final boolean ok, final String where, final Object got, final Object need) {
        if (!ok) {
            throw bad(where, got, need);
        }
    }

    /**
     * {@return {@code a * b}}
     *
     * @throws IllegalArgumentException if the product does not fit a long
     */
    public static long multiply(final String where, final long a, final long b) {
        final long high = Math.multiplyHigh(a, b);
        final long low = a * b;
        if (high != low >> 63) {
            throw bad(where, a + " * " + b, "a product below 2^63");
        }
        return low;
    }

    /**
     * {@return {@code a + b}}
     *
     * @throws IllegalArgumentException if the sum does not fit a long
     */
    public static long add(final String where, final long a, final long b) {
        final long sum = a + b;
        if (((a ^ sum) & (b ^ sum)) < 0) {
            throw bad(where, a + " + " + b, "a sum below 2^63");
        }
        return sum;
    }

    /**
     * Refuses a matrix whose addresses could overflow: with fewer than 2^60 elements, sizes in bytes fit a long.
     *
     * @throws IllegalArgumentException if there are 2^60 elements or more
     */
    public static void matrixSize(final String where, final long rows, final long cols) {
        if (multiply(where, rows, cols) >= 1L << 60) {
            throw bad(where, rows + " x " + cols, "fewer than 2^60 elements");
        }
    }
}
