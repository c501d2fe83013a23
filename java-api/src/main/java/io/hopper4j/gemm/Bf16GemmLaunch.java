package io.hopper4j.gemm;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link Bf16GemmPlan}; {@code rows} of {@link Launch#launch} is M of every product.
 *
 * @param <T> host or device tensors
 */
public interface Bf16GemmLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link Bf16GemmPlan#bind}
     * @param b as in {@link Bf16GemmPlan#bind}
     * @param c as in {@link Bf16GemmPlan#bind}
     * @param out as in {@link Bf16GemmPlan#bind}
     * @param workspace as in {@link Bf16GemmPlan#bind}
     * @throws IllegalArgumentException as {@link Bf16GemmPlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T a, T b, @Nullable T c, T out, @Nullable T workspace);
}
