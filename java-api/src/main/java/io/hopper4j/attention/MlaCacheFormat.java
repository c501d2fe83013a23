package io.hopper4j.attention;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;

import io.hopper4j.DType;

/**
 * How a cached token lies in memory: a latent of 512 values and a rope part of 64.
 *
 * <pre>
 * BF16        1152 bytes      0..1023 latent, 512 BF16;   1024..1151 rope part, 64 BF16
 * FP8_BLOCKS   656 bytes      0..511 latent, 512 E4M3;    512..527 four F32 scales;                 528..655 rope part, 64 BF16
 * FP8_TOKEN    656 bytes      0..511 latent, 512 E4M3;    512..515 an F32 scale, 516..527 zero;     528..655 rope part, 64 BF16
 * </pre>
 *
 * All in the byte order of the machine. Value i of an FP8 latent is E4M3 value i times its scale in F32: scale {@code i / 128} of {@code FP8_BLOCKS},
 * the only one of {@code FP8_TOKEN}.
 */
public enum MlaCacheFormat {
    /** 576 values of BF16. */
    BF16(0, DType.BF16, TOKEN_DIM),
    /** E4M3 with a scale for each 128 values. */
    FP8_BLOCKS(1, DType.U8, 656),
    /** E4M3 with one scale a token. */
    FP8_TOKEN(2, DType.U8, 656);

    private final int code;
    private final DType dtype;
    private final int tokenSize;

    MlaCacheFormat(final int code, final DType dtype, final int tokenSize) {
        this.code = code;
        this.dtype = dtype;
        this.tokenSize = tokenSize;
    }

    /** {@return the code of this format in the C ABI} */
    public int code() {
        return code;
    }

    /** {@return the element type of tensors that hold such a cache: BF16, or U8 for bytes} */
    public DType dtype() {
        return dtype;
    }

    /** {@return how many elements of {@link #dtype()} a token has} */
    public int tokenSize() {
        return tokenSize;
    }
}
