package io.hopper4j;

/**
 * A queue of work: what is put in runs in that order. The streams of the plain Java {@link Kernels} do the work at once, on the calling
 * thread.
 *
 * <p>May be used from any thread; work of several threads is queued in the order of their calls.
 */
public interface Stream extends AutoCloseable {
    /**
     * {@return the {@code CUstream}, for other libraries}
     *
     * @throws IllegalStateException if the stream is closed
     * @throws UnsupportedOperationException if this is a stream of the reference
     */
    long handle();

    /**
     * Waits until all work put in so far is done. It blocks the carrier of a virtual thread: {@code record().toCompletionStage()} does
     * not.
     *
     * <p>Values in device memory that only a kernel can check, such as lengths or page numbers, are reported here: the kernel stays inside its
     * tensors, and the first call that waits for the device or finds work done, on whichever stream, throws once.
     *
     * @throws IllegalArgumentException if an operation found bad values in device memory; the message names it and the element
     * @throws IllegalStateException if the stream is closed or being captured
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void synchronize();

    /**
     * {@return a new timed event that is reached when all work put in so far is done; the caller closes it}
     *
     * @throws IllegalStateException if the stream is closed
     * @throws DeviceException if the driver reports an error
     */
    Event record();

    /**
     * Makes work put in from now on wait for an event. Returns at once.
     *
     * @param event an event of any stream of the same kind
     * @throws IllegalArgumentException if the event is of another kind of stream
     * @throws IllegalStateException if the stream or event is closed
     */
    void await(Event event);

    /**
     * Records what {@code work} puts into this stream, without running it. Meanwhile this stream, and streams that have joined by an event of it, are the
     * calling thread's: calls of other threads throw {@link IllegalStateException}. The capture ends even when {@code work} throws; then there is
     * no graph, and the exception is passed on.
     *
     * @param work puts work into the stream it is given, this one; must not synchronise it
     * @return the recorded work, which the caller closes; it holds leases on the arenas of the tensors it works on
     * @throws IllegalStateException if the stream is closed or being captured, or another thread is inside a call on it
     * @throws DeviceException if the driver cannot capture what {@code work} did
     */
    Graph capture(CaptureBody work);

    /**
     * Waits for the work put in and destroys the stream; a wrapped stream is only let go. Closing a closed stream does nothing.
     *
     * @throws IllegalStateException if an arena is open on this stream or it is being captured; the message names it
     */
    @Override
    void close();
}
