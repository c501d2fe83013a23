package io.hopper4j.moe;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;

/**
 * A bound {@link GatePlan}.
 *
 * @param <T> host or device tensors
 */
public interface GateLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param operands the tensors
     * @throws IllegalArgumentException as {@link GatePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(GateOperands<T> operands);
}
