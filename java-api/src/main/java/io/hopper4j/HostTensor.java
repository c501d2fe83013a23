package io.hopper4j;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.SegmentAllocator;

/**
 * A tensor in host memory outside the Java heap (or, wrapped, inside it): a {@link MemorySegment} with a {@link TensorSpec}. Lifetime
 * and thread confinement are those of the segment; elements are in native byte order.
 *
 * <p>{@snippet :
 * try (Arena arena = Arena.ofConfined()) {
 *     HostTensor x = HostTensor.allocate(arena, DType.BF16, 16, 128);
 *     x.setFloat(1.5f, 3, 7);
 *     HostTensor row = x.select(0, 3);      // a view: row.getFloat(7) is 1.5f
 * }
 * }
 */
public sealed interface HostTensor extends Tensor permits HostSegmentTensor {
    /**
     * {@return a new row-major tensor of zeros}
     *
     * @param allocator owns the memory, often an {@code Arena}; see {@link Device#allocatePinned} for memory that the GPU copies from
     *     asynchronously
     * @param dtype element type
     * @param dims sizes, outermost first
     * @throws IllegalArgumentException if a size is negative or the tensor would span 2^63 bytes or more
     */
    static HostTensor allocate(final SegmentAllocator allocator, final DType dtype, final long... dims) {
        return allocate(allocator, TensorSpec.packed(dtype, dims));
    }

    /**
     * {@return a new tensor of zeros with given strides}
     *
     * @param allocator owns the memory
     * @param spec type, shape and strides
     */
    static HostTensor allocate(final SegmentAllocator allocator, final TensorSpec spec) {
        return HostSegmentTensor.allocate(allocator, spec);
    }

    /**
     * {@return a tensor over memory that exists}
     *
     * @param segment its first element is at the start of the segment; not copied
     * @param spec type, shape and strides
     * @throws IllegalArgumentException if the segment is shorter than {@link TensorSpec#byteSpan()}
     */
    static HostTensor wrap(final MemorySegment segment, final TensorSpec spec) {
        return HostSegmentTensor.wrap(segment, spec);
    }

    /** {@return the storage from the first element to the last, {@link TensorSpec#byteSpan()} bytes} */
    MemorySegment segment();

    /**
     * {@return an element as a float: exact for floating-point types of 16 bits or fewer, rounded to nearest even for I32 and I64}
     *
     * @param index one number a dimension
     * @throws IllegalArgumentException if the index has another rank or lies outside
     * @throws IllegalStateException if the memory has been released
     */
    float getFloat(long... index);

    /**
     * Writes an element: rounded to nearest even; saturating for E4M3, E8M0 and the integers; NaN gives the NaN of the type, and 0 for
     * integers.
     *
     * @param value what to write
     * @param index one number a dimension
     * @throws IllegalArgumentException if the index has another rank or lies outside, or the memory is read-only
     * @throws IllegalStateException if the memory has been released
     */
    void setFloat(float value, long... index);

    /**
     * {@return all elements in row-major order, each as {@link #getFloat} gives it}
     *
     * @throws IllegalArgumentException if there are more elements than a Java array can hold
     */
    float[] toFloats();

    /**
     * Writes all elements in row-major order, each as {@link #setFloat} does.
     *
     * @param values one value an element
     * @throws IllegalArgumentException if the count differs, or the memory is read-only
     */
    void setFloats(float... values);

    @Override
    HostTensor slice(int dim, long from, long to);

    @Override
    HostTensor select(int dim, long index);

    @Override
    HostTensor transpose(int dim0, int dim1);

    @Override
    HostTensor reshape(long... dims);
}
