package io.hopper4j;

import io.hopper4j.internal.Arguments;
import java.util.Arrays;

/**
 * The sizes of a tensor's dimensions, outermost first. Immutable. Rank 0 is a scalar of one element; a size may be 0.
 */
public final class Shape {
    private final long[] dims;
    private final long elements;

    private Shape(final long[] dims) {
        this.dims = dims;
        long product = 1;
        boolean empty = false;
        for (final long dim : dims) {
            if (dim < 0) {
                throw Arguments.bad("shape", this, "sizes of at least 0");
            }
            if (dim == 0) {
                empty = true;
            } else {
                product = Arguments.multiply("shape", product, dim);
            }
        }
        this.elements = empty ? 0 : product;
    }

    /**
     * {@return a shape}
     *
     * @param dims sizes, outermost first; the array is copied
     * @throws IllegalArgumentException if a size is negative or their product does not fit a long
     */
    public static Shape of(final long... dims) {
        return new Shape(dims.clone());
    }

    /** {@return the number of dimensions} */
    public int rank() {
        return dims.length;
    }

    /**
     * {@return the size of a dimension}
     *
     * @param dim 0..rank-1
     * @throws IllegalArgumentException if there is no such dimension
     */
    public long size(final int dim) {
        if (dim < 0 || dim >= dims.length) {
            throw Arguments.bad("shape: dim", dim, "0.." + (dims.length - 1) + " of " + this);
        }
        return dims[dim];
    }

    /** {@return the number of elements: the product of all sizes} */
    public long elements() {
        return elements;
    }

    /** {@return a copy of the sizes} */
    public long[] toArray() {
        return dims.clone();
    }

    @Override
    public boolean equals(final Object other) {
        return other instanceof Shape that && Arrays.equals(dims, that.dims);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(dims);
    }

    /** {@return the form of messages: {@code [16,56]}} */
    @Override
    public String toString() {
        return Arrays.toString(dims).replace(" ", "");
    }
}
