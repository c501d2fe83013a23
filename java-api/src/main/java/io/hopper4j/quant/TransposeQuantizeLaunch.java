package io.hopper4j.quant;

import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;

/**
 * A bound {@link TransposeQuantizePlan}. Rows of a launch are rows of the input: columns of the output.
 *
 * @param <T> host or device tensors
 */
public interface TransposeQuantizeLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors: about a microsecond, for callers whose addresses change. On failure the old ones stay bound.
     *
     * @param in as in {@link TransposeQuantizePlan#bind}
     * @param out as in {@link TransposeQuantizePlan#bind}
     * @throws IllegalArgumentException as {@link TransposeQuantizePlan#bind}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T in, Scaled<T> out);
}
