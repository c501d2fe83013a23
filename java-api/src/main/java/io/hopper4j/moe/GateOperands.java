package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a gate.
 *
 * @param <T> host or device tensors
 * @param logits {@code [maxTokens, experts]} of the spec's type; rows may be farther apart than they are long
 * @param bias F32 {@code [experts]}, contiguous as all below; null: none
 * @param disabled U8 {@code [experts]}, not 0 for an expert that must not be taken; null: all may be
 * @param ids I32 {@code [maxTokens, topK]}, written
 * @param weights F32 {@code [maxTokens, topK]}, written
 * @param counts I32 {@code [experts]}, how often each expert was taken, written; null: not wanted
 */
public record GateOperands<T extends Tensor>(
        T logits,
        @Nullable T bias,
        @Nullable T disabled,
        T ids,
        T weights,
        @Nullable T counts) {
    /** Keeps the tensors; whether they fit a spec, {@link GatePlan#bind} checks. */
    public GateOperands {
        Objects.requireNonNull(logits, "logits");
        Objects.requireNonNull(ids, "ids");
        Objects.requireNonNull(weights, "weights");
    }
}
