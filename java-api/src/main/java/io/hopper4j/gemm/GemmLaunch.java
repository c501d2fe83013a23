package io.hopper4j.gemm;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link GemmPlan}; {@code rows} of {@link Launch#launch} is M.
 *
 * @param <T> host or device tensors
 */
public interface GemmLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link GemmPlan#bind}
     * @param b as in {@link GemmPlan#bind}
     * @param c as in {@link GemmPlan#bind}
     * @param out as in {@link GemmPlan#bind}
     * @param workspace as in {@link GemmPlan#bind}
     * @throws IllegalArgumentException as {@link GemmPlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(Scaled<T> a, Scaled<T> b, @Nullable T c, T out, @Nullable T workspace);

    /**
     * Exchanges the tensors of a spec with quantised output, as the other form does.
     *
     * @param a as in {@link GemmPlan#bind}
     * @param b as in {@link GemmPlan#bind}
     * @param out as in {@link GemmPlan#bind}
     * @param workspace as in {@link GemmPlan#bind}
     * @throws IllegalArgumentException as {@link GemmPlan#bind}
     * @throws IllegalStateException as the other form
     */
    void rebind(Scaled<T> a, Scaled<T> b, Scaled<T> out, @Nullable T workspace);
}
