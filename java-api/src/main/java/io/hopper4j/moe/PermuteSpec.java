package io.hopper4j.moe;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import io.hopper4j.quant.ScaleKind;
import java.util.Objects;

/**
 * A copy of each token's row for each expert that it goes to, by expert, then by token, then by place among the token's ids.
 *
 * <p>The rows of expert e end before {@code groupEnds[e]} and begin at {@code groupEnds[e - 1]}, 0 for the first: what a grouped product reads. Each expert
 * has a multiple of {@code alignment} rows; those behind its tokens' are zeros and have scales of 0. Rows behind the last end are not written; a launch of no tokens
 * writes ends of 0. An id of -1
 * goes nowhere; so does any other that is no expert, which the next call that waits for the stream reports. Where rows come as BF16 and leave as E4M3 they
 * are quantised on the way, as {@link io.hopper4j.quant.QuantizeSpec} with 1x128 blocks does, bit for bit.
 *
 * @param maxTokens tokens that tensors have room for; a launch may use fewer
 * @param hidden elements of a row, a multiple of 16 bytes in both types
 * @param experts experts that ids name
 * @param topK ids of a token
 * @param inDType BF16 or F8_E4M3
 * @param outDType F8_E4M3, or BF16 from BF16
 * @param alignment rows, a power of two
 * @param scaleKind of rows that are quantised on the way
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record PermuteSpec(
        long maxTokens,
        long hidden,
        int experts,
        int topK,
        DType inDType,
        DType outDType,
        int alignment,
        ScaleKind scaleKind,
        int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, or a tensor would hold 2^60 elements or more
     */
    public PermuteSpec {
        Objects.requireNonNull(inDType, "inDType");
        Objects.requireNonNull(outDType, "outDType");
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(maxTokens >= 0, "moe_permute: maxTokens", maxTokens, "at least 0");
        Arguments.require(hidden >= 1, "moe_permute: hidden", hidden, "at least 1");
        Arguments.require(experts >= 1, "moe_permute: experts", experts, "at least 1");
        Arguments.require(topK >= 1, "moe_permute: topK", topK, "at least 1");
        Arguments.require(alignment >= 1, "moe_permute: alignment", alignment, "at least 1");
        Arguments.require(smBudget >= 0, "moe_permute: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("moe_permute: ids [maxTokens,topK]", maxTokens, topK);
        final long ids = maxTokens * topK;
        final long rows = ids + Math.min(experts, ids) * (alignment - 1L);
        Arguments.tensorSize("moe_permute: out [rows,hidden]", rows, hidden);
    }

    /**
     * {@return a spec that moves rows as they are, unaligned, on all SMs}
     *
     * @param maxTokens most tokens
     * @param hidden elements of a row
     * @param experts experts that ids name
     * @param topK ids of a token
     * @param dtype of the rows
     */
    public static PermuteSpec of(
            final long maxTokens, final long hidden, final int experts, final int topK, final DType dtype) {
        return new PermuteSpec(maxTokens, hidden, experts, topK, dtype, dtype, 1, ScaleKind.F32, 0);
    }

    /** {@return this spec with each expert's rows a multiple of some} */
    public PermuteSpec withAlignment(final int rows) {
        return new PermuteSpec(maxTokens, hidden, experts, topK, inDType, outDType, rows, scaleKind, smBudget);
    }

    /** {@return this spec with rows quantised on the way} */
    public PermuteSpec withQuantize(final ScaleKind kind) {
        return new PermuteSpec(maxTokens, hidden, experts, topK, inDType, DType.F8_E4M3, alignment, kind, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public PermuteSpec withSmBudget(final int sms) {
        return new PermuteSpec(maxTokens, hidden, experts, topK, inDType, outDType, alignment, scaleKind, sms);
    }

    /** {@return the rows of {@code out}, which are enough for any ids: maxTokens * topK + min(experts, maxTokens * topK) * (alignment - 1)} */
    public long rows() {
        final long ids = maxTokens * topK;
        return ids + Math.min(experts, ids) * (alignment - 1L);
    }

    @Override
    public String operation() {
        return "moe_permute";
    }
}
