package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link MaskedGemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface MaskedGemmPlan<T extends Tensor> extends Plan {
    @Override
    MaskedGemmSpec spec();

    /**
     * Binds tensors with room for all rows of the spec: kernels may read, never write, rows that are not in use.
     *
     * @param a {@code [groups, maxRows, K]} E4M3, row and group strides multiples of 16; scales {@code [groups, maxRows, ceil(K/128)]} laid out as
     *     {@link Scaled#activationScaleSpec(long, long, long)}
     * @param b {@code [groups, N, K]} E4M3, row and group strides multiples of 16; scales {@code [groups, ceil(N/128), ceil(K/128)]}
     * @param counts {@code [groups]}: rows in use of each group
     * @param out {@code [groups, maxRows, N]} BF16, row and group strides multiples of 8; overlaps no other tensor
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    MaskedGemmLaunch<T> bind(Scaled<T> a, Scaled<T> b, T counts, T out, @Nullable T workspace);
}
