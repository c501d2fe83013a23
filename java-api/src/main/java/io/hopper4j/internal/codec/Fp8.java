package io.hopper4j.internal.codec;

/**
 * The two 8-bit floating-point formats of the Open Compute Project's OFP8 specification, converted as Hopper's
 * {@code cvt.rn.satfinite} does: round to nearest, ties to even; what lies beyond the largest finite number, infinities included, becomes
 * that number with its sign; every NaN becomes {@code 0x7F}.
 */
@SuppressWarnings("ImmutableEnumChecker") // the array is written once, by the constructor
public enum Fp8 {
    /** 4 exponent bits, bias 7, 3 fraction bits; largest 448, smallest subnormal 2^-9, no infinity, NaN is S.1111.111. */
    E4M3(3, 7, 0x7E, false),
    /** 5 exponent bits, bias 15, 2 fraction bits; largest finite 57344, smallest subnormal 2^-16, infinity is S.11111.00. */
    E5M2(2, 15, 0x7B, true);

    private static final int FLOAT_FRACTION_BITS = 23;
    private static final int FLOAT_BIAS = 127;
    private static final int FLOAT_INFINITY = 0x7F80_0000;
    private static final byte NAN = 0x7F;

    private final int droppedBits;
    private final int rebias;
    private final int maxCode;
    private final int maxAsFloatBits;
    private final int minNormalAsFloatBits;
    private final float subnormalsPerUnit;
    private final float[] decoded = new float[256];

    Fp8(final int fractionBits, final int bias, final int maxCode, final boolean hasInfinity) {
        this.droppedBits = FLOAT_FRACTION_BITS - fractionBits;
        this.rebias = (FLOAT_BIAS - bias) << fractionBits;
        this.maxCode = maxCode;
        this.minNormalAsFloatBits = (FLOAT_BIAS - bias + 1) << FLOAT_FRACTION_BITS;
        this.subnormalsPerUnit = Math.scalb(1f, bias - 1 + fractionBits);
        for (int code = 0; code < 256; code++) {
            decoded[code] = decode(code, fractionBits, bias, maxCode, hasInfinity);
        }
        this.maxAsFloatBits = Float.floatToRawIntBits(decoded[maxCode]);
    }

    private static float decode(
            final int code, final int fractionBits, final int bias, final int maxCode, final boolean hasInfinity) {
        final int magnitude = code & 0x7F;
        final int exponent = magnitude >>> fractionBits;
        final int fraction = magnitude & ((1 << fractionBits) - 1);
        final float absolute;
        if (magnitude > maxCode) {
            absolute = hasInfinity && fraction == 0 ? Float.POSITIVE_INFINITY : Float.NaN;
        } else if (exponent == 0) {
            absolute = Math.scalb((float) fraction, 1 - bias - fractionBits);
        } else {
            absolute = Math.scalb((float) ((1 << fractionBits) | fraction), exponent - bias - fractionBits);
        }
        return code >= 0x80 ? -absolute : absolute;
    }

    /** {@return the value of {@code code}, exact} */
    public float toFloat(final byte code) {
        return decoded[code & 0xFF];
    }

    /** {@return the values of all 256 codes by unsigned code, a fresh array for inner loops} */
    public float[] table() {
        return decoded.clone();
    }

    /** {@return the largest finite value} */
    public float max() {
        return decoded[maxCode];
    }

    /** {@return the code nearest to {@code value}, ties to even, saturating; {@code 0x7F} for NaN} */
    public byte fromFloat(final float value) {
        final int bits = Float.floatToRawIntBits(value);
        final int sign = (bits >>> 24) & 0x80;
        final int magnitude = bits & 0x7FFF_FFFF;
        if (magnitude > FLOAT_INFINITY) {
            return NAN;
        }
        if (magnitude >= maxAsFloatBits) {
            return (byte) (sign | maxCode);
        }
        if (magnitude < minNormalAsFloatBits) {
            // The code of a subnormal counts steps of the smallest one; a count of 2^fractionBits is the code of the
            // smallest normal number.
            return (byte) (sign | (int) Math.rint(Math.abs(value) * (double) subnormalsPerUnit));
        }
        // Adding half of the dropped part, less one unit where the kept part is even, carries exactly when rounding
        // goes up; a carry out of the
        // fraction moves into the exponent, which is the right number there too.
        final int halfLessOne = (1 << (droppedBits - 1)) - 1;
        final int rounded = magnitude + halfLessOne + ((magnitude >>> droppedBits) & 1);
        return (byte) (sign | ((rounded >>> droppedBits) - rebias));
    }
}
