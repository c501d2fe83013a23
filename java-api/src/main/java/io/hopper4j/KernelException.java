package io.hopper4j;

/**
 * What goes wrong without the caller having made a mistake: the driver, the card, its memory, the native library, or a request that no
 * kernel serves. Mistakes of the caller are {@link IllegalArgumentException} and {@link IllegalStateException}.
 */
public abstract sealed class KernelException extends RuntimeException
        permits DeviceException,
                OutOfDeviceMemoryException,
                OutOfPagesException,
                PeerTimeoutException,
                UnsupportedKernelException,
                NativeLibraryException {
    private static final long serialVersionUID = 1L;

    KernelException(final String message) {
        super(message);
    }
}
