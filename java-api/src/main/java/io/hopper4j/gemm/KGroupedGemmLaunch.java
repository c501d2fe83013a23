package io.hopper4j.gemm;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link KGroupedGemmPlan}; {@code rows} of {@link Launch#launch} is K, what the last end may be at most.
 *
 * @param <T> host or device tensors
 */
public interface KGroupedGemmLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link KGroupedGemmPlan#bind}
     * @param b as in {@link KGroupedGemmPlan#bind}
     * @param groupEnds as in {@link KGroupedGemmPlan#bind}
     * @param c as in {@link KGroupedGemmPlan#bind}
     * @param out as in {@link KGroupedGemmPlan#bind}
     * @param workspace as in {@link KGroupedGemmPlan#bind}
     * @throws IllegalArgumentException as {@link KGroupedGemmPlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(Scaled<T> a, Scaled<T> b, T groupEnds, @Nullable T c, T out, @Nullable T workspace);
}
