package io.hopper4j.reference;

/** What work found in its tensors that a caller could not be told of at launch; a stream keeps it for the next call that waits. */
final class BadData extends IllegalArgumentException {
    private static final long serialVersionUID = 1;

    BadData(final String message) {
        super(message);
    }
}
