package io.hopper4j;

/**
 * A strided array of numbers outside the Java heap: in host memory ({@link HostTensor}) or in device memory
 * ({@link DeviceTensor}).
 *
 * <p>A tensor does not own its storage: an {@code Arena} or a {@link DeviceArena} does, and a tensor is valid as long as that is open.
 * Views ({@link #slice}, {@link #select}, {@link #transpose}, {@link #reshape}) share storage and lifetime with their source and never
 * copy; a view that would need a copy throws. Tensor objects are immutable and may be shared between threads; who writes the elements
 * when is the caller's affair.
 */
public sealed interface Tensor permits HostTensor, DeviceTensor {
    /** {@return element type, shape and strides} */
    TensorSpec spec();

    /** {@return the element type} */
    default DType dtype() {
        return spec().dtype();
    }

    /** {@return the sizes, outermost dimension first} */
    default Shape shape() {
        return spec().shape();
    }

    /** {@return the strides in elements, outermost dimension first} */
    default Strides strides() {
        return spec().strides();
    }

    /**
     * {@return the view of the part {@code from <= index < to} of a dimension}
     *
     * @param dim the dimension
     * @param from first index kept
     * @param to first index after the part
     * @throws IllegalArgumentException if there is no such part
     */
    Tensor slice(int dim, long from, long to);

    /**
     * {@return the view without a dimension, at one index of it}
     *
     * @param dim the dimension to leave out
     * @param index the index to fix it at
     * @throws IllegalArgumentException if there is no such dimension or index
     */
    Tensor select(int dim, long index);

    /**
     * {@return the view with two dimensions exchanged}
     *
     * @param dim0 a dimension
     * @param dim1 another dimension, or the same
     * @throws IllegalArgumentException if there is no such dimension
     */
    Tensor transpose(int dim0, int dim1);

    /**
     * {@return the view of the same elements in another shape}
     *
     * @param dims sizes with the same product
     * @throws IllegalArgumentException if the product differs, or the tensor is not contiguous, so that only a copy could have the shape
     */
    Tensor reshape(long... dims);
}
