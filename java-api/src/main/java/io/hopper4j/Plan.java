package io.hopper4j;

/**
 * A spec that has been checked against a device, with the kernel instance chosen for it. Immutable; may be used from any thread. Its
 * launches hold leases on it.
 */
public interface Plan extends AutoCloseable {
    /** {@return what is computed} */
    OpSpec spec();

    /** {@return device memory in bytes that {@code bind} asks for; 0: none} */
    long workspaceBytes();

    /** {@return the name of the kernel instance, stable between runs} */
    String kernel();

    /** {@return why this instance, in words and figures} */
    String explanation();

    /**
     * Lets the plan go. Closing a closed plan does nothing.
     *
     * @throws IllegalStateException if launches bound from it are open; the message names them
     */
    @Override
    void close();
}
