package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.reference.BlockQuantization;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.FusedQuantization;
import io.hopper4j.reference.LatentCacheWriting;
import io.hopper4j.reference.MatrixProduct;
import io.hopper4j.reference.MlaMerge;
import io.hopper4j.reference.PagedLatentAttention;
import java.io.IOException;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Right outputs are judged right, a planted fault is found where it was planted. */
final class CheckCommandTest extends CheckTesting {
    @Test
    void shouldJudgeProducts() throws IOException {
        final Scaled<HostTensor> a = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 33, 272);
        final Scaled<HostTensor> b = HostData.randomQuantized(arena, random, Scaling.WEIGHT_128X128, 136, 272);
        for (final DType type : new DType[] {DType.BF16, DType.F32}) {
            final HostTensor d = HostTensor.allocate(arena, type, 33, 136);
            BlockScaledProduct.multiply(a, b, null, d);
            assertJudged(
                    "fp8_gemm_nt",
                    new SafeTensorsFile()
                            .with("a", a.values())
                            .with("a_scales", a.scales())
                            .with("b", b.values())
                            .with("b_scales", b.scales()),
                    new SafeTensorsFile().with("d", d),
                    d,
                    "d",
                    17,
                    101);
        }
    }

    @Test
    void shouldJudgeProductsThatLeaveQuantised() throws IOException {
        final Scaled<HostTensor> a = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 33, 272);
        final Scaled<HostTensor> b = HostData.randomQuantized(arena, random, Scaling.WEIGHT_128X128, 144, 272);
        for (final ScaleKind kind : ScaleKind.values()) {
            final Scaled<HostTensor> d = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 33, 144);
            BlockScaledProduct.multiply(a, b, d, kind);
            final SafeTensorsFile inputs =
                    quantized(a, b).withMetadata("scale_kind", kind == ScaleKind.F32 ? "f32" : "power_of_two");
            final SafeTensorsFile output =
                    new SafeTensorsFile().with("d", d.values()).with("d_scales", d.scales());
            assertJudged("gemm", inputs, output, d.values(), "d", 32, 143);
            BlockScaledProduct.multiply(a, b, d, kind);
            assertJudged("gemm", inputs, output, d.scales(), "d_scales", 7, 1);
            assertThat(check("gemm", files(inputs.with("c", normal(DType.BF16, 33, 144)), output))
                            .err())
                    .contains("tensor \"c\": got a tensor, need none, as d is F8_E4M3");
        }
    }

    @Test
    void shouldJudgeQuantisation() throws IOException {
        final HostTensor x = HostTensor.allocate(arena, DType.BF16, 40, 200);
        HostData.fillForQuantization(x, random);
        final HostTensor back = HostTensor.allocate(arena, DType.F32, 40, 200);
        for (final Scaling.Block block : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
            final Scaled<HostTensor> out = HostData.quantized(arena, block, 40, 200);
            BlockQuantization.quantize(x, out, ScaleKind.POWER_OF_TWO);
            BlockQuantization.dequantize(out, back);
            final SafeTensorsFile quantized =
                    new SafeTensorsFile().with("values", out.values()).with("scales", out.scales());
            assertJudged("dequantize", quantized, new SafeTensorsFile().with("out", back), back, "out", 39, 7);
            assertJudged(
                    "quantize",
                    new SafeTensorsFile().with("x", x).withMetadata("scale_kind", "power_of_two"),
                    quantized,
                    out.scales(),
                    "scales",
                    0,
                    1);
        }
    }

    @Test
    void shouldJudgeProductsOfGroups() throws IOException {
        final HostTensor ends = ints(5, 5, 30);
        final Scaled<HostTensor> a = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 33, 272);
        final Scaled<HostTensor> b = HostData.randomStack(arena, random, Scaling.WEIGHT_128X128, 3, 136, 272);
        final HostTensor d = HostTensor.allocate(arena, DType.BF16, 33, 136);
        run(
                kernels -> kernels.plan(GroupedGemmSpec.of(3, 33, 136, 272)),
                (final GroupedGemmPlan<HostTensor> plan) -> plan.bind(a, b, ends, d, null));
        assertJudged(
                "gemm_grouped",
                quantized(a, b).with("group_ends", ends),
                new SafeTensorsFile().with("d", d),
                d,
                "d",
                6,
                9);
        final Scaled<HostTensor> stack = HostData.randomStack(arena, random, Scaling.ACTIVATION_1X128, 3, 20, 272);
        final HostTensor counts = ints(20, 0, 7);
        final HostTensor masked = HostTensor.allocate(arena, DType.BF16, 3, 20, 136);
        run(
                kernels -> kernels.plan(MaskedGemmSpec.of(3, 20, 136, 272)),
                (final MaskedGemmPlan<HostTensor> plan) -> plan.bind(stack, b, counts, masked, null));
        assertJudged(
                "gemm_masked",
                quantized(stack, b).with("counts", counts),
                new SafeTensorsFile().with("d", masked),
                masked,
                "d",
                2,
                6,
                135);
    }

    private static SafeTensorsFile quantized(final Scaled<HostTensor> a, final Scaled<HostTensor> b) {
        return new SafeTensorsFile()
                .with("a", a.values())
                .with("a_scales", a.scales())
                .with("b", b.values())
                .with("b_scales", b.scales());
    }

    @Test
    void shouldJudgeProductsOfGroupsOfK() throws IOException {
        final HostTensor ends = ints(128, 384);
        final Scaled<HostTensor> a = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 48, 384);
        final Scaled<HostTensor> b = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 32, 384);
        final HostTensor d = HostTensor.allocate(arena, DType.F32, 2, 48, 32);
        run(
                kernels -> kernels.plan(KGroupedGemmSpec.of(2, 48, 32, 384)),
                (final KGroupedGemmPlan<HostTensor> plan) -> plan.bind(a, b, ends, null, d, null));
        assertJudged(
                "gemm_k_grouped",
                quantized(a, b).with("group_ends", ends),
                new SafeTensorsFile().with("d", d),
                d,
                "d",
                1,
                47,
                3);
    }

    @Test
    void shouldJudgeProductsOfBf16() throws IOException {
        final HostTensor a = normal(DType.BF16, 2 * 20, 72).reshape(2, 20, 72);
        final HostTensor b = normal(DType.BF16, 2 * 24, 72).reshape(2, 24, 72);
        final HostTensor d = HostTensor.allocate(arena, DType.F32, 2, 20, 24);
        for (int z = 0; z < 2; z++) {
            MatrixProduct.multiply(a.select(0, z), b.select(0, z), null, d.select(0, z));
        }
        assertJudged(
                "gemm_bf16",
                new SafeTensorsFile().with("a", a).with("b", b),
                new SafeTensorsFile().with("d", d),
                d,
                "d",
                1,
                19,
                23);
        final HostTensor rows = a.select(0, 0);
        final HostTensor grouped = HostTensor.allocate(arena, DType.BF16, 20, 24);
        MatrixProduct.multiply(rows.slice(0, 0, 13), b.select(0, 0), null, grouped.slice(0, 0, 13));
        MatrixProduct.multiply(rows.slice(0, 13, 20), b.select(0, 1), null, grouped.slice(0, 13, 20));
        assertJudged(
                "gemm_bf16_grouped",
                new SafeTensorsFile().with("a", rows).with("b", b).with("group_ends", ints(13, 20)),
                new SafeTensorsFile().with("d", grouped),
                grouped,
                "d",
                13,
                0);
    }

    @Test
    void shouldJudgePassesFusedWithQuantisation() throws IOException {
        final HostTensor x = normal(DType.BF16, 9, 400);
        final HostTensor weights = normal(DType.F32, 1, 9).select(0, 0);
        final Scaled<HostTensor> gated = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 9, 200);
        run(
                kernels -> kernels.plan(SwigluQuantizeSpec.of(9, 200).withWeights(true)),
                (final SwigluQuantizePlan<HostTensor> plan) -> plan.bind(x, weights, null, gated));
        assertJudged(
                "swiglu_quantize",
                new SafeTensorsFile().with("x", x).with("weights", weights),
                new SafeTensorsFile().with("values", gated.values()).with("scales", gated.scales()),
                gated.scales(),
                "scales",
                8,
                1);
        final HostTensor residual = normal(DType.BF16, 9, 400);
        final HostTensor before = HostTensor.allocate(arena, residual.spec());
        before.setFloats(residual.toFloats());
        final HostTensor weight = normal(DType.F32, 1, 400).select(0, 0);
        final Scaled<HostTensor> norm = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 9, 400);
        run(
                kernels -> kernels.plan(RmsNormQuantizeSpec.of(9, 400)
                        .withWeight(DType.F32)
                        .withResidual(true)
                        .withScaleKind(ScaleKind.POWER_OF_TWO)),
                (final RmsNormQuantizePlan<HostTensor> plan) -> plan.bind(x, residual, weight, norm, null));
        assertJudged(
                "rmsnorm_quantize",
                new SafeTensorsFile()
                        .with("x", x)
                        .with("residual", before)
                        .with("weight", weight)
                        .withMetadata("scale_kind", "power_of_two"),
                new SafeTensorsFile().with("values", norm.values()).with("scales", norm.scales()),
                norm.values(),
                "values",
                3,
                399);
        final Scaled<HostTensor> turned = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 400, 9);
        FusedQuantization.transposeQuantize(x, turned, ScaleKind.F32);
        assertJudged(
                "transpose_quantize",
                new SafeTensorsFile().with("x", x),
                new SafeTensorsFile().with("values", turned.values()).with("scales", turned.scales()),
                turned.values(),
                "values",
                398,
                2);
    }

    @Test
    void shouldJudgeGates() throws IOException {
        final HostTensor logits = normal(DType.F32, 7, 32);
        final HostTensor bias = normal(DType.F32, 1, 32).select(0, 0);
        final HostTensor ids = HostTensor.allocate(arena, DType.I32, 7, 4);
        final HostTensor weights = HostTensor.allocate(arena, DType.F32, 7, 4);
        final HostTensor counts = HostTensor.allocate(arena, DType.I32, 32);
        run(
                kernels -> kernels.plan(GateSpec.of(7, 32, 4)
                        .withGroups(4, 2)
                        .withNormalize(true)
                        .withScale(2.5f)),
                (final GatePlan<HostTensor> plan) ->
                        plan.bind(new GateOperands<>(logits, bias, null, ids, weights, counts)));
        assertJudged(
                "moe_gate",
                new SafeTensorsFile()
                        .with("logits", logits)
                        .with("bias", bias)
                        .withMetadata("top_k", "4")
                        .withMetadata("groups", "4")
                        .withMetadata("kept_groups", "2"),
                new SafeTensorsFile().with("ids", ids).with("weights", weights),
                weights,
                "weights",
                6,
                3);
        final HostTensor moved = HostTensor.allocate(arena, bias.spec());
        moved.setFloats(bias.toFloats());
        run(
                kernels -> kernels.plan(BiasUpdateSpec.of(32, 0.01f).withClearCounts(false)),
                (final BiasUpdatePlan<HostTensor> plan) -> plan.bind(new BiasUpdateOperands<>(counts, moved)));
        assertJudged(
                "moe_bias_update",
                new SafeTensorsFile().with("counts", counts).with("bias", bias).withMetadata("step", "0.01"),
                new SafeTensorsFile().with("bias", moved),
                moved,
                "bias",
                31);
    }

    @Test
    void shouldJudgeTheWayToExpertsAndBack() throws IOException {
        final HostTensor x = normal(DType.BF16, 7, 128);
        final HostTensor ids = HostTensor.allocate(arena, DType.I32, 7, 2);
        for (long t = 0; t < 7; t++) {
            ids.setFloat((float) random.below(4), t, 0);
            ids.setFloat(-1, t, 1);
        }
        ids.setFloat(3, 5, 1);
        for (final boolean quantize : new boolean[] {true, false}) {
            final PermuteSpec plain = PermuteSpec.of(7, 128, 4, 2, DType.BF16).withAlignment(4);
            final PermuteSpec spec = quantize ? plain.withQuantize(ScaleKind.F32) : plain;
            final HostTensor out = HostTensor.allocate(arena, spec.outDType(), spec.rows(), 128);
            final HostTensor scales = HostTensor.allocate(arena, Scaled.activationScaleSpec(spec.rows(), 128));
            final HostTensor ends = HostTensor.allocate(arena, DType.I32, 4);
            final HostTensor places = HostTensor.allocate(arena, ids.spec());
            run(
                    kernels -> kernels.plan(spec),
                    (final PermutePlan<HostTensor> plan) -> plan.bind(
                            new PermuteOperands<>(ids, x, null, out, quantize ? scales : null, ends, places, null)));
            final SafeTensorsFile output = new SafeTensorsFile()
                    .with("out", out)
                    .with("group_ends", ends)
                    .with("places", places);
            assertJudged(
                    "moe_permute",
                    new SafeTensorsFile()
                            .with("ids", ids)
                            .with("x", x)
                            .withMetadata("experts", "4")
                            .withMetadata("alignment", "4"),
                    quantize ? output.with("out_scales", scales) : output,
                    out,
                    "out",
                    (long) places.getFloat(5, 1),
                    127);
            if (!quantize) {
                final HostTensor back = HostTensor.allocate(arena, DType.BF16, 7, 128);
                final HostTensor weights = normal(DType.F32, 7, 2);
                run(
                        kernels -> kernels.plan(UnpermuteSpec.of(7, spec.rows(), 128, 2)
                                .withWeights(true)
                                .withResidual(true)),
                        (final UnpermutePlan<HostTensor> plan) ->
                                plan.bind(new UnpermuteOperands<>(out, places, weights, x, back)));
                assertJudged(
                        "moe_unpermute",
                        new SafeTensorsFile()
                                .with("x", out)
                                .with("places", places)
                                .with("weights", weights)
                                .with("residual", x),
                        new SafeTensorsFile().with("out", back),
                        back,
                        "out",
                        5,
                        7);
            }
        }
    }

    @Test
    void shouldJudgeDecoding() throws IOException {
        final MlaDecodeCase shape = MlaDecodeCase.of(
                MlaDecodeSpec.of(5, 16, 1, 1, 1).withSQ(2).withWindow(50), List.of(70, 1, 0, 33), 0, true, true, 1);
        final MlaDecodeOperands<HostTensor> x = shape.operands(arena, random);
        PagedLatentAttention.decode(shape.spec(), x, 4);
        final SafeTensorsFile inputs = new SafeTensorsFile()
                .with("q", x.q())
                .with("cache", x.cache())
                .with("block_table", x.blockTable())
                .with("lengths", x.lengths())
                .with("q_tokens", java.util.Objects.requireNonNull(x.qTokens()))
                .with("sink", java.util.Objects.requireNonNull(x.sink()))
                .withMetadata("window", "50");
        assertJudged(
                "mla_decode",
                inputs,
                new SafeTensorsFile().with("out", x.out()).with("lse", x.lse()),
                x.lse(),
                "lse",
                0,
                4,
                0);
        final Files files =
                files(inputs, new SafeTensorsFile().with("out", x.out()).with("lse", x.lse()));
        assertThat(check("mla_decode", files, "--set", "window=49").status())
                .as("another window")
                .isEqualTo(1);
    }

    @Test
    void shouldJudgeDecodingOfFp8() throws IOException {
        for (final MlaCacheFormat format : List.of(MlaCacheFormat.FP8_BLOCKS, MlaCacheFormat.FP8_TOKEN)) {
            final MlaDecodeCase shape = MlaDecodeCase.of(
                    MlaDecodeSpec.of(5, 16, 1, 1, 1).withCacheFormat(format), List.of(70, 3), 0, false, false, 1);
            final MlaDecodeOperands<HostTensor> x = shape.operands(arena, random);
            PagedLatentAttention.decode(shape.spec(), x, 2);
            final SafeTensorsFile inputs = new SafeTensorsFile()
                    .with("q", x.q())
                    .with("cache", x.cache())
                    .with("block_table", x.blockTable())
                    .with("lengths", x.lengths())
                    .withMetadata("format", name(format));
            final SafeTensorsFile output =
                    new SafeTensorsFile().with("out", x.out()).with("lse", x.lse());
            assertJudged("mla_decode", inputs, output, x.lse(), "lse", 1, 4, 0);
        }
    }

    private static String name(final MlaCacheFormat format) {
        return format == MlaCacheFormat.FP8_TOKEN ? "fp8_token" : "fp8_blocks";
    }

    @Test
    void shouldJudgeWritingOfCaches() throws IOException {
        for (final MlaCacheFormat format : MlaCacheFormat.values()) {
            final MlaCacheWriteCase shape =
                    MlaCacheWriteCase.of(format, ScaleKind.POWER_OF_TWO, true, 16, 3, 40, 20, 1);
            final MlaCacheWriteOperands<HostTensor> x = shape.operands(arena);
            final long tokens = shape.spec().maxTokens();
            LatentCacheWriting.write(shape.spec(), x, tokens);
            final SafeTensorsFile inputs = new SafeTensorsFile()
                    .with("in", x.in())
                    .with("weight", x.weight())
                    .with("rope", x.rope())
                    .with("positions", x.positions())
                    .with("requests", java.util.Objects.requireNonNull(x.requests()))
                    .with("block_table", x.blockTable())
                    .withMetadata("format", name(format))
                    .withMetadata("scale_kind", "power_of_two");
            final SafeTensorsFile output = new SafeTensorsFile().with("cache", x.cache());
            final LatentCacheWriting.Place place = LatentCacheWriting.place(shape.spec(), x, 4);
            final boolean isBf16 = format == MlaCacheFormat.BF16;
            // A code of the latent, then an exponent of what was turned.
            plantInCache(inputs, output, x.cache(), "cache, latent", place, 17, 17);
            plantInCache(inputs, output, x.cache(), "cache, turned", place, 3, isBf16 ? 515 : 528 + 2 * 3 + 1);
            if (!isBf16) {
                plantInCache(inputs, output, x.cache(), "cache, scales", place, 0, 515);
                final long behind = format == MlaCacheFormat.FP8_BLOCKS ? 0 : 517;
                if (behind > 0) {
                    plantInCache(inputs, output, x.cache(), "cache, bytes behind the scales", place, behind, behind);
                }
            }
        }
    }

    /** Changes an element of a token for one check: of BF16, or the top bits of a byte. */
    private void plantInCache(
            final SafeTensorsFile inputs,
            final SafeTensorsFile output,
            final HostTensor cache,
            final String measure,
            final LatentCacheWriting.Place place,
            final long named,
            final long element)
            throws IOException {
        final long[] at = {place.page(), place.slot(), element};
        assertThat(check("mla_cache_write", files(inputs, output)).status()).isZero();
        final float before = cache.getFloat(at);
        cache.setFloat(cache.dtype() == DType.BF16 ? before + 8 : (int) before ^ 0x20, at);
        final Answer wrong = check("mla_cache_write", files(inputs, output));
        cache.setFloat(before, at);
        assertThat(wrong.status()).isEqualTo(1);
        assertThat(wrong.out().lines().filter(line -> line.startsWith(measure + ": ")))
                .singleElement()
                .asString()
                .contains("at [%d,%d,%d]: got".formatted(place.page(), place.slot(), named));
    }

    @Test
    void shouldJudgeMerging() throws IOException {
        final HostTensor[] out = new HostTensor[3];
        final HostTensor[] lse = new HostTensor[3];
        for (int i = 0; i < 3; i++) {
            out[i] = HostTensor.allocate(arena, DType.BF16, 3, 2, 4, 512);
            lse[i] = HostTensor.allocate(arena, DType.F32, 3, 4, 2);
            HostData.fillWithNormal(out[i].reshape(24, 512), random);
            HostData.fillWithNormal(lse[i].reshape(12, 2), random);
        }
        MlaMerge.merge(out[0], lse[0], out[1], lse[1], out[2], lse[2]);
        assertJudged(
                "mla_merge",
                new SafeTensorsFile()
                        .with("out_a", out[0])
                        .with("lse_a", lse[0])
                        .with("out_b", out[1])
                        .with("lse_b", lse[1]),
                new SafeTensorsFile().with("out", out[2]).with("lse", lse[2]),
                out[2],
                "out",
                2,
                1,
                3,
                511);
    }

    @Test
    void shouldSayWhatDoesNotFit() throws IOException {
        final HostTensor a = HostTensor.allocate(arena, DType.F8_E4M3, 4, 128);
        final HostTensor scales = HostTensor.allocate(arena, DType.F32, 4, 2);
        final Files files = files(
                new SafeTensorsFile().with("a", a).with("b", a).with("a_scales", scales),
                new SafeTensorsFile().with("d", a));
        final Answer shape = check("gemm", files);
        assertThat(shape.status()).isEqualTo(2);
        assertThat(shape.err())
                .isEqualTo("check: %s: tensor \"a_scales\": got shape [4,2], need [4,1]%n".formatted(files.inputs()));
        assertThat(check("quantize", files).err())
                .isEqualTo(
                        "check: %s: tensor \"x\": missing; the file has [a, b, a_scales]%n".formatted(files.inputs()));
        java.nio.file.Files.delete(files.output());
        assertThat(check("quantize", files).err()).isEqualTo("check: %s: no such file%n".formatted(files.output()));
        assertThat(run(List.of("check", "--op", "gemn")).err()).contains("got gemn, need one of quantize, ");
        assertThat(run(List.of("check", "--op", "gemm")).status()).isEqualTo(2);
    }

    static List<CheckOperation> operations() {
        return CheckOperations.all();
    }

    @ParameterizedTest
    @MethodSource("operations")
    void shouldDescribeEveryOperation(final CheckOperation operation) {
        final Answer answer =
                run(List.of("check", "--describe", operation.names().getLast()));
        assertThat(answer.status()).isZero();
        assertThat(answer.out()).contains(operation.inputs()).contains(operation.outputs());
    }

    /** An operation that the kernels have can be judged. */
    @Test
    void shouldJudgeEveryOperation() {
        final java.util.Set<String> judged = new java.util.HashSet<>();
        CheckOperations.all().forEach(operation -> judged.addAll(operation.names()));
        assertThat(judged)
                .contains(
                        "quantize",
                        "dequantize",
                        "swiglu_quantize",
                        "rmsnorm_quantize",
                        "transpose_quantize",
                        "gemm",
                        "gemm_grouped",
                        "gemm_masked",
                        "gemm_k_grouped",
                        "gemm_bf16",
                        "gemm_bf16_grouped",
                        "mla_decode",
                        "mla_merge",
                        "mla_cache_write",
                        "moe_gate",
                        "moe_bias_update",
                        "moe_permute",
                        "moe_unpermute",
                        "moe_dispatch",
                        "moe_combine")
                .hasSizeGreaterThanOrEqualTo(OpSpec.class.getPermittedSubclasses().length);
    }
}
