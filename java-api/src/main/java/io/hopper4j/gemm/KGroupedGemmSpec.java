package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * {@code D[g] = A B^T (+ C[g])} over the K of each group, FP8 with a scale for each row and 128 of K on both sides: the weight gradients of experts,
 * where K counts tokens.
 *
 * <pre>
 * D[g,m,n] = sum over blocks kb of 128 along K in group g of (sum_{k in kb} A[m,k] B[n,k]) * (sa[m,kb] * sb[n,kb])  (+ C[g,m,n])
 * </pre>
 *
 * A is {@code [M, K]} and B {@code [N, K]}, both E4M3; C and D are {@code [groups, M, N]} F32. Group g holds {@code ends[g-1] <= k < ends[g]}, with 0
 * before the first; ends are multiples of 128, or {@code maxK} itself. They lie where the tensors do and are read by every launch. A group without K
 * leaves C, or 0. N must be a multiple of 8 and K one of 16. A launch with no K in use does nothing.
 *
 * <p>An end below the one before it, beyond the K in use or inside a block is cut to the nearest that is not; the next call that waits for the launch
 * says which it was.
 *
 * @param groups how many groups
 * @param m rows of A and of each D
 * @param n rows of B, columns of D
 * @param maxK columns of A and B, all groups together, that tensors have; a launch may use fewer
 * @param endsDType type of the ends: I32 or I64
 * @param accumulate whether C is added
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record KGroupedGemmSpec(
        long groups, long m, long n, long maxK, DType endsDType, boolean accumulate, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative or, where there must be something, 0, or an operand would hold 2^60 elements
     *     or more
     */
    public KGroupedGemmSpec {
        Objects.requireNonNull(endsDType, "endsDType");
        Arguments.require(groups >= 1, "gemm_k_grouped: groups", groups, "at least 1");
        Arguments.require(m >= 1, "gemm_k_grouped: m", m, "at least 1");
        Arguments.require(n >= 1, "gemm_k_grouped: n", n, "at least 1");
        Arguments.require(maxK >= 0, "gemm_k_grouped: maxK", maxK, "at least 0");
        Arguments.require(smBudget >= 0, "gemm_k_grouped: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm_k_grouped: A [m,maxK]", m, maxK);
        Arguments.tensorSize("gemm_k_grouped: B [n,maxK]", n, maxK);
        Arguments.tensorSize("gemm_k_grouped: D [groups,m,n]", groups, m, n);
    }

    /**
     * {@return a spec with I32 ends, nothing added, all SMs}
     *
     * @param groups how many groups
     * @param m rows of A and of each D
     * @param n rows of B, columns of D
     * @param maxK most columns of A and B
     */
    public static KGroupedGemmSpec of(final long groups, final long m, final long n, final long maxK) {
        return new KGroupedGemmSpec(groups, m, n, maxK, DType.I32, false, 0);
    }

    /**
     * {@return this spec with another type of ends}
     *
     * @param type I32 or I64
     */
    public KGroupedGemmSpec withEnds(final DType type) {
        return new KGroupedGemmSpec(groups, m, n, maxK, type, accumulate, smBudget);
    }

    /**
     * {@return this spec with C added or not}
     *
     * @param add whether C is added
     */
    public KGroupedGemmSpec withAccumulate(final boolean add) {
        return new KGroupedGemmSpec(groups, m, n, maxK, endsDType, add, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public KGroupedGemmSpec withSmBudget(final int sms) {
        return new KGroupedGemmSpec(groups, m, n, maxK, endsDType, accumulate, sms);
    }

    @Override
    public String operation() {
        return "gemm_k_grouped";
    }
}
