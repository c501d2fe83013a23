package io.hopper4j.quant;

/**
 * How far an operation that computes a number in F32 and quantises it may be from the exact number: the error measure and its bounds, in one place.
 * With the exact number v, what it may be off before it is quantised e, the scale s that the kernel chose and the exact scale s0:
 *
 * <pre>
 * |q - v/s| &lt;= half the distance of E4M3's neighbours at (|v| + e)/s, + e/s
 * |s - s0|  &lt;= e_max / 448                                         F32 scales
 * s = 2^ceil(log2(t)) for a t with |t - s0| &lt;= e_max / 448          power-of-two scales
 * e = 2^-16 |v|,  e_max = the largest e of the block, not below 2^-16 * 1e-4
 * </pre>
 *
 * <p><b>Where the figures come from.</b> Rounding to E4M3 may be off by half a step; a number that is itself off by a few units of F32 may cross the
 * middle between two neighbours, and is then off by as much more. 2^-16 are 256 units of F32: fast exponential and division are off by a few units,
 * the product before the exponential by one unit of an argument of up to 88, sums of squares by a unit for each step of their tree. A wrong row, column or
 * scale is off by thousands of times as much. Sums of a tensor core bring an e of their own, from {@code GemmTolerance}.
 */
public final class QuantizeTolerance {
    /** What the number before quantisation may be off, relative to itself. */
    public static final double SLACK = 0x1p-16;

    /** Half a step of E4M3 below its normal numbers. */
    private static final int SUBNORMAL_EXPONENT = -6;

    private static final int FRACTION_BITS = 3;
    private static final double SMALLEST_AMAX = 1e-4f;
    private static final double LARGEST = 448;

    private final ScaleKind kind;
    private double worstValue;
    private double worstScale;
    private long count;

    /**
     * A measure to which blocks are added.
     *
     * @param kind of the scales
     */
    public QuantizeTolerance(final ScaleKind kind) {
        this.kind = kind;
    }

    /**
     * Adds a block.
     *
     * @param values the quantised values, decoded
     * @param scale the block's scale
     * @param exact the numbers that they stand for
     * @throws IllegalArgumentException if there are not as many of both
     */
    public void add(final float[] values, final float scale, final double[] exact) {
        final double[] slack = new double[exact.length];
        for (int i = 0; i < exact.length; i++) {
            slack[i] = SLACK * Math.abs(exact[i]);
        }
        add(values, scale, exact, slack);
    }

    /**
     * Adds a block of numbers that may themselves be off by more than a few units of F32, as sums of a tensor core are.
     *
     * @param values the quantised values, decoded
     * @param scale the block's scale
     * @param exact the numbers that they stand for
     * @param slack what each number may be off before it is quantised
     * @throws IllegalArgumentException if there are not as many of all
     */
    public void add(final float[] values, final float scale, final double[] exact, final double[] slack) {
        if (values.length != exact.length || values.length != slack.length) {
            throw new IllegalArgumentException("quantize: tolerance: got " + values.length + " values and "
                    + slack.length + " slacks, need " + exact.length);
        }
        double amax = SMALLEST_AMAX;
        double mostSlack = SLACK * SMALLEST_AMAX;
        for (int i = 0; i < exact.length; i++) {
            amax = Math.max(amax, Math.abs(exact[i]));
            mostSlack = Math.max(mostSlack, slack[i]);
        }
        worstScale = Math.max(worstScale, scaleRatio(scale, amax / LARGEST, mostSlack / LARGEST));
        for (int i = 0; i < values.length; i++) {
            final double x = exact[i] / scale;
            final int exponent = Math.max(Math.getExponent(Math.abs(x) + slack[i] / scale), SUBNORMAL_EXPONENT);
            final double bound = Math.scalb(0.5, exponent - FRACTION_BITS) + slack[i] / scale;
            worstValue = Math.max(worstValue, Math.abs(values[i] - x) / bound); // NaN stays
            count++;
        }
    }

    private double scaleRatio(final float scale, final double exact, final double slack) {
        return switch (kind) {
            case F32 -> Math.abs(scale - exact) / slack;
            case POWER_OF_TWO -> {
                // Of t in (scale / 2, scale] the nearest to the exact scale.
                final boolean power = scale > 0 && (Float.floatToRawIntBits(scale) & 0x7FFFFF) == 0;
                final double nearest = Math.clamp(exact, scale / 2.0, scale);
                yield power ? Math.abs(nearest - exact) / slack : Double.POSITIVE_INFINITY;
            }
        };
    }

    /** {@return how many values were added} */
    public long count() {
        return count;
    }

    /** {@return the largest error of a value by its bound; not above 1 where all are within} */
    public double worstValueRatio() {
        return worstValue;
    }

    /** {@return the largest error of a scale by its bound; not above 1 where all are within} */
    public double worstScaleRatio() {
        return worstScale;
    }

    /** {@return whether all values and scales are within their bounds} */
    public boolean withinBounds() {
        return worstValue <= 1 && worstScale <= 1;
    }
}
