package io.hopper4j;

/**
 * Work recorded by {@link Stream#capture}, to be run as often as wanted for the cost of one launch. It keeps the addresses and scalars of
 * the time of capture: rebinding a captured launch does not change it.
 *
 * <p>Holds leases on the arenas of the tensors it works on, so they cannot be closed before it; the launches captured may be closed or
 * rebound. May be used from several threads, but runs of one graph follow one another.
 */
public interface Graph extends AutoCloseable {
    /**
     * Puts the recorded work into a stream.
     *
     * @param on a stream of the context that was captured
     * @throws IllegalArgumentException if the stream is of another device or kind
     * @throws IllegalStateException if the graph or stream is closed
     * @throws DeviceException if the driver reports an error
     */
    void launch(Stream on);

    /** Lets the graph go and returns its leases. Runs that are under way finish. Closing a closed graph does nothing. */
    @Override
    void close();
}
