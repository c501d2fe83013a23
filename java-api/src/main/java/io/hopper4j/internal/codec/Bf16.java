package io.hopper4j.internal.codec;

/** The bfloat16 format: the upper half of a {@code float}. */
public final class Bf16 {
    /** The one NaN that conversion produces, as {@code cvt.rn.bf16.f32} does. */
    private static final short NAN = 0x7FFF;

    private Bf16() {}

    /** {@return the value of the 16 bits {@code code}, exact} */
    public static float toFloat(final short code) {
        return Float.intBitsToFloat(code << 16);
    }

    /** {@return the bits of the number nearest to {@code value}, ties to even, overflowing to infinity; {@code 0x7FFF} for NaN} */
    public static short fromFloat(final float value) {
        if (Float.isNaN(value)) {
            return NAN;
        }
        final int bits = Float.floatToRawIntBits(value);
        return (short) ((bits + 0x7FFF + ((bits >>> 16) & 1)) >>> 16);
    }

    /**
     * {@return the bits of the number nearest to {@code value}, rounded once} Going through {@code float} could round twice: a {@code double} just
     * beside the middle of two bfloat16 numbers may become exactly that middle as a {@code float}.
     */
    public static short fromDouble(final double value) {
        return fromFloat(roundToOdd(value));
    }

    /**
     * Rounds to {@code float} so that a later rounding to fewer bits sees on which side of every tie {@code value} lies: an inexact result takes
     * the neighbour with an odd last bit, which is never a tie of a format at least two bits narrower (Boldo and Melquiond, "When double rounding is odd").
     */
    private static float roundToOdd(final double value) {
        final float nearest = (float) value;
        if (nearest == value || Float.isNaN(nearest) || (Float.floatToRawIntBits(nearest) & 1) != 0) {
            return nearest;
        }
        return nearest < value ? Math.nextUp(nearest) : Math.nextDown(nearest);
    }
}
