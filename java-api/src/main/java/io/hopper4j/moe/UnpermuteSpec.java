package io.hopper4j.moe;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;

/**
 * The way back from expert-major rows: {@code out[t] = sum over j of weights[t,j] * x[places[t,j]] (+ residual[t])}, by fused multiply-adds in F32 in the
 * order of j, the residual last, rounded once to BF16. The result is defined bit for bit. A place of -1 adds nothing; so does any other that is no row of
 * x, one of which the next call that waits for the stream reports.
 *
 * @param maxTokens tokens that tensors have room for; a launch may use fewer
 * @param rows rows of x
 * @param hidden elements of a row, a multiple of 8
 * @param topK places of a token
 * @param weighted whether there are weights; each is 1 otherwise
 * @param residual whether there is a residual
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record UnpermuteSpec(
        long maxTokens, long rows, long hidden, int topK, boolean weighted, boolean residual, int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, or a tensor would hold 2^60 elements or more
     */
    public UnpermuteSpec {
        Arguments.require(maxTokens >= 0, "moe_unpermute: maxTokens", maxTokens, "at least 0");
        Arguments.require(rows >= 0, "moe_unpermute: rows", rows, "at least 0");
        Arguments.require(hidden >= 1, "moe_unpermute: hidden", hidden, "at least 1");
        Arguments.require(topK >= 1, "moe_unpermute: topK", topK, "at least 1");
        Arguments.require(smBudget >= 0, "moe_unpermute: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("moe_unpermute: x [rows,hidden]", rows, hidden);
        Arguments.tensorSize("moe_unpermute: out [maxTokens,hidden]", maxTokens, hidden);
    }

    /**
     * {@return a spec with weights, no residual, and all SMs}
     *
     * @param maxTokens most tokens
     * @param rows rows of x
     * @param hidden elements of a row
     * @param topK places of a token
     */
    public static UnpermuteSpec of(final long maxTokens, final long rows, final long hidden, final int topK) {
        return new UnpermuteSpec(maxTokens, rows, hidden, topK, true, false, 0);
    }

    /** {@return this spec with weights, or without} */
    public UnpermuteSpec withWeights(final boolean on) {
        return new UnpermuteSpec(maxTokens, rows, hidden, topK, on, residual, smBudget);
    }

    /** {@return this spec with a residual, or without} */
    public UnpermuteSpec withResidual(final boolean on) {
        return new UnpermuteSpec(maxTokens, rows, hidden, topK, weighted, on, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public UnpermuteSpec withSmBudget(final int sms) {
        return new UnpermuteSpec(maxTokens, rows, hidden, topK, weighted, residual, sms);
    }

    @Override
    public String operation() {
        return "moe_unpermute";
    }
}
