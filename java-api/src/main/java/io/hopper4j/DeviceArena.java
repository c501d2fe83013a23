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
