package io.hopper4j.moe;

import io.hopper4j.DType;
import io.hopper4j.internal.Arguments;
import io.hopper4j.quant.ScaleKind;
import java.time.Duration;
import java.util.Objects;

/**
 * What every rank of an expert group agrees on. Experts are dealt out in order: rank r holds experts {@code r * per} to {@code (r + 1) * per - 1} with
 * {@code per = ceil(experts / ranks)}, those that exist.
 *
 * @param ranks ranks of the group
 * @param experts experts of all ranks together
 * @param topK experts of a token
 * @param hidden elements of a row, a multiple of 8
 * @param maxTokens most tokens of a rank in a throughput call; 0: there are none
 * @param latencyTokens most tokens of a rank in a latency call; 0: there are none
 * @param channels sets of buffers; calls of different channels may overlap
 * @param smBudget SMs of a kernel of the group; 0: the library chooses
 * @param rowDType type of dispatched rows: F8_E4M3 with F32 scales of 1x128 blocks, or BF16
 * @param scaleKind scales of rows that dispatch casts
 * @param deadline how long one wait for a peer may take
 */
public record ExpertGroupSpec(
        int ranks,
        int experts,
        int topK,
        int hidden,
        int maxTokens,
        int latencyTokens,
        int channels,
        int smBudget,
        DType rowDType,
        ScaleKind scaleKind,
        Duration deadline) {
    /** Elements that share a scale. */
    public static final int SCALE_BLOCK = 128;

    /**
     * Checks what no kernel could ever serve.
     *
     * @throws IllegalArgumentException if a number is out of range
     */
    public ExpertGroupSpec {
        Arguments.require(ranks >= 1, "group: ranks", ranks, "at least 1");
        Arguments.require(experts >= 1, "group: experts", experts, "at least 1");
        Arguments.require(topK >= 1, "group: topK", topK, "at least 1");
        Arguments.require(hidden >= 8 && hidden % 8 == 0, "group: hidden", hidden, "a multiple of 8, at least 8");
        Arguments.require(maxTokens >= 0, "group: maxTokens", maxTokens, "at least 0");
        Arguments.require(latencyTokens >= 0, "group: latencyTokens", latencyTokens, "at least 0");
        Arguments.require(channels >= 1, "group: channels", channels, "at least 1");
        Arguments.require(smBudget >= 0, "group: smBudget", smBudget, "at least 0");
        Arguments.require(
                rowDType == DType.F8_E4M3 || rowDType == DType.BF16, "group: rowDType", rowDType, "F8_E4M3 or BF16");
        Objects.requireNonNull(scaleKind, "scaleKind");
        Objects.requireNonNull(deadline, "deadline");
        Arguments.require(
                deadline.isPositive() && deadline.compareTo(Duration.ofHours(1)) <= 0,
                "group: deadline",
                deadline,
                "more than 0, at most 1 hour");
        Arguments.tensorSize("group: rows [ranks*maxTokens,hidden]", (long) ranks * maxTokens, hidden);
    }

    /**
     * {@return a spec for throughput calls with FP8 rows, one channel, F32 scales and a deadline of 10 seconds}
     *
     * @param ranks ranks of the group
     * @param experts experts of all ranks together
     * @param topK experts of a token
     * @param hidden elements of a row
     * @param maxTokens most tokens of a rank in a call
     */
    public static ExpertGroupSpec of(
            final int ranks, final int experts, final int topK, final int hidden, final int maxTokens) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, 0, 1, 0, DType.F8_E4M3, ScaleKind.F32, Duration.ofSeconds(10));
    }

    /** {@return this spec with latency calls of at most so many tokens a rank} */
    public ExpertGroupSpec withLatencyTokens(final int tokens) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, tokens, channels, smBudget, rowDType, scaleKind, deadline);
    }

    /** {@return this spec with so many channels} */
    public ExpertGroupSpec withChannels(final int count) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, latencyTokens, count, smBudget, rowDType, scaleKind, deadline);
    }

    /** {@return this spec with so many SMs a kernel; 0: the library chooses} */
    public ExpertGroupSpec withSmBudget(final int sms) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, latencyTokens, channels, sms, rowDType, scaleKind, deadline);
    }

    /** {@return this spec with rows of another type} */
    public ExpertGroupSpec withRows(final DType dtype) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, latencyTokens, channels, smBudget, dtype, scaleKind, deadline);
    }

    /** {@return this spec with other scales of rows that dispatch casts} */
    public ExpertGroupSpec withScaleKind(final ScaleKind kind) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, latencyTokens, channels, smBudget, rowDType, kind, deadline);
    }

    /** {@return this spec with another deadline} */
    public ExpertGroupSpec withDeadline(final Duration wait) {
        return new ExpertGroupSpec(
                ranks, experts, topK, hidden, maxTokens, latencyTokens, channels, smBudget, rowDType, scaleKind, wait);
    }

    /** {@return experts of a rank, but for the last ones, which may have fewer} */
    public int expertsPerRank() {
        return Math.ceilDiv(experts, ranks);
    }

    /**
     * {@return experts that a rank has}
     *
     * @param rank the rank
     */
    public int localExperts(final int rank) {
        return Math.clamp((long) experts - (long) rank * expertsPerRank(), 0, expertsPerRank());
    }

    /** {@return scales of a row of FP8} */
    public int blocks() {
        return Math.ceilDiv(hidden, SCALE_BLOCK);
    }

    /** {@return rows that a rank receives at most in a throughput call, one for each token} */
    public long maxRows() {
        return (long) ranks * maxTokens;
    }

    /** {@return whether rows are FP8 with scales} */
    public boolean isScaled() {
        return rowDType == DType.F8_E4M3;
    }
}
