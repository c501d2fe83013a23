package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a combine; T is {@link CombineSpec#maxTokens}.
 *
 * @param <T> host or device tensors
 * @param handle as dispatch left it
 * @param x BF16 rows in the layout of dispatch's {@code out}, which both halves read; null in the layout RANK
 * @param residual BF16 {@code [T, hidden]}; null where the spec has none
 * @param out BF16 {@code [T, hidden]}, written
 */
public record CombineOperands<T extends Tensor>(
        T handle, @Nullable T x, @Nullable T residual, T out) {
    /** Keeps the tensors; whether they fit a spec, {@link CombinePlan#bind} checks. */
    public CombineOperands {
        Objects.requireNonNull(handle, "handle");
        Objects.requireNonNull(out, "out");
    }
}
