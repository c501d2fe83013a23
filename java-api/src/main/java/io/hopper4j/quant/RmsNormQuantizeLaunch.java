package io.hopper4j.quant;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A bound {@link RmsNormQuantizePlan}.
 *
 * @param <T> host or device tensors
 */
public interface RmsNormQuantizeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param in as in {@link RmsNormQuantizePlan#bind}
     * @param residual as in {@link RmsNormQuantizePlan#bind}
     * @param weight as in {@link RmsNormQuantizePlan#bind}
     * @param out as in {@link RmsNormQuantizePlan#bind}
     * @param normalized as in {@link RmsNormQuantizePlan#bind}
     * @throws IllegalArgumentException as {@link RmsNormQuantizePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T in, @Nullable T residual, T weight, Scaled<T> out, @Nullable T normalized);
}
