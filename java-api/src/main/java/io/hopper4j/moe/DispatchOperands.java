package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a dispatch; T is {@link DispatchSpec#maxTokens}, K the group's {@code topK}.
 *
 * @param <T> host or device tensors
 * @param x {@code [T, hidden]} of the spec's {@code inDType}; rows start at multiples of 16 bytes
 * @param xScales F32 {@code [T, ceil(hidden / 128)]} with packed columns, for FP8 rows; null for others
 * @param experts I32 {@code [T, K]}, contiguous: numbers over all ranks, -1 for none
 * @param weights F32 {@code [T, K]}, contiguous
 * @param handle {@link DispatchPlan#handleBytes} of U8: written, or read where the spec reuses it; combine reads it
 * @param received I32 {@code [ranks + 1]}, written: rows from each rank, then all of them; latency: tokens of each rank; null: not wanted
 * @param out rows in the layout EXPERT: throughput {@code [rows, hidden]}, latency {@code [localExperts, ranks * T, hidden]}; null in the layout RANK
 * @param outScales F32 with packed columns: throughput {@code [rows, blocks]}, latency {@code [localExperts, ranks * T, blocks]}; null where rows are BF16
 * @param expertRows I32, contiguous: throughput {@code [localExperts, 2]}, first row and end of each expert; latency {@code [localExperts]}, rows in use
 */
public record DispatchOperands<T extends Tensor>(
        T x,
        @Nullable T xScales,
        T experts,
        T weights,
        T handle,
        @Nullable T received,
        @Nullable T out,
        @Nullable T outScales,
        @Nullable T expertRows) {
    /** Keeps the tensors; whether they fit a spec, {@link DispatchPlan#bind} checks. */
    public DispatchOperands {
        Objects.requireNonNull(x, "x");
        Objects.requireNonNull(experts, "experts");
        Objects.requireNonNull(weights, "weights");
        Objects.requireNonNull(handle, "handle");
    }

    /**
     * {@return the tensors that every dispatch has}
     *
     * @param x as in the record
     * @param xScales as in the record
     * @param experts as in the record
     * @param weights as in the record
     * @param handle as in the record
     */
    public static <T extends Tensor> DispatchOperands<T> of(
            final T x, final @Nullable T xScales, final T experts, final T weights, final T handle) {
        return new DispatchOperands<>(x, xScales, experts, weights, handle, null, null, null, null);
    }

    /** {@return these tensors, with a place for the counts} */
    public DispatchOperands<T> withReceived(final T counts) {
        return new DispatchOperands<>(x, xScales, experts, weights, handle, counts, out, outScales, expertRows);
    }

    /** {@return these tensors, with a place for rows in the layout EXPERT} */
    public DispatchOperands<T> withOut(final T rows, final @Nullable T scales, final T expertRanges) {
        return new DispatchOperands<>(x, xScales, experts, weights, handle, received, rows, scales, expertRanges);
    }
}
