package io.hopper4j.reference;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.internal.codec.Bf16;
import io.hopper4j.internal.codec.Fp8;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** The values of a cached token in each {@link MlaCacheFormat}. */
public final class CachedToken {
    private static final int SCALES_AT = VALUE_DIM;
    private static final int ROPE_AT = VALUE_DIM + 4 * Float.BYTES;

    private CachedToken() {}

    /**
     * {@return the 576 values of a token; those of an FP8 latent are F32 products of an E4M3 value and its scale}
     *
     * @param format of the cache
     * @param slot the token's place in it, contiguous: {@code [576]} of BF16 or {@code [656]} of U8
     */
    public static float[] read(final MlaCacheFormat format, final HostTensor slot) {
        if (format == MlaCacheFormat.BF16) {
            return slot.toFloats();
        }
        final MemorySegment bytes = slot.segment();
        final float[] values = new float[TOKEN_DIM];
        for (int i = 0; i < VALUE_DIM; i++) {
            final int scale = format == MlaCacheFormat.FP8_BLOCKS ? i / 128 : 0;
            values[i] = Fp8.E4M3.toFloat(bytes.get(ValueLayout.JAVA_BYTE, i))
                    * bytes.get(ValueLayout.JAVA_FLOAT_UNALIGNED, SCALES_AT + (long) scale * Float.BYTES);
        }
        for (int i = VALUE_DIM; i < TOKEN_DIM; i++) {
            values[i] = Bf16.toFloat(
                    bytes.get(ValueLayout.JAVA_SHORT_UNALIGNED, ROPE_AT + (long) (i - VALUE_DIM) * Short.BYTES));
        }
        return values;
    }
}
