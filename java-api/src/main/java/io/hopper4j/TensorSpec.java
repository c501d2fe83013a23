package io.hopper4j;

import io.hopper4j.internal.Arguments;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/**
 * Everything about a tensor but its storage: element type, sizes and strides in elements. The view operations answer with the spec of
 * the view; where the view starts is {@link #offsetOf} of its first element.
 *
 * @param dtype element type
 * @param shape sizes, outermost first
 * @param strides elements between neighbours, of the same rank
 */
public record TensorSpec(DType dtype, Shape shape, Strides strides) {
    /**
     * Checks the spec.
     *
     * @throws IllegalArgumentException if the ranks differ, or the tensor would span 2^63 bytes or more
     */
    public TensorSpec {
        Objects.requireNonNull(dtype, "dtype");
        Arguments.require(
                shape.rank() == strides.rank(),
                "tensor: strides",
                strides + " of rank " + strides.rank(),
                "rank " + shape.rank() + " of shape " + shape);
        Arguments.multiply("tensor: bytes", span(shape, strides), dtype.size());
    }

    /**
     * {@return a row-major spec without gaps}
     *
     * @param dtype element type
     * @param dims sizes, outermost first
     * @throws IllegalArgumentException if a size is negative or the tensor would span 2^63 bytes or more
     */
    public static TensorSpec packed(final DType dtype, final long... dims) {
        final Shape shape = Shape.of(dims);
        return new TensorSpec(dtype, shape, Strides.packed(shape));
    }

    /**
     * {@return a spec}
     *
     * @param dtype element type
     * @param dims sizes, outermost first
     * @param steps strides in elements
     * @throws IllegalArgumentException as the constructor
     */
    public static TensorSpec strided(final DType dtype, final long[] dims, final long[] steps) {
        return new TensorSpec(dtype, Shape.of(dims), Strides.of(steps));
    }

    /** {@return the number of dimensions} */
    public int rank() {
        return shape.rank();
    }

    /** {@return the number of elements} */
    public long elements() {
        return shape.elements();
    }

    /** {@return how many elements of storage lie from the first element to the last, both counted; 0 for an empty tensor} */
    public long span() {
        return span(shape, strides);
    }

    /** {@return how many bytes of storage lie from the first element to the last, both counted; 0 for an empty tensor} */
    public long byteSpan() {
        return span() * dtype.size();
    }

    /** {@return whether the elements lie in row-major order without gaps; strides of dimensions of size 1 do not matter} */
    public boolean isContiguous() {
        if (elements() == 0) {
            return true;
        }
        long step = 1;
        for (int dim = rank() - 1; dim >= 0; dim--) {
            final long size = shape.size(dim);
            if (size != 1 && strides.step(dim) != step) {
                return false;
            }
            step *= size;
        }
        return true;
    }

    /**
     * {@return where an element lies, in elements from the first one}
     *
     * @param index one number a dimension
     * @throws IllegalArgumentException if the index has another rank or lies outside
     */
    public long offsetOf(final long... index) {
        if (index.length != rank()) {
            throw Arguments.bad("index", "rank " + index.length, "rank " + rank() + " of shape " + shape);
        }
        long offset = 0;
        for (int dim = 0; dim < index.length; dim++) {
            if (index[dim] < 0 || index[dim] >= shape.size(dim)) {
                throw Arguments.bad("index", format(index), "inside shape " + shape);
            }
            offset += index[dim] * strides.step(dim);
        }
        return offset;
    }

    /**
     * {@return the spec of the part {@code from <= index < to} of a dimension; it starts {@code from * strides().step(dim)} elements in}
     *
     * @param dim the dimension
     * @param from first index kept
     * @param to first index after the part
     * @throws IllegalArgumentException if there is no such part
     */
    public TensorSpec slice(final int dim, final long from, final long to) {
        checkDim("slice", dim);
        Arguments.require(
                0 <= from && from <= to && to <= shape.size(dim),
                "slice: range",
                from + ".." + to + " of dim " + dim,
                "0 <= from <= to <= " + shape.size(dim) + " of shape " + shape);
        final long[] dims = shape.toArray();
        dims[dim] = to - from;
        return new TensorSpec(dtype, Shape.of(dims), strides);
    }

    /**
     * {@return the spec without a dimension, at one index of it; it starts {@code index * strides().step(dim)} elements in}
     *
     * @param dim the dimension to leave out
     * @param index the index to fix it at
     * @throws IllegalArgumentException if there is no such dimension or index
     */
    public TensorSpec select(final int dim, final long index) {
        checkDim("select", dim);
        Arguments.require(
                0 <= index && index < shape.size(dim),
                "select: index",
                index + " of dim " + dim,
                "inside shape " + shape);
        final List<Long> dims = new ArrayList<>();
        final List<Long> steps = new ArrayList<>();
        for (int d = 0; d < rank(); d++) {
            if (d != dim) {
                dims.add(shape.size(d));
                steps.add(strides.step(d));
            }
        }
        return strided(dtype, toArray(dims), toArray(steps));
    }

    /**
     * {@return the spec with two dimensions exchanged}
     *
     * @param dim0 a dimension
     * @param dim1 another dimension, or the same
     * @throws IllegalArgumentException if there is no such dimension
     */
    public TensorSpec transpose(final int dim0, final int dim1) {
        checkDim("transpose", dim0);
        checkDim("transpose", dim1);
        final long[] dims = shape.toArray();
        final long[] steps = strides.toArray();
        dims[dim0] = shape.size(dim1);
        dims[dim1] = shape.size(dim0);
        steps[dim0] = strides.step(dim1);
        steps[dim1] = strides.step(dim0);
        return strided(dtype, dims, steps);
    }

    /**
     * {@return the spec of the same elements in another shape}
     *
     * @param dims sizes with the same product
     * @throws IllegalArgumentException if the product differs, or this spec is not contiguous, so that only a copy could have the shape
     */
    public TensorSpec reshape(final long... dims) {
        final Shape target = Shape.of(dims);
        Arguments.require(
                target.elements() == elements(), "reshape: shape", target, elements() + " elements as in " + shape);
        Arguments.require(
                isContiguous(),
                "reshape: strides",
                strides + " of shape " + shape,
                "a contiguous tensor: views never copy");
        return new TensorSpec(dtype, target, Strides.packed(target));
    }

    private void checkDim(final String operation, final int dim) {
        Arguments.require(
                dim >= 0 && dim < rank(), operation + ": dim", dim, "0.." + (rank() - 1) + " of shape " + shape);
    }

    private static long span(final Shape shape, final Strides strides) {
        if (shape.elements() == 0) {
            return 0;
        }
        long last = 0;
        for (int dim = 0; dim < shape.rank(); dim++) {
            final long reach = Arguments.multiply("tensor: span", shape.size(dim) - 1, strides.step(dim));
            last = Arguments.add("tensor: span", last, reach);
        }
        return Arguments.add("tensor: span", last, 1);
    }

    private static String format(final long[] index) {
        return Arrays.toString(index).replace(" ", "");
    }

    private static long[] toArray(final List<Long> values) {
        return values.stream().mapToLong(Long::longValue).toArray();
    }

    /** {@return the form of messages: {@code F32 [16,56]}, with strides where the tensor is not contiguous} */
    @Override
    public String toString() {
        return dtype + " " + shape + (isContiguous() ? "" : " strides " + strides);
    }
}
