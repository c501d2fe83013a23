package io.hopper4j.attention;

/**
 * How far MLA decode may be from the exact attention over the same BF16 values: the error measure and its bounds, in one place.
 *
 * <pre>
 * |out - ref| &lt;= max(8e-4, 2.01/128 |ref|)
 * |lse - ref| &lt;= max(1e-6, 8.01/65536 |ref|)                  infinite where the reference is
 * 1 - 2 &lt;out, ref&gt; / (|out|^2 + |ref|^2) &lt; 5e-6
 * </pre>
 *
 * <p><b>Where the figures come from.</b> They are those of FlashMLA's own test of its dense decode kernel, for queries around 1 and cached values
 * around 0.1, as a latent after its norm and a query after its projection have them in scale. The absolute bound of {@code out} holds for values
 * of that size only: for cached values s times as large, give {@code valueScale} s. The relative ones are two units of BF16, which has 8
 * significant bits, and, for the log-sum-exp, what scores summed in FP32 amount to.
 */
public final class MlaTolerance {
    /** What an output may always be off, for cached values around 0.1. */
    public static final double OUT_ABSOLUTE = 8e-4;
    /** What an output may be off, relative to itself. */
    public static final double OUT_RELATIVE = 2.01 / 128;
    /** What a log-sum-exp may always be off. */
    public static final double LSE_ABSOLUTE = 1e-6;
    /** What a log-sum-exp may be off, relative to itself. */
    public static final double LSE_RELATIVE = 8.01 / 65536;
    /** What one minus the similarity of output and reference must stay below. */
    public static final double MAX_COSINE_DISTANCE = 5e-6;

    private final double absolute;
    private long count;
    private double worstError;
    private double worstRatio;
    private double worstLseRatio;
    private double product;
    private double squares;
    private boolean finite = true;

    /** A measure for cached values around 0.1, to which elements are added. */
    public MlaTolerance() {
        this(1);
    }

    /**
     * A measure to which elements are added.
     *
     * @param valueScale size of the cached values in units of 0.1
     */
    public MlaTolerance(final double valueScale) {
        this.absolute = OUT_ABSOLUTE * valueScale;
    }

    /**
     * Adds an element of the output.
     *
     * @param out what the kernel computed
     * @param reference the exact value
     */
    public void add(final double out, final double reference) {
        final double error = Math.abs(out - reference);
        finite &= Double.isFinite(out) && Double.isFinite(reference);
        count++;
        worstError = Math.max(worstError, error);
        worstRatio = Math.max(worstRatio, error / Math.max(absolute, OUT_RELATIVE * Math.abs(reference)));
        product += out * reference;
        squares += out * out + reference * reference;
    }

    /**
     * Adds a log-sum-exp.
     *
     * @param lse what the kernel computed
     * @param reference the exact value, positive infinity where there is no key
     */
    public void addLogSumExp(final double lse, final double reference) {
        if (Double.isInfinite(reference)) {
            worstLseRatio = lse == reference ? worstLseRatio : Double.POSITIVE_INFINITY;
        } else {
            // NaN stays the largest once it is there.
            worstLseRatio = Math.max(
                    worstLseRatio,
                    Math.abs(lse - reference) / Math.max(LSE_ABSOLUTE, LSE_RELATIVE * Math.abs(reference)));
        }
    }

    /** {@return what the elements added so far amount to} */
    public Result result() {
        final double distance = squares == 0 ? 0 : Math.max(0, 1 - 2 * product / squares);
        final boolean within = finite && worstRatio <= 1 && worstLseRatio <= 1 && distance < MAX_COSINE_DISTANCE;
        return new Result(count, worstError, worstRatio, worstLseRatio, distance, within);
    }

    /**
     * The error of an output.
     *
     * @param elements how many elements of the output were compared
     * @param worstError largest |out - ref|
     * @param worstRatio largest |out - ref| / bound; at most 1 for a correct output
     * @param worstLseRatio the same of the log-sum-exp
     * @param cosineDistance one minus the similarity of output and reference
     * @param withinBounds whether all elements are finite and all bounds hold
     */
    public record Result(
            long elements,
            double worstError,
            double worstRatio,
            double worstLseRatio,
            double cosineDistance,
            boolean withinBounds) {}
}
