package io.hopper4j.reference;

/** What work found in its tensors that a caller could not be told of at launch; a stream keeps it for the next call that waits. */
final class BadData extends IllegalArgumentException {
    private static final long serialVersionUID = 1;

    BadData(final String message) {
        super(message);
    }

    /** {@return what is wrong with an element that should be in 0..most} */
    static String describe(final String argument, final long index, final long got, final long most) {
        return argument + "[" + index + "]: got " + got + ", need 0.." + most;
    }
}
