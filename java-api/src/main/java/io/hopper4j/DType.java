package io.hopper4j;

import io.hopper4j.internal.Arguments;

/**
 * Element types of tensors. Each has an explicit code, the one the C ABI uses; ordinals mean nothing.
 *
 * <p>The 8-bit floating-point types follow the OCP 8-bit formats: {@link #F8_E4M3} is the "fn" form (largest value 448, no
 * infinity, one NaN pattern per sign), {@link #F8_E5M2} has infinities, {@link #F8_E8M0} holds only powers of two and NaN.
 */
public enum DType {
    /** IEEE 754 binary32. */
    F32(1, 4, "F32"),
    /** IEEE 754 binary16. */
    F16(2, 2, "F16"),
    /** bfloat16: the upper half of a binary32. */
    BF16(3, 2, "BF16"),
    /** FP8, 4 exponent and 3 fraction bits, largest value 448, no infinity. */
    F8_E4M3(4, 1, "F8_E4M3"),
    /** FP8, 5 exponent and 2 fraction bits, largest finite value 57344. */
    F8_E5M2(5, 1, "F8_E5M2"),
    /** A power of two from 2^-127 to 2^127, or NaN: the scale format UE8M0. */
    F8_E8M0(6, 1, "F8_E8M0"),
    /** Signed 32-bit integer. */
    I32(7, 4, "I32"),
    /** Signed 64-bit integer. */
    I64(8, 8, "I64"),
    /** Unsigned 8-bit integer; also raw bytes, such as a workspace. */
    U8(9, 1, "U8");

    private final int code;
    private final int size;
    private final String safetensorsTag;

    DType(final int code, final int size, final String safetensorsTag) {
        this.code = code;
        this.size = size;
        this.safetensorsTag = safetensorsTag;
    }

    /** {@return the code of this type in the C ABI, the same for all time} */
    public int code() {
        return code;
    }

    /** {@return bytes an element} */
    public int size() {
        return size;
    }

    /** {@return the name of this type in the header of a safetensors file} */
    public String safetensorsTag() {
        return safetensorsTag;
    }

    /**
     * {@return the type with a code}
     *
     * @param code a {@link #code()}
     * @throws IllegalArgumentException if no type has this code
     */
    public static DType ofCode(final int code) {
        for (final DType type : values()) {
            if (type.code == code) {
                return type;
            }
        }
        throw Arguments.bad("dtype: code", code, "1..9");
    }
}
