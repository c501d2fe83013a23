package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * {@code D = A B^T} of FP8 matrices with block scales and a B of its own for each group of consecutive rows, as experts have:
 *
 * <pre>
 * D[m,n] = sum over blocks kb of 128 along K of (sum_{k in kb} A[m,k] B[g,n,k]) * (sa[m,kb] * sb[g,n/128,kb]),   ends[g-1] &lt;= m &lt; ends[g]
 * </pre>
 *
 * with 0 before the first end. A is {@code [M, K]} E4M3 with a scale for each row and 128 of K, B {@code [groups, N, K]} E4M3 with a scale for each
 * 128 x 128, D {@code [M, N]} BF16; {@link GemmTolerance} says how far D may be from the exact sum.
 *
 * <p>The ends of the groups lie where the tensors do and are read by every launch. A group may have any number of rows, 0 included: none is
 * padded. Rows behind the last end are not written. N must be a multiple of 8 and K one of 16.
 *
 * <p>An end below the one before it, or beyond the rows in use, is cut to that; the next call that waits for the launch says which it was.
 *
 * @param groups how many groups
 * @param maxM rows of A and D, all groups together, that tensors have; a launch may use fewer
 * @param n rows of each B, columns of D
 * @param k columns of A and B
 * @param endsDType type of the ends: I32 or I64
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record GroupedGemmSpec(long groups, long maxM, long n, long k, DType endsDType, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative or, where there must be something, 0, or an operand would hold 2^60 elements
     *     or more
     */
    public GroupedGemmSpec {
        Objects.requireNonNull(endsDType, "endsDType");
        Arguments.require(groups >= 1, "gemm_grouped: groups", groups, "at least 1");
        Arguments.require(maxM >= 0, "gemm_grouped: maxM", maxM, "at least 0");
        Arguments.require(n >= 1, "gemm_grouped: n", n, "at least 1");
        Arguments.require(k >= 1, "gemm_grouped: k", k, "at least 1");
        Arguments.require(smBudget >= 0, "gemm_grouped: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm_grouped: A [maxM,k]", maxM, k);
        Arguments.tensorSize("gemm_grouped: B [groups,n,k]", groups, n, k);
        Arguments.tensorSize("gemm_grouped: D [maxM,n]", maxM, n);
    }

    /**
     * {@return a spec with I32 ends, all SMs}
     *
     * @param groups how many groups
     * @param maxM most rows of A and D
     * @param n rows of each B, columns of D
     * @param k columns of A and B
     */
    public static GroupedGemmSpec of(final long groups, final long maxM, final long n, final long k) {
        return new GroupedGemmSpec(groups, maxM, n, k, DType.I32, 0);
    }

    /**
     * {@return this spec with another type of ends}
     *
     * @param type I32 or I64
     */
    public GroupedGemmSpec withEnds(final DType type) {
        return new GroupedGemmSpec(groups, maxM, n, k, type, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public GroupedGemmSpec withSmBudget(final int sms) {
        return new GroupedGemmSpec(groups, maxM, n, k, endsDType, sms);
    }

    @Override
    public String operation() {
        return "gemm_grouped";
    }
}
