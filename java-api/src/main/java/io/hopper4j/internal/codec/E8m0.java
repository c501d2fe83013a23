package io.hopper4j.internal.codec;

/**
 * The scale format E8M0 of the Open Compute Project's microscaling specification: code {@code e} means 2^(e-127), {@code 0xFF} means NaN.
 * It has no sign and no zero.
 */
public final class E8m0 {
    private static final int FRACTION = 0x7F_FFFF;
    private static final byte NAN = (byte) 0xFF;
    private static final byte MAX = (byte) 0xFE;

    private E8m0() {}

    /** {@return the value of {@code code}, exact} */
    public static float toFloat(final byte code) {
        final int exponent = code & 0xFF;
        if (exponent == 0xFF) {
            return Float.NaN;
        }
        return exponent == 0 ? 0x1p-127f : Float.intBitsToFloat(exponent << 23);
    }

    /**
     * {@return the code of the smallest power of two that is not below {@code value}} Rounding is upward, as {@code cvt.rp.satfinite.ue8m0x2.f32} rounds,
     * since a scale must not let what it scales overflow. Zero gives 2^-127, what lies beyond 2^127 gives 2^127, NaN and negative values give NaN.
     */
    public static byte fromFloat(final float value) {
        if (Float.isNaN(value) || value < 0) {
            return NAN;
        }
        if (value > 0x1p127f) {
            return MAX;
        }
        if (value <= 0x1p-127f) {
            return 0;
        }
        final int bits = Float.floatToRawIntBits(value);
        return (byte) ((bits >>> 23) + ((bits & FRACTION) != 0 ? 1 : 0));
    }
}
