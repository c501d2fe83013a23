package io.hopper4j;

import java.io.Serializable;
import java.util.List;

/** The answer to "can this be computed, and how": a configuration, or every reason why not. */
public sealed interface Support {
    /**
     * The operation can be computed.
     *
     * @param kernel name of the kernel instance, stable between runs
     * @param workspaceBytes device memory that {@code bind} asks for; 0: none
     * @param explanation why this instance, in words and figures
     */
    record Supported(String kernel, long workspaceBytes, String explanation) implements Support {}

    /**
     * The operation cannot be computed.
     *
     * @param reasons every unmet need, at least one
     */
    record Unsupported(List<Reason> reasons) implements Support {
        /** Keeps a copy of the reasons. */
        public Unsupported {
            reasons = List.copyOf(reasons);
        }
    }

    /**
     * One unmet need.
     *
     * @param name operation and argument, such as {@code gemm: k}
     * @param got what the spec or device has
     * @param needed what the kernels need
     */
    record Reason(String name, String got, String needed) implements Serializable {
        /** {@return the form of messages: {@code gemm: k: got 120, need a multiple of 16}} */
        @Override
        public String toString() {
            return name + ": got " + got + ", need " + needed;
        }
    }

    /** {@return whether the operation can be computed} */
    default boolean isSupported() {
        return this instanceof Supported;
    }
}
