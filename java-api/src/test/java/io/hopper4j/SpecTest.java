package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaSoftmaxScale;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import org.junit.jupiter.api.Test;

/** Specs and descriptions check themselves; modifiers change one thing. */
final class SpecTest {
    @Test
    void shouldRefuseNonsense() {
        refused(() -> GemmSpec.of(-1, 8, 16), "gemm: maxM: got -1, need at least 0");
        refused(() -> GemmSpec.of(1, 0, 16), "gemm: n: got 0, need at least 1");
        refused(() -> GemmSpec.of(1, 8, -16), "gemm: k: got -16, need at least 1");
        refused(() -> GemmSpec.of(1, 8, 16).withSmBudget(-2), "gemm: smBudget: got -2, need at least 0");
        refused(
                () -> GemmSpec.of(1L << 40, 8, 1L << 40),
                "gemm: A [maxM,k]: got 1099511627776 x 1099511627776, need fewer than 2^60 elements");
        refused(
                () -> GemmSpec.of(1L << 31, 8, 1L << 31),
                "gemm: A [maxM,k]: got 2147483648 x 2147483648, need fewer than 2^60 elements");
        refused(() -> Bf16GemmSpec.batched(-1, 1, 8, 8), "gemm_bf16: batch: got -1, need at least 0");
        refused(() -> Bf16GemmSpec.of(1, 8, 0), "gemm_bf16: k: got 0, need at least 1");
        refused(
                () -> Bf16GemmSpec.batched(1L << 20, 1L << 20, 8, 1L << 20),
                "gemm_bf16: A [batch,maxM,k]: got 1048576 x 1048576 x 1048576, need fewer than 2^60 elements");
        refused(() -> Bf16GroupedGemmSpec.of(0, 1, 8, 8), "gemm_bf16_grouped: groups: got 0, need at least 1");
        refused(() -> Bf16GroupedGemmSpec.of(1, -1, 8, 8), "gemm_bf16_grouped: maxM: got -1, need at least 0");
        refused(
                () -> QuantizeSpec.of(-1, 8, DType.F32, Scaling.ACTIVATION_1X128),
                "quantize: maxRows: got -1, need at least 0");
        refused(
                () -> QuantizeSpec.of(1, 0, DType.F32, Scaling.ACTIVATION_1X128),
                "quantize: cols: got 0, need at least 1");
        refused(
                () -> DequantizeSpec.of(1, 0, Scaling.ACTIVATION_1X128, DType.F32),
                "dequantize: cols: got 0, need at least 1");
        refused(() -> MlaDecodeSpec.of(0, 64, 1, 1, 1), "mla_decode: heads: got 0, need at least 1");
        refused(() -> MlaDecodeSpec.of(1, 0, 1, 1, 1), "mla_decode: pageSize: got 0, need at least 1");
        refused(() -> MlaDecodeSpec.of(1, 1, -1, 1, 1), "mla_decode: maxBatch: got -1, need at least 0");
        refused(() -> MlaDecodeSpec.of(1, 1, 1, -1, 1), "mla_decode: maxLength: got -1, need at least 0");
        refused(() -> MlaDecodeSpec.of(1, 1, 1, 1, 0), "mla_decode: pages: got 0, need at least 1");
        final MlaDecodeSpec decode = MlaDecodeSpec.of(1, 1, 1, 1, 1);
        refused(() -> decode.withSQ(0), "mla_decode: sQ: got 0, need at least 1");
        refused(() -> decode.withWindow(-1), "mla_decode: window: got -1, need at least 0");
        refused(() -> decode.withSmBudget(-1), "mla_decode: smBudget: got -1, need at least 0");
        for (final float scale : new float[] {0, -1, Float.NaN, Float.POSITIVE_INFINITY}) {
            refused(
                    () -> decode.withSoftmaxScale(scale),
                    "mla_decode: softmaxScale: got " + scale + ", need a finite number above 0");
        }
        refused(
                () -> MlaDecodeSpec.of(1, 1024, 1, 1, 1L << 41),
                "mla_decode: cache [pages,pageSize,576]: got 2199023255552 x 1024 x 576, need fewer than 2^60 elements");
        refused(() -> SwigluQuantizeSpec.of(-1, 8), "swiglu_quantize: maxRows: got -1, need at least 0");
        refused(() -> SwigluQuantizeSpec.masked(0, 8, 8), "swiglu_quantize: groups: got 0, need at least 1");
        refused(
                () -> new SwigluQuantizeSpec(2, 8, 8, false, false, ScaleKind.F32, 0),
                "swiglu_quantize: groups: got 2, need 1, as the spec is not masked");
        refused(() -> RmsNormQuantizeSpec.of(1, 0), "rmsnorm_quantize: cols: got 0, need at least 1");
        refused(
                () -> RmsNormQuantizeSpec.of(1, 8).withEps(-1),
                "rmsnorm_quantize: eps: got -1.0, need a finite number above 0");
        refused(() -> TransposeQuantizeSpec.of(1, 0), "transpose_quantize: cols: got 0, need at least 1");
        final MlaCacheWriteSpec write = MlaCacheWriteSpec.of(decode);
        refused(() -> write.withMaxTokens(-1), "mla_cache_write: maxTokens: got -1, need at least 0");
        refused(() -> write.withEps(Float.NaN), "mla_cache_write: eps: got NaN, need a finite number above 0");
        refused(() -> new DeviceInfo("none", 9, 0, 0, 1, 1, 1, 0), "device: smCount: got 0, need at least 1");
        refused(
                () -> DeviceInfo.described("B200"),
                "device: name: got B200, need one of [H100-SXM, H800-SXM, H200-SXM, H100-PCIe, H20]");
    }

    private static void refused(
            final org.assertj.core.api.ThrowableAssert.ThrowingCallable call, final String message) {
        assertThatIllegalArgumentException().isThrownBy(call).withMessage(message);
    }

    @Test
    void shouldChangeOneThingAtATime() {
        assertThat(Bf16GemmSpec.of(7, 8, 16)
                        .withOut(DType.F32)
                        .withAccumulate(true)
                        .withSmBudget(3))
                .isEqualTo(new Bf16GemmSpec(1, 7, 8, 16, DType.F32, true, 3));
        assertThat(Bf16GroupedGemmSpec.of(2, 7, 8, 16)
                        .withOut(DType.F32)
                        .withAccumulate(true)
                        .withSmBudget(3))
                .isEqualTo(new Bf16GroupedGemmSpec(2, 7, 8, 16, DType.F32, true, 3));
        final GemmSpec spec = GemmSpec.of(7, 8, 16);
        assertThat(spec)
                .isEqualTo(new GemmSpec(
                        7,
                        8,
                        16,
                        DType.BF16,
                        false,
                        Scaling.ACTIVATION_1X128,
                        Scaling.WEIGHT_128X128,
                        0,
                        false,
                        false,
                        ScaleKind.F32));
        assertThat(spec.withOut(DType.F32)
                        .withAccumulate(true)
                        .withSmBudget(5)
                        .withBatchInvariant(true)
                        .withConstantB(true))
                .isEqualTo(new GemmSpec(
                        7,
                        8,
                        16,
                        DType.F32,
                        true,
                        Scaling.ACTIVATION_1X128,
                        Scaling.WEIGHT_128X128,
                        5,
                        true,
                        true,
                        ScaleKind.F32));
        final GemmSpec quantized = spec.withQuantizedOut(ScaleKind.POWER_OF_TWO).withSmBudget(5);
        assertThat(quantized.outDType()).isEqualTo(DType.F8_E4M3);
        assertThat(quantized.outScaleKind()).isEqualTo(ScaleKind.POWER_OF_TWO);
        assertThat(quantized.withOut(DType.BF16)).isEqualTo(spec.withSmBudget(5));
        final QuantizeSpec quantize = QuantizeSpec.of(7, 8, DType.F16, Scaling.WEIGHT_128X128);
        assertThat(quantize.withScaleKind(ScaleKind.POWER_OF_TWO).withSmBudget(3))
                .isEqualTo(new QuantizeSpec(7, 8, DType.F16, Scaling.WEIGHT_128X128, ScaleKind.POWER_OF_TWO, 3));
        assertThat(SwigluQuantizeSpec.masked(3, 7, 8)
                        .withWeights(true)
                        .withScaleKind(ScaleKind.POWER_OF_TWO)
                        .withSmBudget(5))
                .isEqualTo(new SwigluQuantizeSpec(3, 7, 8, true, true, ScaleKind.POWER_OF_TWO, 5));
        assertThat(RmsNormQuantizeSpec.of(7, 8)
                        .withWeight(DType.F32)
                        .withResidual(true)
                        .withNormalized(true)
                        .withEps(0.5f)
                        .withScaleKind(ScaleKind.POWER_OF_TWO)
                        .withSmBudget(5))
                .isEqualTo(new RmsNormQuantizeSpec(7, 8, DType.F32, true, true, 0.5f, ScaleKind.POWER_OF_TWO, 5));
        assertThat(TransposeQuantizeSpec.of(7, 8)
                        .withScaleKind(ScaleKind.POWER_OF_TWO)
                        .withSmBudget(5))
                .isEqualTo(new TransposeQuantizeSpec(7, 8, ScaleKind.POWER_OF_TWO, 5));
        assertThat(MlaCacheWriteSpec.of(
                                MlaDecodeSpec.of(1, 64, 3, 90, 12).withSQ(2).withCacheFormat(MlaCacheFormat.FP8_TOKEN))
                        .withMaxTokens(77)
                        .withTypes(DType.F32, DType.I64)
                        .withScaleKind(ScaleKind.POWER_OF_TWO)
                        .withEps(0.5f)
                        .withSmBudget(5))
                .isEqualTo(new MlaCacheWriteSpec(
                        MlaCacheFormat.FP8_TOKEN,
                        ScaleKind.POWER_OF_TWO,
                        DType.F32,
                        DType.I64,
                        64,
                        2,
                        5,
                        0.5f,
                        77,
                        3,
                        90,
                        12));
        assertThat(DequantizeSpec.of(7, 8, Scaling.WEIGHT_128X128, DType.F16).withSmBudget(3))
                .isEqualTo(new DequantizeSpec(7, 8, Scaling.WEIGHT_128X128, DType.F16, 3));
    }

    @Test
    void shouldChangeOneThingOfADecode() {
        final MlaDecodeSpec spec = MlaDecodeSpec.of(16, 64, 3, 1000, 50);
        assertThat(spec)
                .isEqualTo(new MlaDecodeSpec(
                        16, 1, 64, true, 0, 0, MlaSoftmaxScale.DEEPSEEK_V3, 3, 1000, 50, MlaCacheFormat.BF16));
        assertThat(spec.withSQ(2)
                        .withCausal(false)
                        .withWindow(100)
                        .withSoftmaxScale(0.5f)
                        .withSmBudget(20)
                        .withCacheFormat(MlaCacheFormat.FP8_TOKEN)
                        .withRoom(4, 2000, 60))
                .isEqualTo(new MlaDecodeSpec(16, 2, 64, false, 100, 20, 0.5f, 4, 2000, 60, MlaCacheFormat.FP8_TOKEN));
        assertThat(spec.tableWidth()).isEqualTo(16);
    }

    @Test
    void shouldDescribeHopperCards() {
        assertThat(DeviceInfo.described()).allMatch(DeviceInfo::isHopper);
        assertThat(DeviceInfo.described("H100-PCIe").smCount()).isEqualTo(114);
        assertThat(DeviceInfo.described("H20").smCount()).isEqualTo(78);
    }
}
