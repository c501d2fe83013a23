package io.hopper4j.attention;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;

/**
 * A bound {@link MlaCacheWritePlan}. {@code rows} of {@link Launch#launch} is the number of tokens in use.
 *
 * @param <T> host or device tensors
 */
public interface MlaCacheWriteLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param operands as in {@link MlaCacheWritePlan#bind}
     * @throws IllegalArgumentException as {@link MlaCacheWritePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(MlaCacheWriteOperands<T> operands);
}
