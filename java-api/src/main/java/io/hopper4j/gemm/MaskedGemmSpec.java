package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * The product of {@link GroupedGemmSpec} where each group has room for {@code maxRows} rows of its own and uses the first of them, as many as its
 * count says: A is {@code [groups, maxRows, K]}, B {@code [groups, N, K]}, D {@code [groups, maxRows, N]}.
 *
 * <p>The counts lie where the tensors do and are read by every launch. Rows not in use are not written. N must be a multiple of 8 and K one of 16.
 *
 * <p>A count below 0 or above the rows of the launch is cut to that; the next call that waits for the launch says which it was.
 *
 * @param groups how many groups
 * @param maxRows rows of each group that tensors have; a launch may allow fewer
 * @param expectedRows how many a group uses on average, which tiles are chosen for
 * @param n rows of each B, columns of D
 * @param k columns of A and B
 * @param countsDType type of the counts: I32 or I64
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record MaskedGemmSpec(
        long groups, long maxRows, long expectedRows, long n, long k, DType countsDType, int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative or, where there must be something, 0, or an operand would hold 2^60 elements
     *     or more
     */
    public MaskedGemmSpec {
        Objects.requireNonNull(countsDType, "countsDType");
        Arguments.require(groups >= 1, "gemm_masked: groups", groups, "at least 1");
        Arguments.require(maxRows >= 0, "gemm_masked: maxRows", maxRows, "at least 0");
        Arguments.require(
                expectedRows >= 0 && expectedRows <= maxRows,
                "gemm_masked: expectedRows",
                expectedRows,
                "0.." + maxRows);
        Arguments.require(n >= 1, "gemm_masked: n", n, "at least 1");
        Arguments.require(k >= 1, "gemm_masked: k", k, "at least 1");
        Arguments.require(smBudget >= 0, "gemm_masked: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm_masked: A [groups,maxRows,k]", groups, maxRows, k);
        Arguments.tensorSize("gemm_masked: B [groups,n,k]", groups, n, k);
        Arguments.tensorSize("gemm_masked: D [groups,maxRows,n]", groups, maxRows, n);
    }

    /**
     * {@return a spec with I32 counts, all rows expected, all SMs}
     *
     * @param groups how many groups
     * @param maxRows most rows of a group
     * @param n rows of each B, columns of D
     * @param k columns of A and B
     */
    public static MaskedGemmSpec of(final long groups, final long maxRows, final long n, final long k) {
        return new MaskedGemmSpec(groups, maxRows, maxRows, n, k, DType.I32, 0);
    }

    /**
     * {@return this spec for so many rows a group}
     *
     * @param rows on average
     */
    public MaskedGemmSpec withExpectedRows(final long rows) {
        return new MaskedGemmSpec(groups, maxRows, rows, n, k, countsDType, smBudget);
    }

    /**
     * {@return this spec with another type of counts}
     *
     * @param type I32 or I64
     */
    public MaskedGemmSpec withCounts(final DType type) {
        return new MaskedGemmSpec(groups, maxRows, expectedRows, n, k, type, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public MaskedGemmSpec withSmBudget(final int sms) {
        return new MaskedGemmSpec(groups, maxRows, expectedRows, n, k, countsDType, sms);
    }

    @Override
    public String operation() {
        return "gemm_masked";
    }
}
