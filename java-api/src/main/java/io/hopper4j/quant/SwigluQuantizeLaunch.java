package io.hopper4j.quant;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link SwigluQuantizePlan}. {@code rows} of {@link Launch#launch} is the number of rows in use, or, where device memory counts
 * those of each group, what a count may be at most.
 *
 * @param <T> host or device tensors
 */
public interface SwigluQuantizeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param in as in {@link SwigluQuantizePlan#bind}
     * @param weights as in {@link SwigluQuantizePlan#bind}
     * @param rowCounts as in {@link SwigluQuantizePlan#bind}
     * @param out as in {@link SwigluQuantizePlan#bind}
     * @throws IllegalArgumentException as {@link SwigluQuantizePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T in, @Nullable T weights, @Nullable T rowCounts, Scaled<T> out);
}
