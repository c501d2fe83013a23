package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of an unpermutation.
 *
 * @param <T> host or device tensors
 * @param x BF16 {@code [rows, hidden]}, row stride a multiple of 8
 * @param places I32 {@code [maxTokens, topK]}, contiguous, as a permutation writes it
 * @param weights F32 {@code [maxTokens, topK]}, contiguous; null where the spec has none
 * @param residual BF16 {@code [maxTokens, hidden]}, row stride a multiple of 8, may be {@code out}; null where the spec has none
 * @param out BF16 {@code [maxTokens, hidden]}, row stride a multiple of 8, written
 */
public record UnpermuteOperands<T extends Tensor>(
        T x, T places, @Nullable T weights, @Nullable T residual, T out) {
    /** Keeps the tensors; whether they fit a spec, {@link UnpermutePlan#bind} checks. */
    public UnpermuteOperands {
        Objects.requireNonNull(x, "x");
        Objects.requireNonNull(places, "places");
        Objects.requireNonNull(out, "out");
    }
}
