package io.hopper4j.quant;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;

/**
 * A plan of {@link TransposeQuantizeSpec}.
 *
 * @param <T> host or device tensors
 */
public interface TransposeQuantizePlan<T extends Tensor> extends Plan {
    @Override
    TransposeQuantizeSpec spec();

    /**
     * Binds tensors with room for all rows of the spec. Inner dimensions are packed; rows may be farther apart than they are long.
     *
     * @param in BF16 {@code [maxRows, cols]}, row stride a multiple of 8
     * @param out values {@code [cols, maxRows]} E4M3, row stride a multiple of 16; scales of 1x128 blocks laid out as
     *     {@link Scaled#activationScaleSpec}
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    TransposeQuantizeLaunch<T> bind(T in, Scaled<T> out);
}
