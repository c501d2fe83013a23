package io.hopper4j;

/** A paged cache has not enough free pages. Nothing was changed, and later calls work: free sequences and try again. */
public final class OutOfPagesException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final long asked;
    private final long free;

    /**
     * Made by the library.
     *
     * @param asked pages that were needed
     * @param free pages that were free
     */
    public OutOfPagesException(final long asked, final long free) {
        super("kv_cache: pages: got " + asked + " asked for, need at most " + free + ", those free");
        this.asked = asked;
        this.free = free;
    }

    /** {@return how many pages were needed} */
    public long asked() {
        return asked;
    }

    /** {@return how many pages were free} */
    public long free() {
        return free;
    }
}
