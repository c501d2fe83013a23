package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link KGroupedGemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface KGroupedGemmPlan<T extends Tensor> extends Plan {
    @Override
    KGroupedGemmSpec spec();

    /**
     * Binds tensors with room for all K of the spec, K = {@code maxK}: kernels may read what belongs to no group.
     *
     * @param a {@code [M, K]} E4M3, row stride a multiple of 16; scales {@code [M, ceil(K/128)]} laid out as
     *     {@link Scaled#activationScaleSpec(long, long)}
     * @param b {@code [N, K]} E4M3, scaled and laid out like {@code a}
     * @param groupEnds {@code [groups]}, ascending: the K behind each group's last
     * @param c {@code [groups, M, N]} F32, row and group strides multiples of 4; null unless the spec accumulates; may be {@code out}
     * @param out {@code [groups, M, N]} F32, row and group strides multiples of 4; overlaps no other tensor but an identical {@code c}
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    KGroupedGemmLaunch<T> bind(Scaled<T> a, Scaled<T> b, T groupEnds, @Nullable T c, T out, @Nullable T workspace);

    /**
     * Binds tensors without C.
     *
     * @param a as in the full form
     * @param b as in the full form
     * @param groupEnds as in the full form
     * @param out as in the full form
     * @param workspace as in the full form
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException as the full form; also if the spec accumulates
     * @throws IllegalStateException as the full form
     */
    default KGroupedGemmLaunch<T> bind(
            final Scaled<T> a, final Scaled<T> b, final T groupEnds, final T out, final @Nullable T workspace) {
        return bind(a, b, groupEnds, null, out, workspace);
    }
}
