package io.hopper4j.moe;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;

/**
 * A bound {@link CombinePlan}. A launch throws {@link io.hopper4j.PeerTimeoutException} when a peer has not answered an earlier call of the group.
 *
 * @param <T> host or device tensors
 */
public interface CombineLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors. On failure the old ones stay bound.
     *
     * @param operands as in {@link CombinePlan#bind}
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(CombineOperands<T> operands);
}
