package io.hopper4j;

import java.time.Duration;
import java.util.concurrent.CompletionStage;

/** A mark in a stream, reached when the work before it is done. May be used from any thread; the caller closes it. */
public interface Event extends AutoCloseable {
    /**
     * {@return whether the mark has been reached}
     *
     * @throws IllegalArgumentException if an operation found bad values in device memory, see {@link Stream#synchronize}
     * @throws IllegalStateException if the event is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    boolean isReached();

    /**
     * Waits until the mark is reached. It blocks the carrier of a virtual thread: {@link #toCompletionStage()} does not.
     *
     * @throws IllegalArgumentException if an operation found bad values in device memory, see {@link Stream#synchronize}
     * @throws IllegalStateException if the event is closed
     * @throws DeviceException if the driver reports an error, possibly of earlier work
     */
    void synchronize();

    /**
     * {@return the time on the device from another mark to this one, negative if this was reached first}
     *
     * @param start an event of the same device
     * @throws IllegalArgumentException if {@code start} is of another kind of stream
     * @throws IllegalStateException if an event is closed or not reached yet
     */
    Duration elapsedSince(Event start);

    /**
     * {@return a stage that completes when the mark is reached, exceptionally with {@link DeviceException} if the driver reports an error,
     * {@link IllegalStateException} if the event is closed before, or {@link IllegalArgumentException} as {@link #synchronize} throws it; no
     * thread is blocked meanwhile}
     */
    CompletionStage<Void> toCompletionStage();

    /** Lets the event go. What waits for it in a stream still does. Closing a closed event does nothing. */
    @Override
    void close();
}
