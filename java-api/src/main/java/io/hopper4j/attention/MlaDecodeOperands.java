package io.hopper4j.attention;

import io.hopper4j.Tensor;
import io.hopper4j.internal.Arguments;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a decode; b is {@code maxBatch} of the spec. {@link #builder} names each.
 *
 * @param <T> host or device tensors
 * @param q BF16 {@code [b, sQ, heads, 576]}, absorbed; the rows of 576 are one distance apart, a multiple of 8
 * @param cache {@code [pages, pageSize, n]} of the spec's {@link MlaCacheFormat}: n is 576 of BF16, or 656 of U8; tokens and pages may be farther
 *     apart than they are long, by multiples of 16 bytes
 * @param blockTable I32 {@code [b, w]}, w at least {@code ceil(maxLength / pageSize)}: page numbers of each request; rows may be farther apart
 * @param lengths I32 {@code [b]}, what the schedule was made from
 * @param qTokens I32 {@code [b]}, what the schedule was made from; null as there
 * @param sink F32 {@code [heads]}, a logit that joins the softmax's denominator, not the log-sum-exp; null: none
 * @param schedule what the schedule's launch wrote
 * @param out BF16 {@code [b, sQ, heads, 512]}, contiguous; written, but for query tokens not in use
 * @param lse F32 {@code [b, heads, sQ]}, contiguous: the natural logarithm of the sum of exponentials; written as {@code out} is
 * @param workspace at least {@code workspaceBytes} of U8, not shared with a launch that may run at the same time; null where none is
 *     needed
 */
public record MlaDecodeOperands<T extends Tensor>(
        T q,
        T cache,
        T blockTable,
        T lengths,
        @Nullable T qTokens,
        @Nullable T sink,
        T schedule,
        T out,
        T lse,
        @Nullable T workspace) {
    /** Keeps the tensors; whether they fit a spec, {@link MlaDecodePlan#bind} checks. */
    public MlaDecodeOperands {
        Objects.requireNonNull(q, "q");
        Objects.requireNonNull(cache, "cache");
        Objects.requireNonNull(blockTable, "blockTable");
        Objects.requireNonNull(lengths, "lengths");
        Objects.requireNonNull(schedule, "schedule");
        Objects.requireNonNull(out, "out");
        Objects.requireNonNull(lse, "lse");
    }

    /** {@return a builder without tensors} */
    public static <T extends Tensor> Builder<T> builder() {
        return new Builder<>();
    }

    /** {@return a builder with these tensors, for operands that differ in some: the next layer's} */
    public Builder<T> toBuilder() {
        return new Builder<T>()
                .q(q)
                .cache(cache)
                .blockTable(blockTable)
                .lengths(lengths)
                .qTokens(qTokens)
                .sink(sink)
                .schedule(schedule)
                .out(out)
                .lse(lse)
                .workspace(workspace);
    }

    /**
     * Collects the tensors by name. Of one thread.
     *
     * @param <T> host or device tensors
     */
    public static final class Builder<T extends Tensor> {
        private @Nullable T q;
        private @Nullable T cache;
        private @Nullable T blockTable;
        private @Nullable T lengths;
        private @Nullable T qTokens;
        private @Nullable T sink;
        private @Nullable T schedule;
        private @Nullable T out;
        private @Nullable T lse;
        private @Nullable T workspace;

        private Builder() {}

        /** {@return this builder, with the absorbed queries} */
        public Builder<T> q(final T tensor) {
            this.q = tensor;
            return this;
        }

        /** {@return this builder, with the cache} */
        public Builder<T> cache(final T tensor) {
            this.cache = tensor;
            return this;
        }

        /** {@return this builder, with the page numbers} */
        public Builder<T> blockTable(final T tensor) {
            this.blockTable = tensor;
            return this;
        }

        /** {@return this builder, with the cached tokens of each request} */
        public Builder<T> lengths(final T tensor) {
            this.lengths = tensor;
            return this;
        }

        /** {@return this builder, with the query tokens in use of each request; null: all} */
        public Builder<T> qTokens(final @Nullable T tensor) {
            this.qTokens = tensor;
            return this;
        }

        /** {@return this builder, with the sink; null: none} */
        public Builder<T> sink(final @Nullable T tensor) {
            this.sink = tensor;
            return this;
        }

        /** {@return this builder, with the schedule} */
        public Builder<T> schedule(final T tensor) {
            this.schedule = tensor;
            return this;
        }

        /** {@return this builder, with the output} */
        public Builder<T> out(final T tensor) {
            this.out = tensor;
            return this;
        }

        /** {@return this builder, with the log-sum-exp} */
        public Builder<T> lse(final T tensor) {
            this.lse = tensor;
            return this;
        }

        /** {@return this builder, with the workspace; null: none} */
        public Builder<T> workspace(final @Nullable T tensor) {
            this.workspace = tensor;
            return this;
        }

        /**
         * {@return the operands}
         *
         * @throws IllegalArgumentException if one that must be there is missing; the message names it
         */
        public MlaDecodeOperands<T> build() {
            return new MlaDecodeOperands<>(
                    given("q", q),
                    given("cache", cache),
                    given("blockTable", blockTable),
                    given("lengths", lengths),
                    qTokens,
                    sink,
                    given("schedule", schedule),
                    given("out", out),
                    given("lse", lse),
                    workspace);
        }

        private static <T> T given(final String name, final @Nullable T tensor) {
            if (tensor == null) {
                throw Arguments.bad("mla_decode: " + name, "null", "a tensor");
            }
            return tensor;
        }
    }
}
