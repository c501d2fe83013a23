package io.hopper4j;

/** The card has not enough free memory. Nothing was allocated, and later calls work. */
public final class OutOfDeviceMemoryException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final long requestedBytes;
    private final long freeBytes;

    /**
     * Made by the library.
     *
     * @param requestedBytes what was asked for
     * @param freeBytes what the card had free; -1 where unknown
     * @param message the whole sentence
     */
    public OutOfDeviceMemoryException(final long requestedBytes, final long freeBytes, final String message) {
        super(message);
        this.requestedBytes = requestedBytes;
        this.freeBytes = freeBytes;
    }

    /** {@return what was asked for, in bytes} */
    public long requestedBytes() {
        return requestedBytes;
    }

    /** {@return what the card had free, in bytes; -1 where unknown} */
    public long freeBytes() {
        return freeBytes;
    }
}
