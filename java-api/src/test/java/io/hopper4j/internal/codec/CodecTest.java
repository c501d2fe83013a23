package io.hopper4j.internal.codec;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** The codecs against their definitions; {@code CodecGoldenTest} holds them against torch and ml_dtypes. */
final class CodecTest {
    @ParameterizedTest
    @EnumSource
    void everyCodeComesBackAsItself(final Fp8 format) {
        for (int code = 0; code < 256; code++) {
            final float value = format.toFloat((byte) code);
            if (Float.isFinite(value)) {
                assertThat(format.fromFloat(value)).as("code %x", code).isEqualTo((byte) code);
            }
        }
    }

    /** Nearest by search over all finite codes, ties to the even code: the definition, without a bit trick. */
    @ParameterizedTest
    @EnumSource
    void roundsToTheNearestCodeTiesToEven(final Fp8 format) {
        final SplittableRandom random = new SplittableRandom(3);
        for (int i = 0; i < 20_000; i++) {
            final float value = Math.scalb(1 + random.nextInt(64) / 64f, random.nextInt(40) - 24);
            int best = 0;
            for (int code = 1; code < 0x7F && Float.isFinite(format.toFloat((byte) code)); code++) {
                final double now = Math.abs((double) format.toFloat((byte) code) - value);
                final double before = Math.abs((double) format.toFloat((byte) best) - value);
                if (now < before || (now == before && (code & 1) == 0)) {
                    best = code;
                }
            }
            assertThat(format.fromFloat(value)).as("%s of %a", format, value).isEqualTo((byte) best);
            assertThat(format.fromFloat(-value)).as("%s of -%a", format, value).isEqualTo((byte) (best | 0x80));
        }
    }

    @ParameterizedTest
    @CsvSource({
        "E4M3, 448, 7E",
        "E4M3, 464, 7E",
        "E4M3, 1e30, 7E",
        "E4M3, Infinity, 7E",
        "E4M3, -Infinity, FE",
        "E4M3, NaN, 7F",
        "E4M3, 0.0009765625, 0",
        "E4M3, 0.0009765626, 1",
        "E4M3, -0.0, 80",
        "E4M3, 1e-45, 0",
        "E4M3, 1, 38",
        "E5M2, 57344, 7B",
        "E5M2, 61440, 7B",
        "E5M2, Infinity, 7B",
        "E5M2, -Infinity, FB",
        "E5M2, NaN, 7F",
        "E5M2, 1, 3C"
    })
    void convertsTheEdges(final Fp8 format, final float value, final String code) {
        assertThat(Integer.toHexString(format.fromFloat(value) & 0xFF)).isEqualToIgnoringCase(code);
    }

    @Test
    void decodesWhatFp8CannotProduce() {
        assertThat(Fp8.E4M3.toFloat((byte) 0x7F)).isNaN();
        assertThat(Fp8.E4M3.toFloat((byte) 0xFF)).isNaN();
        assertThat(Fp8.E5M2.toFloat((byte) 0x7C)).isEqualTo(Float.POSITIVE_INFINITY);
        assertThat(Fp8.E5M2.toFloat((byte) 0xFC)).isEqualTo(Float.NEGATIVE_INFINITY);
        assertThat(Fp8.E5M2.toFloat((byte) 0x7D)).isNaN();
        assertThat(Fp8.E4M3.max()).isEqualTo(448f);
        assertThat(Fp8.E5M2.max()).isEqualTo(57344f);
        assertThat(Fp8.E4M3.toFloat((byte) 1)).isEqualTo(0x1p-9f);
        assertThat(Fp8.E5M2.toFloat((byte) 1)).isEqualTo(0x1p-16f);
    }

    @Test
    void everySixteenBitNumberComesBackAsItself() {
        for (int code = 0; code < 65_536; code++) {
            final short bits = (short) code;
            if (!Float.isNaN(Bf16.toFloat(bits))) {
                assertThat(Bf16.fromFloat(Bf16.toFloat(bits))).isEqualTo(bits);
            }
            if (!Float.isNaN(Fp16.toFloat(bits))) {
                assertThat(Fp16.fromFloat(Fp16.toFloat(bits))).isEqualTo(bits);
            }
        }
        assertThat(Bf16.fromFloat(Float.NaN)).isEqualTo((short) 0x7FFF);
        assertThat(Fp16.fromFloat(Float.NaN)).isEqualTo((short) 0x7FFF);
    }

    @Test
    void roundsBf16TiesToEvenAndOverflowsToInfinity() {
        assertThat(Bf16.fromFloat(Float.intBitsToFloat(0x3F80_8000))).isEqualTo((short) 0x3F80);
        assertThat(Bf16.fromFloat(Float.intBitsToFloat(0x3F81_8000))).isEqualTo((short) 0x3F82);
        assertThat(Bf16.fromFloat(Float.intBitsToFloat(0x3F80_8001))).isEqualTo((short) 0x3F81);
        assertThat(Bf16.fromFloat(Float.MAX_VALUE)).isEqualTo((short) 0x7F80);
    }

    @Test
    void roundsADoubleToBf16Once() {
        final double tie = 1 + 0x1p-8;
        assertThat(Bf16.fromFloat((float) (tie + 0x1p-40)))
                .as("through float the tie is lost")
                .isEqualTo((short) 0x3F80);
        assertThat(Bf16.fromDouble(tie + 0x1p-40)).isEqualTo((short) 0x3F81);
        assertThat(Bf16.fromDouble(tie - 0x1p-40)).isEqualTo((short) 0x3F80);
        assertThat(Bf16.fromDouble(tie)).isEqualTo((short) 0x3F80);
        assertThat(Bf16.fromDouble(-tie - 0x1p-40)).isEqualTo((short) 0xBF81);
        assertThat(Bf16.fromDouble(1e300)).isEqualTo((short) 0x7F80);
        assertThat(Bf16.fromDouble(0)).isEqualTo((short) 0);
    }

    @ParameterizedTest
    @CsvSource({
        "1, 127",
        "1.0000001, 128",
        "0, 0",
        "1e-45, 0",
        "0x1p127, 254",
        "Infinity, 254",
        "NaN, 255",
        "-1, 255",
        "3, 129",
        "0x1.8p-127, 1"
    })
    void roundsE8m0Upward(final String value, final int code) {
        assertThat(E8m0.fromFloat(Float.parseFloat(value)) & 0xFF).isEqualTo(code);
    }

    @Test
    void decodesE8m0() {
        for (int code = 0; code < 255; code++) {
            assertThat(E8m0.toFloat((byte) code)).isEqualTo((float) Math.pow(2, code - 127));
        }
        assertThat(E8m0.toFloat((byte) 255)).isNaN();
    }
}
