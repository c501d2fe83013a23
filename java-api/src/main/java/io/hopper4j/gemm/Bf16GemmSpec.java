package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * {@code D = A B^T (+ C)} of BF16 matrices, one product or a batch of them:
 *
 * <pre>
 * D[z,m,n] = sum over k of A[z,m,k] B[z,n,k]  (+ C[z,m,n])
 * </pre>
 *
 * A is {@code [batch, M, K]} and B {@code [batch, N, K]}, both BF16; C and D are {@code [batch, M, N]}, BF16 or F32, rounded to nearest
 * even. Sums are F32; {@link GemmTolerance#ofBf16} says how far they may be from the exact ones.
 *
 * <p>Matrices and products may lie at any distance, so views do: with {@code x} of {@code [b, h, r]} and {@code w} of {@code [h, d, r]},
 * {@code x.transpose(0, 1)} is the batch of h products that gives {@code [b, h, d]}, itself seen through {@code transpose(0, 1)}. That is
 * the absorbed key projection of MLA; its mate gives {@code [b, h, r]} from {@code [b, h, d]} and a weight {@code [h, r, d]}.
 *
 * <p>Every M from 0 to {@code maxM} can be run; N and K must be multiples of 8.
 *
 * @param batch how many products
 * @param maxM rows of A and D of each product that tensors have; a launch may use fewer
 * @param n rows of B, columns of D
 * @param k columns of A and B
 * @param outDType type of C and D: BF16 or F32
 * @param accumulate whether C is added
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record Bf16GemmSpec(long batch, long maxM, long n, long k, DType outDType, boolean accumulate, int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, N or K is 0, or an operand would hold 2^60 elements or more
     */
    public Bf16GemmSpec {
        Objects.requireNonNull(outDType, "outDType");
        Arguments.require(batch >= 0, "gemm_bf16: batch", batch, "at least 0");
        Arguments.require(maxM >= 0, "gemm_bf16: maxM", maxM, "at least 0");
        Arguments.require(n >= 1, "gemm_bf16: n", n, "at least 1");
        Arguments.require(k >= 1, "gemm_bf16: k", k, "at least 1");
        Arguments.require(smBudget >= 0, "gemm_bf16: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm_bf16: A [batch,maxM,k]", batch, maxM, k);
        Arguments.tensorSize("gemm_bf16: B [batch,n,k]", batch, n, k);
        Arguments.tensorSize("gemm_bf16: D [batch,maxM,n]", batch, maxM, n);
    }

    /**
     * {@return a spec of one product with BF16 output, nothing added, all SMs}
     *
     * @param maxM most rows of A and D
     * @param n rows of B, columns of D
     * @param k columns of A and B
     */
    public static Bf16GemmSpec of(final long maxM, final long n, final long k) {
        return batched(1, maxM, n, k);
    }

    /**
     * {@return a spec of many products with BF16 output, nothing added, all SMs}
     *
     * @param batch how many
     * @param maxM most rows of A and D of each
     * @param n rows of B, columns of D
     * @param k columns of A and B
     */
    public static Bf16GemmSpec batched(final long batch, final long maxM, final long n, final long k) {
        return new Bf16GemmSpec(batch, maxM, n, k, DType.BF16, false, 0);
    }

    /**
     * {@return this spec with another type of C and D}
     *
     * @param type BF16 or F32
     */
    public Bf16GemmSpec withOut(final DType type) {
        return new Bf16GemmSpec(batch, maxM, n, k, type, accumulate, smBudget);
    }

    /**
     * {@return this spec with C added or not}
     *
     * @param add whether C is added
     */
    public Bf16GemmSpec withAccumulate(final boolean add) {
        return new Bf16GemmSpec(batch, maxM, n, k, outDType, add, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public Bf16GemmSpec withSmBudget(final int sms) {
        return new Bf16GemmSpec(batch, maxM, n, k, outDType, accumulate, sms);
    }

    @Override
    public String operation() {
        return "gemm_bf16";
    }
}
