package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.internal.Arguments;

/**
 * How far a GEMM on the tensor cores may be from the exact sum of the same values: the error measure and its bound, in one place.
 *
 * <pre>
 * |out - ref| &lt;= u |ref| + f * magnitude,   magnitude = sum over k of |a b| sa sb (+ |c|)
 * 1 - cosine(out, ref) &lt; 1e-6 + u^2 / 2
 * f = 2^-11 for FP8,  (ceil(K/16) + 8) 2^-23 for BF16
 * </pre>
 *
 * <p><b>Where the figures come from.</b> {@code ref} is the exact sum, before rounding, and {@code u} the unit roundoff of the output: 2^-8
 * for BF16, which has 8 significant bits, and 0 for F32, whose 2^-24 is far below the rest. A vector whose elements each move by up to u
 * of themselves turns by a cosine of at most u^2 / 2: that is what rounding alone may do, 7.6e-6 for BF16.
 *
 * <p>The factor of the magnitude comes from Hopper's tensor core, which keeps about 13 fraction bits when it adds the 32 products of one
 * FP8 instruction and the running sum ("Insights into DeepSeek-V3", arXiv 2505.09343, section 3.1.1): all are aligned to the largest
 * exponent, then truncated. Each instruction is allowed one unit, 2^-13, of the magnitude it adds up; a running sum goes through the 4
 * instructions of a block of 128 before it is promoted to F32, hence 4 * 2^-13 = 2^-11. Promotion and scaling in F32 round by 2^-24 a
 * step.
 *
 * <p>BF16 products and their sums are F32: an instruction adds 16 products to the running sum, in an order of its own, and is allowed one
 * unit, 2^-23, of the magnitude it adds up; 8 more are for the at most 8 parts that K may be divided into.
 *
 * <p>A defect such as a wrong scale, a lost block or a wrong row shows as an error near the magnitude itself, a thousand times the
 * bound.
 */
public final class GemmTolerance {
    /** The factor of the magnitude for FP8: 4 instructions of a block, 13 fraction bits kept. */
    public static final double MAGNITUDE_FACTOR = 0x1p-11;
    /** The unit roundoff of BF16. */
    public static final double BF16_ROUNDOFF = 0x1p-8;
    /** Products that one BF16 instruction adds to a running sum. */
    private static final long BF16_INSTRUCTION = 16;
    /** Parts of K that the kernels sum apart, at most. */
    private static final long MOST_PARTS = 8;
    /** The weight of the last bit of an F32 number between 1 and 2. */
    private static final double F32_UNIT = 0x1p-23;
    /** What one minus the cosine of output and reference must stay below, the rounding of the output aside. */
    private static final double COSINE_DISTANCE = 1e-6;
    /** The same against the product of the matrices before quantisation. */
    public static final double MAX_UNQUANTIZED_COSINE_DISTANCE = 1e-3;

    private final double roundoff;
    private final double magnitudeFactor;
    private double worstRatio;
    private double worstError;
    private double outDotRef;
    private double outDotOut;
    private double refDotRef;
    private long count;
    private boolean finite = true;

    private GemmTolerance(final DType outDType, final double magnitudeFactor) {
        this.roundoff = switch (outDType) {
            case BF16 -> BF16_ROUNDOFF;
            case F32 -> 0;
            default -> throw Arguments.bad("gemm: tolerance: dtype", outDType, "BF16 or F32");
        };
        this.magnitudeFactor = magnitudeFactor;
    }

    /**
     * {@return a measure of FP8 products to which elements are added}
     *
     * @param outDType type of the output: BF16 or F32
     * @throws IllegalArgumentException if it is another type
     */
    public static GemmTolerance of(final DType outDType) {
        return new GemmTolerance(outDType, MAGNITUDE_FACTOR);
    }

    /**
     * {@return a measure of BF16 products to which elements are added}
     *
     * @param outDType type of the output: BF16 or F32
     * @param k how many products an element sums
     * @throws IllegalArgumentException if it is another type
     */
    public static GemmTolerance ofBf16(final DType outDType, final long k) {
        return new GemmTolerance(outDType, (Math.ceilDiv(k, BF16_INSTRUCTION) + MOST_PARTS) * F32_UNIT);
    }

    /**
     * {@return the bound of one element}
     *
     * @param reference the exact value
     * @param magnitude {@code sum over k of |a b| sa sb (+ |c|)}
     */
    public double bound(final double reference, final double magnitude) {
        return roundoff * Math.abs(reference) + magnitudeFactor * magnitude;
    }

    /** {@return what one minus the cosine must stay below} */
    public double maxCosineDistance() {
        return COSINE_DISTANCE + roundoff * roundoff / 2;
    }

    /**
     * Adds an element to the measure.
     *
     * @param out what the kernel computed
     * @param reference the exact value
     * @param magnitude {@code sum over k of |a b| sa sb (+ |c|)}
     */
    public void add(final double out, final double reference, final double magnitude) {
        final double error = Math.abs(out - reference);
        finite &= Double.isFinite(out) && Double.isFinite(reference);
        count++;
        worstError = Math.max(worstError, error);
        // An error of 0 is within a bound of 0, which an element of a zero row has.
        worstRatio = Math.max(worstRatio, error == 0 ? 0 : error / bound(reference, magnitude));
        outDotRef += out * reference;
        outDotOut += out * out;
        refDotRef += reference * reference;
    }

    /** {@return what the elements added so far amount to} */
    public Result result() {
        final double norms = Math.sqrt(outDotOut) * Math.sqrt(refDotRef);
        final double distance =
                outDotOut == 0 && refDotRef == 0 ? 0 : norms == 0 ? 1 : Math.max(0, 1 - outDotRef / norms);
        final boolean within = finite && worstRatio <= 1 && distance < maxCosineDistance();
        return new Result(count, worstError, worstRatio, distance, maxCosineDistance(), within);
    }

    /**
     * The error of an output.
     *
     * @param elements how many elements were compared
     * @param worstError largest |out - ref|
     * @param worstRatio largest |out - ref| / bound; at most 1 for a correct output
     * @param cosineDistance one minus the cosine of output and reference
     * @param maxCosineDistance what that must stay below
     * @param withinBounds whether all elements are finite and both bounds hold
     */
    public record Result(
            long elements,
            double worstError,
            double worstRatio,
            double cosineDistance,
            double maxCosineDistance,
            boolean withinBounds) {}
}
