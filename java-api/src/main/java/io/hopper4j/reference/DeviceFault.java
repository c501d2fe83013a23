package io.hopper4j.reference;

/**
 * The first bad value of an operation's device data. The kernels leave out what it stands for, finish, and have the next wait throw; the reference, whose
 * work is done when the launch returns, finishes and throws.
 *
 * @param message what is thrown; empty: there is none
 */
record DeviceFault(String message) {
    static final DeviceFault NONE = new DeviceFault("");

    /** {@return this, or where there was none before, a fault with this value, which should be in 0..most} */
    DeviceFault or(final String operation, final String argument, final long index, final long got, final long most) {
        return message.isEmpty()
                ? new DeviceFault(operation + ": " + argument + "[" + index + "]: got " + got + ", need 0.." + most)
                : this;
    }

    void throwIfAny() {
        if (!message.isEmpty()) {
            throw new IllegalArgumentException(message);
        }
    }
}
