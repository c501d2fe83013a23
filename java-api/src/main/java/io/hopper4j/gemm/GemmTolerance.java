package io.hopper4j.gemm;

import io.hopper4j.DType;
import io.hopper4j.internal.Arguments;

/**
 * How far a GEMM on the tensor cores may be from the exact sum of the same FP8 values: the error measure and its bound, in one place.
 *
 * <pre>
 * |out - ref| &lt;= 2^-9 |ref| [BF16 only] + 2^-11 * magnitude,   magnitude = sum over k of |a b| sa sb (+ |c|)
 * 1 - cosine(out, ref) &lt; 1e-6
 * </pre>
 *
 * <p><b>Where the figures come from.</b> 2^-9 is BF16's unit roundoff for results rounded to nearest. The factor of the magnitude comes
 * from Hopper's tensor core, which keeps about 13 fraction bits when it adds the 32 products of one FP8 instruction and the running sum
 * ("Insights into DeepSeek-V3", arXiv 2505.09343, section 3.1.1): all are aligned to the largest exponent, then truncated. Each
 * instruction is allowed one unit, 2^-13, of the magnitude it adds up; a running sum goes through the 4 instructions of a block of 128
 * before it is promoted to F32, hence 4 * 2^-13 = 2^-11. F32 promotion and scaling add rounding of 2^-24 a step, far below, so F32 output needs no term of its
 * own. A defect such
 * as a wrong scale, a lost block or a wrong row shows as an error near the magnitude itself, a thousand times the bound.
 */
public final class GemmTolerance {
    /** The factor c of the magnitude: 4 instructions of a block, 13 fraction bits kept. */
    public static final double MAGNITUDE_FACTOR = 0x1p-11;
    /** The factor of the result itself where it is rounded to BF16. */
    public static final double BF16_FACTOR = 0x1p-9;
    /** What one minus the cosine of output and reference must stay below. */
    public static final double MAX_COSINE_DISTANCE = 1e-6;
    /** The same against the product of the matrices before quantisation. */
    public static final double MAX_UNQUANTIZED_COSINE_DISTANCE = 1e-3;

    private final double factor;
    private final double maxCosineDistance;
    private double worstRatio;
    private double worstError;
    private double outDotRef;
    private double outDotOut;
    private double refDotRef;
    private long count;
    private boolean finite = true;

    private GemmTolerance(final double factor, final double maxCosineDistance) {
        this.factor = factor;
        this.maxCosineDistance = maxCosineDistance;
    }

    /**
     * {@return a measure to which elements are added}
     *
     * @param outDType type of the output: BF16 or F32
     * @throws IllegalArgumentException if it is another type
     */
    public static GemmTolerance of(final DType outDType) {
        final double factor = switch (outDType) {
            case BF16 -> BF16_FACTOR;
            case F32 -> 0;
            default -> throw Arguments.bad("gemm: tolerance: dtype", outDType, "BF16 or F32");
        };
        return new GemmTolerance(factor, MAX_COSINE_DISTANCE);
    }

    /**
     * {@return the bound of one element}
     *
     * @param reference the exact value
     * @param magnitude {@code sum over k of |a b| sa sb (+ |c|)}
     */
    public double bound(final double reference, final double magnitude) {
        return factor * Math.abs(reference) + MAGNITUDE_FACTOR * magnitude;
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
        final boolean within = finite && worstRatio <= 1 && distance < maxCosineDistance;
        return new Result(count, worstError, worstRatio, distance, within);
    }

    /**
     * The error of an output.
     *
     * @param elements how many elements were compared
     * @param worstError largest |out - ref|
     * @param worstRatio largest |out - ref| / bound; at most 1 for a correct output
     * @param cosineDistance one minus the cosine of output and reference
     * @param withinBounds whether all elements are finite and both bounds hold
     */
    public record Result(
            long elements, double worstError, double worstRatio, double cosineDistance, boolean withinBounds) {}
}
