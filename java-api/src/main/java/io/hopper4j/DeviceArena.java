package io.hopper4j;

/**
 * Owns device memory, like {@code java.lang.foreign.Arena} owns host memory: one owner, closed once, all its tensors gone together.
 *
 * <p>Allocation and release happen in the order of the arena's stream: memory is free for others once the stream is past the close. A
 * tensor may be used on another stream if that waits (by an {@link Event}) for the allocation, and if the arena's stream waits for that
 * use before the arena is closed.
 *
 * <p>Bound launches and captured graphs hold leases on the arenas of their tensors. May be used from any thread.
 */
public interface DeviceArena extends AutoCloseable {
    /** {@return the device whose memory this arena owns} */
    Device device();

    /**
     * {@return a new row-major tensor, its elements undefined, its address a multiple of 256}
     *
     * @param dtype element type
     * @param dims sizes, outermost first; a size of 0 takes no memory
     * @throws IllegalArgumentException if a size is negative or the tensor would span 2^63 bytes or more
     * @throws IllegalStateException if the arena is closed
     * @throws OutOfDeviceMemoryException if the card has not that much left; the arena stays usable
     */
    DeviceTensor allocate(DType dtype, long... dims);

    /**
     * {@return a new tensor with given strides, its elements undefined, its address a multiple of 256}
     *
     * @param spec type, shape and strides
     * @throws IllegalStateException if the arena is closed
     * @throws OutOfDeviceMemoryException if the card has not that much left; the arena stays usable
     */
    DeviceTensor allocate(TensorSpec spec);

    /**
     * {@return a new tensor of a host tensor's type, shape and strides, with its elements once the stream is past the copy}
     *
     * @param source the elements, copied as {@link DeviceTensor#copyFrom(HostTensor, Stream)} does
     * @param on the stream of the copy
     * @throws IllegalStateException if the arena or the stream is closed
     * @throws OutOfDeviceMemoryException if the card has not that much left; the arena stays usable
     */
    default DeviceTensor copyOf(final HostTensor source, final Stream on) {
        final DeviceTensor copy = allocate(source.spec());
        copy.copyFrom(source, on);
        return copy;
    }

    /**
     * {@return a new matrix of activations as the kernels take it: E4M3 values {@code [m, k]} and 1x128 scales laid out as
     * {@link Scaled#activationScaleSpec}, its elements undefined}
     *
     * @param m rows
     * @param k columns, a multiple of 16 where a product reads it
     * @throws IllegalArgumentException if a size is negative or too large
     * @throws IllegalStateException if the arena is closed
     * @throws OutOfDeviceMemoryException if the card has not that much left; the arena stays usable
     */
    default Scaled<DeviceTensor> allocateActivation(final long m, final long k) {
        return Scaled.activation(allocate(DType.F8_E4M3, m, k), allocate(Scaled.activationScaleSpec(m, k)));
    }

    /**
     * {@return a new weight matrix as the kernels take it: E4M3 values {@code [n, k]} and 128x128 scales
     * {@code [ceil(n/128), ceil(k/128)]}, its elements undefined}
     *
     * @param n rows
     * @param k columns, a multiple of 16 where a product reads it
     * @throws IllegalArgumentException if a size is negative or too large
     * @throws IllegalStateException if the arena is closed
     * @throws OutOfDeviceMemoryException if the card has not that much left; the arena stays usable
     */
    default Scaled<DeviceTensor> allocateWeight(final long n, final long k) {
        return Scaled.weight(allocate(DType.F8_E4M3, n, k), allocate(Scaled.weightScaleSpec(n, k)));
    }

    /**
     * Borrows device memory that someone else owns, such as another engine's buffer. It is never freed here.
     *
     * @param address device address of the first element, a multiple of the element size
     * @param spec type, shape and strides of what lies there
     * @return a tensor that is valid until the arena is closed; the memory must stay valid as long
     * @throws IllegalArgumentException if the address is 0 for a tensor with elements, or misaligned
     * @throws IllegalStateException if the arena is closed
     */
    DeviceTensor wrap(long address, TensorSpec spec);

    /**
     * Releases all memory in stream order. Closing a closed arena does nothing.
     *
     * @throws IllegalStateException if launches or graphs hold leases; the message names them, and the arena stays open
     */
    @Override
    void close();
}
