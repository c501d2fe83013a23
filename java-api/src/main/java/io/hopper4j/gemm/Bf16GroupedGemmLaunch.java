package io.hopper4j.gemm;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link Bf16GroupedGemmPlan}; {@code rows} of {@link Launch#launch} is M, the rows of all groups together.
 *
 * @param <T> host or device tensors
 */
public interface Bf16GroupedGemmLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link Bf16GroupedGemmPlan#bind}
     * @param b as in {@link Bf16GroupedGemmPlan#bind}
     * @param groupEnds as in {@link Bf16GroupedGemmPlan#bind}
     * @param c as in {@link Bf16GroupedGemmPlan#bind}
     * @param out as in {@link Bf16GroupedGemmPlan#bind}
     * @param workspace as in {@link Bf16GroupedGemmPlan#bind}
     * @throws IllegalArgumentException as {@link Bf16GroupedGemmPlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T a, T b, T groupEnds, @Nullable T c, T out, @Nullable T workspace);
}
