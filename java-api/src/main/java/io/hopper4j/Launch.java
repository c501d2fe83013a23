package io.hopper4j;

/**
 * A plan with tensors: ready to be put into a stream as often as wanted. It holds leases on its plan and on the arenas of its tensors
 * until it is closed.
 *
 * <p>A launch of the CUDA kernels is one call into native code: it allocates nothing, never waits, and may be captured. May be used from
 * several threads on several streams at once if the work may run side by side (it writes the same output). The stream must belong to the
 * device of the tensors.
 */
public interface Launch extends AutoCloseable {
    /**
     * Puts the work into a stream, with all rows that are bound.
     *
     * @param on the stream; the tensors must be valid until it is past the work
     * @throws IllegalArgumentException if the stream is of another device or kind
     * @throws IllegalStateException if the launch or stream is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void launch(Stream on);

    /**
     * Puts the work into a stream, with fewer rows than are bound: only the first ones are read and written.
     *
     * @param on the stream; the tensors must be valid until it is past the work
     * @param rows rows in use this time, from 0 (nothing is done) to the number bound
     * @throws IllegalArgumentException if there are not that many rows, or the stream is of another device or kind
     * @throws IllegalStateException if the launch or stream is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void launch(Stream on, long rows);

    /**
     * Returns the leases. Work already put into a stream, and graphs that captured the launch, are not affected. Closing a closed launch does nothing.
     *
     * @throws IllegalStateException if another thread is inside {@code launch}
     */
    @Override
    void close();
}
