package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link Bf16GemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface Bf16GemmPlan<T extends Tensor> extends Plan {
    @Override
    Bf16GemmSpec spec();

    /**
     * Binds tensors with room for all rows of the spec, M = {@code maxM}: kernels may read, never write, rows beyond those in use. The last
     * dimension is packed; all other strides are multiples of 16 bytes and free otherwise. Where the batch is one product, tensors may be
     * plain matrices.
     *
     * @param a {@code [batch, M, K]} BF16
     * @param b {@code [batch, N, K]} BF16
     * @param c {@code [batch, M, N]} of the output type; null unless the spec accumulates; may be {@code out}
     * @param out {@code [batch, M, N]} of the output type; overlaps no other tensor but an identical {@code c}
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    Bf16GemmLaunch<T> bind(T a, T b, @Nullable T c, T out, @Nullable T workspace);

    /**
     * Binds tensors without C.
     *
     * @param a as in the full form
     * @param b as in the full form
     * @param out as in the full form
     * @param workspace as in the full form
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException as the full form; also if the spec accumulates
     * @throws IllegalStateException as the full form
     */
    default Bf16GemmLaunch<T> bind(final T a, final T b, final T out, final @Nullable T workspace) {
        return bind(a, b, null, out, workspace);
    }
}
