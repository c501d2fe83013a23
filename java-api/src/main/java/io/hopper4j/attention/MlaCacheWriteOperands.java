package io.hopper4j.attention;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of {@link MlaCacheWriteSpec}; {@link PagedKvCache#writeOperands} fills in those of a cache.
 *
 * @param <T> host or device tensors
 * @param in BF16 {@code [maxTokens, 576]}, the latent projection's output; row stride a multiple of 8
 * @param weight {@code [512]} of the spec's type, contiguous: the norm's
 * @param rope F32 {@code [maxLength, 64]}, contiguous: {@link RopeTable}
 * @param positions {@code [maxTokens]} of the spec's type, contiguous: 0..maxLength - 1, or -1 for padding
 * @param requests I32 {@code [maxTokens]}, contiguous: 0..maxBatch - 1; null: token t is of request {@code t / requestTokens}
 * @param blockTable I32 {@code [maxBatch, w]}, w at least {@code ceil(maxLength / pageSize)}: page numbers of each request; rows may be farther apart
 * @param cache {@code [pages, pageSize, tokenSize]} of the format's type; tokens and pages may be farther apart than they are long, by multiples of 16
 *     bytes; written
 */
public record MlaCacheWriteOperands<T extends Tensor>(
        T in, T weight, T rope, T positions, @Nullable T requests, T blockTable, T cache) {
    /** Keeps the tensors; whether they fit a spec, {@link MlaCacheWritePlan#bind} checks. */
    public MlaCacheWriteOperands {
        Objects.requireNonNull(in, "in");
        Objects.requireNonNull(weight, "weight");
        Objects.requireNonNull(rope, "rope");
        Objects.requireNonNull(positions, "positions");
        Objects.requireNonNull(blockTable, "blockTable");
        Objects.requireNonNull(cache, "cache");
    }
}
