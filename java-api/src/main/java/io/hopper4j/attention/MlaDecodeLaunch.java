package io.hopper4j.attention;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;

/**
 * A bound {@link MlaDecodePlan}: the attention of one layer. {@code rows} of {@link Launch#launch} is the number of requests in use, the same
 * as the schedule was launched with.
 *
 * @param <T> host or device tensors
 */
public interface MlaDecodeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param operands as in {@link MlaDecodePlan#bind}
     * @throws IllegalArgumentException as {@link MlaDecodePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(MlaDecodeOperands<T> operands);
}
