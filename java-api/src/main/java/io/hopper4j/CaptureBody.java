package io.hopper4j;

/** The work that {@link Stream#capture} records. */
@FunctionalInterface
public interface CaptureBody {
    /**
     * Puts work into a stream.
     *
     * @param on the stream being captured
     */
    void record(Stream on);
}
