package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaling;
import io.hopper4j.internal.Arguments;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import java.util.Objects;

/**
 * {@code D = A B^T (+ C)} of FP8 matrices with block scales (DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3.2):
 *
 * <pre>
 * D[m,n] = sum over blocks kb of 128 along K of (sum_{k in kb} A[m,k] B[n,k]) * (sa[m,kb] * sb[n/128,kb])  (+ C[m,n])
 * </pre>
 *
 * A is {@code [M, K]} E4M3 with a scale for each row and 128 of K; B is {@code [N, K]} E4M3 with a scale for each 128 x 128; C and D are
 * {@code [M, N]}, BF16 or F32, rounded to nearest even. The kernels add the products of a block in the tensor core and the blocks in F32;
 * {@link GemmTolerance} says how far that may be from the exact sum.
 *
 * <p>With {@link #withQuantizedOut} D is E4M3 with fresh 1x128 scales, as A of a product behind this one: the F32 sums are quantised as
 * {@link QuantizeSpec} says, without being rounded to another type before.
 *
 * <p>Every M from 0 to {@code maxM} can be run; N must be a multiple of 8, or of 16 with quantised output, and K a multiple of 16, which need not be a multiple of 128.
 *
 * @param maxM rows of A and D that tensors have; a launch may use fewer
 * @param n rows of B, columns of D
 * @param k columns of A and B
 * @param outDType type of C and D: BF16, F32 or, without C, F8_E4M3
 * @param accumulate whether C is added
 * @param aScaling blocks of A's scales: 1x128
 * @param bScaling blocks of B's scales: 128x128
 * @param smBudget at most how many SMs may be used; 0: all
 * @param batchInvariant whether the bits of a row of D depend on nothing but that row of A (and C), B and the scales: not on M, on the row's
 *     place, on other rows, or on {@code maxM}, {@code smBudget} and the device
 * @param constantB whether nothing that runs ahead of a launch in its stream and may not have ended yet writes B or its scales, as with
 *     weights. The launch may then start before the kernel ahead of it ends and load B meanwhile; for A, C and D it waits
 * @param outScaleKind F32 or power-of-two scales of quantised output; F32 where it is not quantised
 */
public record GemmSpec(
        long maxM,
        long n,
        long k,
        DType outDType,
        boolean accumulate,
        Scaling aScaling,
        Scaling bScaling,
        int smBudget,
        boolean batchInvariant,
        boolean constantB,
        ScaleKind outScaleKind)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, N or K is 0, a matrix would hold 2^60 elements or more, or output that is not
     *     quantised has a kind of scales
     */
    public GemmSpec {
        Objects.requireNonNull(outDType, "outDType");
        Objects.requireNonNull(aScaling, "aScaling");
        Objects.requireNonNull(bScaling, "bScaling");
        Objects.requireNonNull(outScaleKind, "outScaleKind");
        if (outScaleKind != ScaleKind.F32 && outDType != DType.F8_E4M3) {
            throw Arguments.bad("gemm: outScaleKind", outScaleKind, "F32, as the output is " + outDType);
        }
        Arguments.require(maxM >= 0, "gemm: maxM", maxM, "at least 0");
        Arguments.require(n >= 1, "gemm: n", n, "at least 1");
        Arguments.require(k >= 1, "gemm: k", k, "at least 1");
        Arguments.require(smBudget >= 0, "gemm: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("gemm: A [maxM,k]", maxM, k);
        Arguments.tensorSize("gemm: B [n,k]", n, k);
        Arguments.tensorSize("gemm: D [maxM,n]", maxM, n);
    }

    /**
     * {@return a spec with BF16 output, nothing added, all SMs}
     *
     * @param maxM most rows of A and D
     * @param n rows of B, columns of D
     * @param k columns of A and B
     */
    public static GemmSpec of(final long maxM, final long n, final long k) {
        return new GemmSpec(
                maxM,
                n,
                k,
                DType.BF16,
                false,
                Scaling.ACTIVATION_1X128,
                Scaling.WEIGHT_128X128,
                0,
                false,
                false,
                ScaleKind.F32);
    }

    /**
     * {@return this spec with another type of C and D}
     *
     * @param type BF16 or F32
     */
    public GemmSpec withOut(final DType type) {
        return withOut(type, ScaleKind.F32);
    }

    /**
     * {@return this spec with E4M3 output and 1x128 scales}
     *
     * @param kind F32 or power-of-two scales
     */
    public GemmSpec withQuantizedOut(final ScaleKind kind) {
        return withOut(DType.F8_E4M3, kind);
    }

    private GemmSpec withOut(final DType type, final ScaleKind kind) {
        return new GemmSpec(
                maxM, n, k, type, accumulate, aScaling, bScaling, smBudget, batchInvariant, constantB, kind);
    }

    /** {@return whether the output is E4M3 with scales} */
    public boolean quantizedOut() {
        return outDType == DType.F8_E4M3;
    }

    /**
     * {@return this spec with C added or not}
     *
     * @param add whether C is added
     */
    public GemmSpec withAccumulate(final boolean add) {
        return new GemmSpec(
                maxM, n, k, outDType, add, aScaling, bScaling, smBudget, batchInvariant, constantB, outScaleKind);
    }

    /**
     * {@return this spec with other scale blocks}
     *
     * @param a blocks of A's scales
     * @param b blocks of B's scales
     */
    public GemmSpec withScaling(final Scaling a, final Scaling b) {
        return new GemmSpec(maxM, n, k, outDType, accumulate, a, b, smBudget, batchInvariant, constantB, outScaleKind);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public GemmSpec withSmBudget(final int sms) {
        return new GemmSpec(
                maxM, n, k, outDType, accumulate, aScaling, bScaling, sms, batchInvariant, constantB, outScaleKind);
    }

    /**
     * {@return this spec with or without rows whose bits are independent of each other}
     *
     * @param independent whether they are
     */
    public GemmSpec withBatchInvariant(final boolean independent) {
        return new GemmSpec(
                maxM, n, k, outDType, accumulate, aScaling, bScaling, smBudget, independent, constantB, outScaleKind);
    }

    /**
     * {@return this spec with or without leave to load B before the kernel ahead in the stream ends}
     *
     * @param constant whether that kernel does not write B
     */
    public GemmSpec withConstantB(final boolean constant) {
        return new GemmSpec(
                maxM, n, k, outDType, accumulate, aScaling, bScaling, smBudget, batchInvariant, constant, outScaleKind);
    }

    @Override
    public String operation() {
        return "gemm";
    }
}
