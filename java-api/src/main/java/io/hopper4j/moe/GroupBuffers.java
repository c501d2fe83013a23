package io.hopper4j.moe;

import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import org.jspecify.annotations.Nullable;

/**
 * Memory of a channel that peers write and read; valid until the group is closed. N is {@link ExpertGroupSpec#maxRows}.
 *
 * @param <T> host or device tensors
 * @param rows {@code [N, hidden]}: rows of a dispatch in the layout RANK
 * @param scales F32 {@code [N, blocks]} with packed columns; null where rows are BF16
 * @param experts I32 {@code [N, topK]}: the rank's own number of each expert of a row, -1 for experts of other ranks
 * @param weights F32 {@code [N, topK]}
 * @param partials BF16 {@code [N, hidden]}: what combine in the layout RANK sends back, in the order of the rows
 */
public record GroupBuffers<T extends Tensor>(
        T rows, @Nullable T scales, T experts, T weights, T partials) {
    /**
     * How each of them lies.
     *
     * @param rows of {@link GroupBuffers#rows}
     * @param scales of {@link GroupBuffers#scales}
     * @param experts of {@link GroupBuffers#experts}
     * @param weights of {@link GroupBuffers#weights}
     * @param partials of {@link GroupBuffers#partials}
     */
    public record Specs(
            TensorSpec rows, TensorSpec scales, TensorSpec experts, TensorSpec weights, TensorSpec partials) {}
}
