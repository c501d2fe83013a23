package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link GroupedGemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface GroupedGemmPlan<T extends Tensor> extends Plan {
    @Override
    GroupedGemmSpec spec();

    /**
     * Binds tensors with room for all rows of the spec, M = {@code maxM}: kernels may read, never write, rows of no group.
     *
     * @param a {@code [M, K]} E4M3, row stride a multiple of 16; scales {@code [M, ceil(K/128)]} laid out as
     *     {@link Scaled#activationScaleSpec(long, long)}
     * @param b {@code [groups, N, K]} E4M3, row and group strides multiples of 16; scales {@code [groups, ceil(N/128), ceil(K/128)]}
     * @param groupEnds {@code [groups]}, ascending: the row behind each group's last
     * @param out {@code [M, N]} BF16, row stride a multiple of 8; overlaps no other tensor
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    GroupedGemmLaunch<T> bind(Scaled<T> a, Scaled<T> b, T groupEnds, T out, @Nullable T workspace);
}
