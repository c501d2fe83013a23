package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link Bf16GroupedGemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface Bf16GroupedGemmPlan<T extends Tensor> extends Plan {
    @Override
    Bf16GroupedGemmSpec spec();

    /**
     * Binds tensors with room for all rows of the spec, M = {@code maxM}: kernels may read, never write, rows of no group. The last
     * dimension is packed; all other strides are multiples of 16 bytes.
     *
     * @param a {@code [M, K]} BF16
     * @param b {@code [groups, N, K]} BF16
     * @param groupEnds {@code [groups]} I32, ascending: the row behind each group's last
     * @param c {@code [M, N]} of the output type; null unless the spec accumulates; may be {@code out}
     * @param out {@code [M, N]} of the output type; overlaps no other tensor but an identical {@code c}
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    Bf16GroupedGemmLaunch<T> bind(T a, T b, T groupEnds, @Nullable T c, T out, @Nullable T workspace);

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
    default Bf16GroupedGemmLaunch<T> bind(
            final T a, final T b, final T groupEnds, final T out, final @Nullable T workspace) {
        return bind(a, b, groupEnds, null, out, workspace);
    }
}
