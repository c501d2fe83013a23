package io.hopper4j.gemm;

import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link GemmSpec}.
 *
 * @param <T> host or device tensors
 */
public interface GemmPlan<T extends Tensor> extends Plan {
    @Override
    GemmSpec spec();

    /**
     * Binds tensors with room for all rows of the spec, M = {@code maxM}: kernels may read, never write, rows beyond those in use. Inner
     * dimensions are packed; rows may be farther apart than they are long.
     *
     * @param a {@code [M, K]} E4M3, row stride a multiple of 16; scales {@code [M, ceil(K/128)]} laid out as
     *     {@link Scaled#activationScaleSpec}
     * @param b {@code [N, K]} E4M3, row stride a multiple of 16; scales {@code [ceil(N/128), ceil(K/128)]} row-major
     * @param c {@code [M, N]} of the output type, row stride a multiple of 16 bytes; null unless the spec accumulates; may be {@code out}
     * @param out {@code [M, N]} of the output type, row stride a multiple of 16 bytes; overlaps no other tensor but an identical {@code c}
     * @param workspace at least {@link #workspaceBytes()} of U8, not shared with a launch that may run at the same time; null where none
     *     is needed
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    GemmLaunch<T> bind(Scaled<T> a, Scaled<T> b, @Nullable T c, T out, @Nullable T workspace);

    /**
     * Binds tensors of a spec with quantised output.
     *
     * @param a as in the full form
     * @param b as in the full form
     * @param out {@code [M, N]} E4M3, row stride a multiple of 16, with scales {@code [M, ceil(N/128)]} laid out as
     *     {@link Scaled#activationScaleSpec}; overlaps no other tensor
     * @param workspace as in the full form
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException as the full form; also if the spec's output is not quantised
     * @throws IllegalStateException as the full form
     */
    GemmLaunch<T> bind(Scaled<T> a, Scaled<T> b, Scaled<T> out, @Nullable T workspace);

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
    default GemmLaunch<T> bind(final Scaled<T> a, final Scaled<T> b, final T out, final @Nullable T workspace) {
        return bind(a, b, null, out, workspace);
    }
}
