package io.hopper4j.quant;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link SwigluQuantizeSpec}.
 *
 * @param <T> host or device tensors
 */
public interface SwigluQuantizePlan<T extends Tensor> extends Plan {
    @Override
    SwigluQuantizeSpec spec();

    /**
     * Binds tensors with room for all rows of the spec. Inner dimensions are packed; rows may be farther apart than they are long.
     *
     * @param in BF16 {@code [groups * maxRows, 2 * cols]}, the gate's columns before the up projection's, row stride a multiple of 8
     * @param weights F32 {@code [groups * maxRows]}, contiguous; null unless the spec is weighted
     * @param rowCounts I32 {@code [groups]}, contiguous, in 0..maxRows: the rows in use of each group, the first ones; null unless the spec is masked
     * @param out values {@code [groups * maxRows, cols]} E4M3, row stride a multiple of 16; scales of 1x128 blocks laid out as
     *     {@link Scaled#activationScaleSpec}; rows not in use are not written
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    SwigluQuantizeLaunch<T> bind(T in, @Nullable T weights, @Nullable T rowCounts, Scaled<T> out);
}
