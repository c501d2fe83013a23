package io.hopper4j.attention;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;

/**
 * A bound {@link MlaMergePlan}. {@code rows} of {@link Launch#launch} is the number of requests in use.
 *
 * @param <T> host or device tensors
 */
public interface MlaMergeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link MlaMergePlan#bind}
     * @param b as in {@link MlaMergePlan#bind}
     * @param merged as in {@link MlaMergePlan#bind}
     * @throws IllegalArgumentException as {@link MlaMergePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(MlaResult<T> a, MlaResult<T> b, MlaResult<T> merged);
}
