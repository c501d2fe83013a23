package io.hopper4j;

import io.hopper4j.internal.cuda.CudaTensor;

/**
 * A tensor in device memory. Its storage is an address, not a segment: Java cannot dereference it by accident.
 *
 * <p>Its lifetime is that of the {@link DeviceArena} that allocated or wrapped it; every use after that is closed throws
 * {@link IllegalStateException}. Equality is identity: two views of the same memory are different objects.
 */
public sealed interface DeviceTensor extends Tensor permits CudaTensor {
    /**
     * {@return the device address of the first element; 0 for a tensor without elements}
     *
     * @throws IllegalStateException if the arena is closed
     */
    long address();

    /** {@return the device whose memory this is} */
    Device device();

    /**
     * Copies elements from the host in stream order. Asynchronous where the host memory is pinned ({@link Device#allocatePinned}):
     * the source must then stay valid and unchanged until the stream is past the copy. Other memory is staged by the driver.
     *
     * @param source same type and shape, native memory; on both sides contiguous, or rows (or columns) at one distance
     * @param on a stream of the same device
     * @throws IllegalArgumentException if type or shape differ, strides cannot be copied, or the stream is of another device
     * @throws IllegalStateException if the arena or stream is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void copyFrom(HostTensor source, Stream on);

    /**
     * Copies elements from other memory of the same device in stream order. The two must not overlap.
     *
     * @param source same type and shape; on both sides contiguous, or rows (or columns) at one distance
     * @param on a stream of the same device
     * @throws IllegalArgumentException if type or shape differ, strides cannot be copied, or the source or stream is of another device
     * @throws IllegalStateException if an arena or the stream is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void copyFrom(DeviceTensor source, Stream on);

    /**
     * Copies elements to the host in stream order; the target holds them when the stream is past the copy.
     *
     * @param target same type and shape, native memory; on both sides contiguous, or rows (or columns) at one distance
     * @param on a stream of the same device
     * @throws IllegalArgumentException if type or shape differ, strides cannot be copied, the target is read-only, or the stream is of
     *     another device
     * @throws IllegalStateException if the arena or stream is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void copyTo(HostTensor target, Stream on);

    @Override
    DeviceTensor slice(int dim, long from, long to);

    @Override
    DeviceTensor select(int dim, long index);

    @Override
    DeviceTensor transpose(int dim0, int dim1);

    @Override
    DeviceTensor reshape(long... dims);
}
