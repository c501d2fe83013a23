package io.hopper4j;

/**
 * A rank of an expert group did not answer before the deadline. The group is lost: its calls fail from now on; it is closed and, without the lost rank,
 * opened anew. The device stays usable.
 */
public final class PeerTimeoutException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final int rank;

    /**
     * Made by the library.
     *
     * @param rank the rank that did not answer
     * @param message the whole sentence, with what it was waited for
     */
    public PeerTimeoutException(final int rank, final String message) {
        super(message);
        this.rank = rank;
    }

    /** {@return the rank that did not answer, or the first of them; of ranks that wait for each other, the one that waits for none} */
    public int rank() {
        return rank;
    }
}
