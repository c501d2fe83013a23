package io.hopper4j.quant;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link RmsNormQuantizeSpec}.
 *
 * @param <T> host or device tensors
 */
public interface RmsNormQuantizePlan<T extends Tensor> extends Plan {
    @Override
    RmsNormQuantizeSpec spec();

    /**
     * Binds tensors with room for all rows of the spec. Inner dimensions are packed; rows may be farther apart than they are long.
     *
     * @param in BF16 {@code [maxRows, cols]}, row stride a multiple of 8
     * @param residual BF16 {@code [maxRows, cols]}, row stride a multiple of 8; read and overwritten by the sum; null unless the spec has a residual
     * @param weight {@code [cols]} of the spec's type, contiguous
     * @param out values {@code [maxRows, cols]} E4M3, row stride a multiple of 16; scales of 1x128 blocks laid out as
     *     {@link Scaled#activationScaleSpec}
     * @param normalized BF16 {@code [maxRows, cols]}, row stride a multiple of 8; written; null unless the spec asks for it
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    RmsNormQuantizeLaunch<T> bind(T in, @Nullable T residual, T weight, Scaled<T> out, @Nullable T normalized);
}
