package io.hopper4j.moe;

import io.hopper4j.Scaled;
import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of an expert layer.
 *
 * @param <T> host or device tensors
 * @param x BF16 {@code [maxTokens, hidden]}, row stride a multiple of 8
 * @param ids I32 {@code [maxTokens, topK]}, contiguous, as a gate writes them; -1 for none
 * @param weights F32 {@code [maxTokens, topK]}, contiguous
 * @param gateUp E4M3 {@code [experts, 2 * intermediate, hidden]}, the gate's rows before the up projection's, with 128x128 scales
 * @param down E4M3 {@code [experts, hidden, intermediate]} with 128x128 scales
 * @param residual BF16 {@code [maxTokens, hidden]}, row stride a multiple of 8, may be {@code out}; null where the spec has none
 * @param out BF16 {@code [maxTokens, hidden]}, row stride a multiple of 8, written
 */
public record ExpertLayerOperands<T extends Tensor>(
        T x,
        T ids,
        T weights,
        Scaled<T> gateUp,
        Scaled<T> down,
        @Nullable T residual,
        T out) {
    /** Keeps the tensors; whether they fit a spec, {@link ExpertLayer#open} checks. */
    public ExpertLayerOperands {
        Objects.requireNonNull(x, "x");
        Objects.requireNonNull(ids, "ids");
        Objects.requireNonNull(weights, "weights");
        Objects.requireNonNull(gateUp, "gateUp");
        Objects.requireNonNull(down, "down");
        Objects.requireNonNull(out, "out");
    }
}
