package io.hopper4j;

import io.hopper4j.internal.cuda.CudaDevice;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Optional;

/**
 * One GPU. Device objects live as long as the process, are equal when they are the same card, and may be used from any thread.
 *
 * <p>The first use of a device retains its primary context. No method changes which context is current for the calling thread.
 */
public interface Device {
    /**
     * {@return the devices that the driver shows, none where there is no driver}
     *
     * @throws NativeLibraryException if the native library cannot be loaded
     * @throws DeviceException if the driver reports an error
     */
    static List<Device> all() {
        return CudaDevice.all();
    }

    /**
     * {@return how many devices the driver shows, 0 where there is no driver}
     *
     * @throws NativeLibraryException if the native library cannot be loaded
     * @throws DeviceException if the driver reports an error
     */
    static int count() {
        return all().size();
    }

    /** {@return why there is no device to use, in words: no library, no driver, one too old, no card; empty where there is one} */
    static Optional<String> unavailableReason() {
        return CudaDevice.unavailableReason();
    }

    /**
     * {@return the native library in use; loads it}
     *
     * @throws NativeLibraryException if it cannot be loaded
     */
    static LibraryInfo library() {
        return CudaDevice.library();
    }

    /** {@return the number that the driver gives this card, from 0} */
    int index();

    /** {@return what the card is} */
    DeviceInfo info();

    /**
     * {@return bytes of device memory free at this moment, memory that this library's pool keeps for reuse counted as used}
     *
     * @throws DeviceException if the driver reports an error
     */
    long freeBytes();

    /**
     * Gives memory that this library's pool keeps for reuse back to the card, where other processes can have it. The pool keeps what arenas
     * gave back, from when their stream is past their close.
     *
     * @param keepBytes how much the pool may go on keeping
     * @throws IllegalArgumentException if {@code keepBytes} is negative
     * @throws DeviceException if the driver reports an error
     */
    void trimMemory(long keepBytes);

    /**
     * Opens an arena whose allocations are ordered with the work of a stream.
     *
     * @param on a stream of this device; it must stay open as long as the arena
     * @return an open arena, which the caller closes
     * @throws IllegalArgumentException if the stream is of another device or not a CUDA stream
     * @throws IllegalStateException if the stream is closed
     */
    DeviceArena openArena(Stream on);

    /**
     * {@return a new stream of the primary context, which the caller closes; it does not wait for the legacy default stream}
     *
     * @throws DeviceException if the driver reports an error
     */
    Stream openStream();

    /**
     * Borrows a stream that someone else made, also one of a context that is not the primary one. Closing the result never destroys it.
     *
     * @param cuStream the {@code CUstream} or {@code cudaStream_t}; 0 is the legacy default stream of the primary context
     * @return a stream over it; the {@code CUstream} must outlive it
     * @throws IllegalArgumentException if it is a stream of another device
     * @throws DeviceException if the driver reports an error
     */
    Stream wrapStream(long cuStream);

    /**
     * Allocates page-locked host memory, from and to which the GPU copies asynchronously. Releasing it is slow and waits for the device.
     *
     * @param owner releases the memory when it is closed, once no copy uses it any more; a confined or shared arena, not
     *     {@code Arena.ofAuto()}, which might release it during a copy
     * @param dtype element type
     * @param dims sizes, outermost first
     * @return a row-major tensor of zeros
     * @throws IllegalArgumentException if a size is negative or the tensor would span 2^63 bytes or more
     * @throws DeviceException if the driver has no such memory left
     */
    HostTensor allocatePinned(Arena owner, DType dtype, long... dims);
}
