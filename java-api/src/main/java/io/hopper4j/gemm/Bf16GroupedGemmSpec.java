package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * {@code D = A B^T (+ C)} of BF16 matrices with a B of its own for each group of consecutive rows, as experts have:
 *
 * <pre>
 * D[m,n] = sum over k of A[m,k] B[g,n,k]  (+ C[m,n]),   ends[g-1] &lt;= m &lt; ends[g], from 0 for the first group
 * </pre>
 *
 * A is {@code [M, K]} and B {@code [groups, N, K]}, both BF16; C and D are {@code [M, N]}, BF16 or F32, rounded to nearest even. Sums are
 * F32; {@link GemmTolerance#ofBf16} says how far they may be from the exact ones.
 *
 * <p>The ends of the groups lie where the tensors do and are read by every launch. A group may have any number of rows, 0 included: none is
 * padded. Rows behind the last end are not written. N and K must be multiples of 8.
 *
 * <p>An end below the one before it, or beyond the rows in use, is cut to that; the next call that waits for the launch says which it was.
 *
 * @param groups how many groups
 * @param maxM rows of A and D, all groups together, that tensors have; a launch may use fewer
 * @param n rows of each B, columns of D
 * @param k columns of A and B
 * @param outDType type of C and D: BF16 or F32
 * @param accumulate whether C is added
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record Bf16GroupedGemmSpec(
        long groups, long maxM, long n, long k, DType outDType, boolean accumulate, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, N, K or the number of groups is 0, or an operand would hold 2^60 elements
     *     or more
     */
    public Bf16GroupedGemmSpec {
        Objects.requireNonNull(outDType, "outDType");
        Arguments.require(groups >= 1, "gemm_bf16_grouped: groups", groups, "at least 1");
        Arguments.require(maxM >= 0, "gemm_bf16_grouped: maxM", maxM, "at least 0");
        Arguments.require(n >= 1, "gemm_bf16_grouped: n", n, "at least 1");
        Arguments.require(k >= 1, "gemm_bf16_grouped: k", k, "at least 1");
        Arguments.require(smBudget >= 0, "gemm_bf16_grouped: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm_bf16_grouped: A [maxM,k]", maxM, k);
        Arguments.tensorSize("gemm_bf16_grouped: B [groups,n,k]", groups, n, k);
        Arguments.tensorSize("gemm_bf16_grouped: D [maxM,n]", maxM, n);
    }

    /**
     * {@return a spec with BF16 output, nothing added, all SMs}
     *
     * @param groups how many groups
     * @param maxM most rows of A and D
     * @param n rows of each B, columns of D
     * @param k columns of A and B
     */
    public static Bf16GroupedGemmSpec of(final long groups, final long maxM, final long n, final long k) {
        return new Bf16GroupedGemmSpec(groups, maxM, n, k, DType.BF16, false, 0);
    }

    /**
     * {@return this spec with another type of C and D}
     *
     * @param type BF16 or F32
     */
    public Bf16GroupedGemmSpec withOut(final DType type) {
        return new Bf16GroupedGemmSpec(groups, maxM, n, k, type, accumulate, smBudget);
    }

    /**
     * {@return this spec with C added or not}
     *
     * @param add whether C is added
     */
    public Bf16GroupedGemmSpec withAccumulate(final boolean add) {
        return new Bf16GroupedGemmSpec(groups, maxM, n, k, outDType, add, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public Bf16GroupedGemmSpec withSmBudget(final int sms) {
        return new Bf16GroupedGemmSpec(groups, maxM, n, k, outDType, accumulate, sms);
    }

    @Override
    public String operation() {
        return "gemm_bf16_grouped";
    }
}
