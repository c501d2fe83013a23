package io.hopper4j.quant;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;

/**
 * A plan of {@link QuantizeSpec}.
 *
 * @param <T> host or device tensors
 */
public interface QuantizePlan<T extends Tensor> extends Plan {
    @Override
    QuantizeSpec spec();

    /**
     * Binds tensors with room for all rows of the spec. Inner dimensions are packed; rows may be farther apart than they are long.
     *
     * @param in {@code [maxRows, cols]} of the input type, row stride a multiple of 8
     * @param out values {@code [maxRows, cols]} E4M3, row stride a multiple of 16; scales of 1x128 blocks laid out as
     *     {@link Scaled#activationScaleSpec}, of 128x128 blocks row-major
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    QuantizeLaunch<T> bind(T in, Scaled<T> out);
}
