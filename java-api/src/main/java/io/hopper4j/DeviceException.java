package io.hopper4j;

/**
 * The driver reported an error. It may be of earlier, asynchronous work. If {@link #isSticky()}, the context is lost: every later call on
 * this device fails too, and the process must restart to use it again.
 */
public final class DeviceException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final String operation;
    private final int code;
    private final boolean sticky;

    /**
     * Made by the library.
     *
     * @param operation what was being done
     * @param code the driver's {@code CUresult}; 0 where no driver call failed
     * @param sticky whether the context is lost
     * @param message the whole sentence
     */
    public DeviceException(final String operation, final int code, final boolean sticky, final String message) {
        super(message);
        this.operation = operation;
        this.code = code;
        this.sticky = sticky;
    }

    /** {@return what was being done, such as {@code gemm}} */
    public String operation() {
        return operation;
    }

    /** {@return the driver's {@code CUresult}; 0 where no driver call failed, as when there is no driver} */
    public int code() {
        return code;
    }

    /** {@return whether the context is lost, so that the process must restart to use the device again} */
    public boolean isSticky() {
        return sticky;
    }
}
