package io.hopper4j.gemm;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link MaskedGemmPlan}; {@code rows} of {@link Launch#launch} is what a count may be at most.
 *
 * @param <T> host or device tensors
 */
public interface MaskedGemmLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param a as in {@link MaskedGemmPlan#bind}
     * @param b as in {@link MaskedGemmPlan#bind}
     * @param counts as in {@link MaskedGemmPlan#bind}
     * @param out as in {@link MaskedGemmPlan#bind}
     * @param workspace as in {@link MaskedGemmPlan#bind}
     * @throws IllegalArgumentException as {@link MaskedGemmPlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(Scaled<T> a, Scaled<T> b, T counts, T out, @Nullable T workspace);
}
