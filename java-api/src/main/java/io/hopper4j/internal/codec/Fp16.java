package io.hopper4j.internal.codec;

/** The IEEE 754 binary16 format. */
public final class Fp16 {
    private static final short NAN = 0x7FFF;

    private Fp16() {}

    /** {@return the value of the 16 bits {@code code}, exact} */
    public static float toFloat(final short code) {
        return Float.float16ToFloat(code);
    }

    /** {@return the bits of the number nearest to {@code value}, ties to even, overflowing to infinity; {@code 0x7FFF} for NaN} */
    public static short fromFloat(final float value) {
        return Float.isNaN(value) ? NAN : Float.floatToFloat16(value);
    }
}
