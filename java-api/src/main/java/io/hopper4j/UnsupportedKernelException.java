package io.hopper4j;

import java.util.List;
import java.util.stream.Collectors;

/** No kernel serves a spec on a device. {@link Kernels#support} gives the same reasons without an exception. */
public final class UnsupportedKernelException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final Support.Reason[] reasons;

    /**
     * Made by the library.
     *
     * @param reasons every unmet need, at least one
     */
    public UnsupportedKernelException(final List<Support.Reason> reasons) {
        super(reasons.stream().map(Support.Reason::toString).collect(Collectors.joining("; ")));
        this.reasons = reasons.toArray(Support.Reason[]::new);
    }

    /** {@return every unmet need} */
    public List<Support.Reason> reasons() {
        return List.of(reasons);
    }
}
