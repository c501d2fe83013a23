package io.hopper4j.internal;

import java.util.Arrays;
import java.util.stream.Collectors;

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
     * Refuses a tensor whose addresses could overflow: with fewer than 2^60 elements, sizes in bytes fit a long. Sizes are not negative.
     *
     * @throws IllegalArgumentException if there are 2^60 elements or more
     */
    public static void tensorSize(final String where, final long... sizes) {
        if (Arrays.stream(sizes).anyMatch(size -> size == 0)) {
            return;
        }
        long elements = 1;
        for (final long size : sizes) {
            if (Math.multiplyHigh(elements, size) != 0 || elements * size < 0 || elements * size >= 1L << 60) {
                throw bad(
                        where,
                        Arrays.stream(sizes).mapToObj(Long::toString).collect(Collectors.joining(" x ")),
                        "fewer than 2^60 elements");
            }
            elements *= size;
        }
    }
}
