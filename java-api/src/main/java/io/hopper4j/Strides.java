package io.hopper4j;

import io.hopper4j.internal.Arguments;
import java.util.Arrays;

/**
 * How far apart neighbours lie along each dimension of a tensor, in elements. Immutable. Strides are never negative; 0 repeats one
 * element along a dimension.
 */
public final class Strides {
    private final long[] steps;

    private Strides(final long[] steps) {
        this.steps = steps;
        for (final long step : steps) {
            if (step < 0) {
                throw Arguments.bad("strides", this, "steps of at least 0");
            }
        }
    }

    /**
     * {@return strides}
     *
     * @param steps elements between neighbours, outermost dimension first; the array is copied
     * @throws IllegalArgumentException if a step is negative
     */
    public static Strides of(final long... steps) {
        return new Strides(steps.clone());
    }

    /** {@return the row-major strides of a shape without gaps; dimensions of size 0 count as 1} */
    public static Strides packed(final Shape shape) {
        final long[] steps = new long[shape.rank()];
        long step = 1;
        for (int dim = steps.length - 1; dim >= 0; dim--) {
            steps[dim] = step;
            step = Arguments.multiply("strides", step, Math.max(1, shape.size(dim)));
        }
        return new Strides(steps);
    }

    /** {@return the number of dimensions} */
    public int rank() {
        return steps.length;
    }

    /**
     * {@return the stride of a dimension in elements}
     *
     * @param dim 0..rank-1
     * @throws IllegalArgumentException if there is no such dimension
     */
    public long step(final int dim) {
        if (dim < 0 || dim >= steps.length) {
            throw Arguments.bad("strides: dim", dim, "0.." + (steps.length - 1) + " of " + this);
        }
        return steps[dim];
    }

    /** {@return a copy of the strides} */
    public long[] toArray() {
        return steps.clone();
    }

    @Override
    public boolean equals(final Object other) {
        return other instanceof Strides that && Arrays.equals(steps, that.steps);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(steps);
    }

    /** {@return the form of messages: {@code [56,1]}} */
    @Override
    public String toString() {
        return Arrays.toString(steps).replace(" ", "");
    }
}
