package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a permutation; rows is {@link PermuteSpec#rows()}. Scales are laid out as {@link io.hopper4j.Scaled#activationScaleSpec(long, long)}.
 *
 * @param <T> host or device tensors
 * @param ids I32 {@code [maxTokens, topK]}, contiguous as all but rows and scales
 * @param in {@code [maxTokens, hidden]} of the spec's type, row stride a multiple of 16 bytes
 * @param inScales F32 {@code [maxTokens, ceil(hidden/128)]} of E4M3 rows; null for BF16
 * @param out {@code [rows, hidden]} of the spec's type, row stride a multiple of 16 bytes, written
 * @param outScales F32 {@code [rows, ceil(hidden/128)]} of E4M3 rows, written; null for BF16
 * @param groupEnds I32 {@code [experts]}, written
 * @param places I32 {@code [maxTokens, topK]}, the row of {@code out} for each id, -1 for none, written
 * @param sources I32 {@code [rows]}, which of the {@code maxTokens * topK} ids each row up to the last end is of, -1 in padding, written; null: not wanted
 */
public record PermuteOperands<T extends Tensor>(
        T ids,
        T in,
        @Nullable T inScales,
        T out,
        @Nullable T outScales,
        T groupEnds,
        T places,
        @Nullable T sources) {
    /** Keeps the tensors; whether they fit a spec, {@link PermutePlan#bind} checks. */
    public PermuteOperands {
        Objects.requireNonNull(ids, "ids");
        Objects.requireNonNull(in, "in");
        Objects.requireNonNull(out, "out");
        Objects.requireNonNull(groupEnds, "groupEnds");
        Objects.requireNonNull(places, "places");
    }
}
