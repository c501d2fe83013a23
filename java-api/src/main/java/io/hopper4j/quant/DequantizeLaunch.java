package io.hopper4j.quant;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;

/**
 * A bound {@link DequantizePlan}.
 *
 * @param <T> host or device tensors
 */
public interface DequantizeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param in as in {@link DequantizePlan#bind}
     * @param out as in {@link DequantizePlan#bind}
     * @throws IllegalArgumentException as {@link DequantizePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(Scaled<T> in, T out);
}
