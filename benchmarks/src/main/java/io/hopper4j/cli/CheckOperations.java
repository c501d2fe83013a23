package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaSoftmaxScale;
import io.hopper4j.attention.MlaTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.AttentionRow;
import io.hopper4j.reference.BlockQuantization;
import io.hopper4j.reference.MlaMerge;
import io.hopper4j.reference.PagedLatentAttention;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** What {@code check} can judge. */
final class CheckOperations {
    private static final long SEED = 20261125;

    private CheckOperations() {}

    /** {@return all operations} */
    static List<CheckOperation> all() {
        return Stream.of(
                        List.of(new Quantize(), new Dequantize()),
                        CheckFused.all(),
                        CheckProducts.all(),
                        List.of(new MlaDecode(), new MlaMerging()),
                        CheckRouting.all())
                .flatMap(List::stream)
                .toList();
    }

    /** {@return the operation of a name} */
    static Optional<CheckOperation> find(final String name) {
        return all().stream()
                .filter(operation -> operation.names().contains(name))
                .findFirst();
    }

    /** The blocks that a matrix with scales of this shape has. */
    private static Scaling.Block blocks(
            final CheckTensors file, final String name, final HostTensor scales, final long rows, final long cols) {
        for (final Scaling.Block block : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
            if (scales.shape().equals(block.scaleShape(rows, cols))) {
                return block;
            }
        }
        throw file.misfit(
                name,
                "shape " + scales.shape(),
                Scaling.ACTIVATION_1X128.scaleShape(rows, cols) + " for blocks of 1 x 128 or "
                        + Scaling.WEIGHT_128X128.scaleShape(rows, cols) + " for blocks of 128 x 128");
    }

    static ScaleKind scaleKind(final CheckTensors inputs) {
        return switch (inputs.attribute("scale_kind").orElse("f32")) {
            case "f32" -> ScaleKind.F32;
            case "power_of_two" -> ScaleKind.POWER_OF_TWO;
            default -> throw new CheckTensors.Misfit("scale_kind: need f32 or power_of_two");
        };
    }

    private static final class Quantize implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("quantize");
        }

        @Override
        public String meaning() {
            return "E4M3 values and F32 scales of a matrix, bit for bit";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "x            [rows, cols] F32, F16 or BF16", "scale_kind   f32 (if not given) or power_of_two");
        }

        @Override
        public List<String> outputs() {
            return List.of(
                    "values       [rows, cols] F8_E4M3",
                    "scales       F32 [rows, ceil(cols/128)] for blocks of 1 x 128, [ceil(rows/128), ceil(cols/128)] for 128 x 128");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor x = inputs.tensor("x", 2, DType.F32, DType.F16, DType.BF16);
            final long rows = x.shape().size(0);
            final long cols = x.shape().size(1);
            final HostTensor values = theirs.tensor("values", new long[] {rows, cols}, DType.F8_E4M3);
            final HostTensor scales = theirs.tensor("scales", 2, DType.F32);
            final ScaleKind kind = scaleKind(inputs);
            try (Arena arena = Arena.ofShared()) {
                final Scaled<HostTensor> exact =
                        HostData.quantized(arena, blocks(theirs, "scales", scales, rows, cols), rows, cols);
                BlockQuantization.quantize(x, exact, kind);
                final CheckMeasure ofValues = new CheckMeasure("values");
                ofValues.addEqual(values, exact.values());
                final CheckMeasure ofScales = new CheckMeasure("scales");
                ofScales.addEqual(scales, exact.scales());
                return new Judgement(List.of(ofValues, ofScales), List.of());
            }
        }
    }

    private static final class Dequantize implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("dequantize");
        }

        @Override
        public String meaning() {
            return "float(value) * scale of a quantised matrix, bit for bit";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "values       [rows, cols] F8_E4M3",
                    "scales       F32 [rows, ceil(cols/128)] for blocks of 1 x 128, [ceil(rows/128), ceil(cols/128)] for 128 x 128");
        }

        @Override
        public List<String> outputs() {
            return List.of("out          [rows, cols] F32, F16 or BF16");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor values = inputs.tensor("values", 2, DType.F8_E4M3);
            final long[] shape = values.shape().toArray();
            final HostTensor scales = inputs.tensor("scales", 2, DType.F32);
            final HostTensor out = theirs.tensor("out", shape, DType.F32, DType.F16, DType.BF16);
            try (Arena arena = Arena.ofShared()) {
                final HostTensor exact = HostTensor.allocate(arena, out.spec());
                final Scaling.Block blocks = blocks(inputs, "scales", scales, shape[0], shape[1]);
                BlockQuantization.dequantize(new Scaled<>(values, scales, blocks), exact);
                final CheckMeasure measure = new CheckMeasure("out");
                measure.addEqual(out, exact);
                return new Judgement(List.of(measure), List.of());
            }
        }
    }

    private static final class MlaDecode implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("mla_decode", "flash_mla_decode");
        }

        @Override
        public String meaning() {
            return "attention of MLA decode over a paged BF16 cache, within the bounds of MlaTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "q              [batch, s_q, heads, 576] BF16",
                    "cache          [pages, page_size, 576] BF16",
                    "block_table    [batch, width] I32",
                    "lengths        [batch] I32, the tokens of the query included",
                    "q_tokens       [batch] I32: query tokens in use; may be missing: all",
                    "sink           [heads] F32; may be missing: none",
                    "softmax_scale  DeepSeek-V3's, " + MlaSoftmaxScale.DEEPSEEK_V3 + ", if not given",
                    "causal         1 if not given",
                    "window         0, none, if not given",
                    "value_scale    size of the cached values in units of 0.1, which the bound grows with; 1 if not given");
        }

        @Override
        public List<String> outputs() {
            return List.of(
                    "out            [batch, s_q, heads, 512] BF16",
                    "lse            [batch, heads, s_q] F32, natural logarithm, +infinity where there is no key");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor q = inputs.tensor("q", 4, DType.BF16);
            final long batch = q.shape().size(0);
            final int sQ = Math.toIntExact(q.shape().size(1));
            final int heads = Math.toIntExact(q.shape().size(2));
            inputs.tensor("q", new long[] {batch, sQ, heads, TOKEN_DIM}, DType.BF16);
            final HostTensor cache = inputs.tensor("cache", 3, DType.BF16);
            final long pages = cache.shape().size(0);
            final int pageSize = Math.toIntExact(cache.shape().size(1));
            inputs.tensor("cache", new long[] {pages, pageSize, TOKEN_DIM}, DType.BF16);
            final HostTensor table = inputs.tensor("block_table", 2, DType.I32);
            final long width = table.shape().size(1);
            inputs.tensor("block_table", new long[] {batch, width}, DType.I32);
            final MlaDecodeSpec spec = MlaDecodeSpec.of(heads, pageSize, batch, width * pageSize, pages)
                    .withSQ(sQ)
                    .withCausal(inputs.integer("causal", 1) != 0)
                    .withWindow(inputs.integer("window", 0))
                    .withSoftmaxScale(inputs.number("softmax_scale", MlaSoftmaxScale.DEEPSEEK_V3));
            final HostTensor out = theirs.tensor("out", new long[] {batch, sQ, heads, VALUE_DIM}, DType.BF16);
            final HostTensor lse = theirs.tensor("lse", new long[] {batch, heads, sQ}, DType.F32);
            final @Nullable HostTensor tokens = inputs.optional("q_tokens", 1, DType.I32);
            final @Nullable HostTensor sink = inputs.optional("sink", 1, DType.F32);
            try (Arena arena = Arena.ofShared()) {
                final MlaDecodeOperands<HostTensor> x = MlaDecodeOperands.<HostTensor>builder()
                        .q(q)
                        .cache(cache)
                        .blockTable(table)
                        .lengths(inputs.tensor("lengths", new long[] {batch}, DType.I32))
                        .qTokens(tokens == null ? null : inputs.tensor("q_tokens", new long[] {batch}, DType.I32))
                        .sink(sink == null ? null : inputs.tensor("sink", new long[] {heads}, DType.F32))
                        .schedule(HostTensor.allocate(arena, DType.U8, 0))
                        .out(out)
                        .lse(lse)
                        .build();
                return compare(spec, x, budget, inputs.number("value_scale", 1));
            }
        }

        private static Judgement compare(
                final MlaDecodeSpec spec,
                final MlaDecodeOperands<HostTensor> x,
                final long budget,
                final float valueScale) {
            final SplitMix64 random = new SplitMix64(SEED);
            final MlaTolerance tolerance = new MlaTolerance(valueScale);
            final CheckMeasure ofOut = new CheckMeasure("out");
            final CheckMeasure ofLse = new CheckMeasure("lse");
            for (long r = 0; r < spec.maxBatch(); r++) {
                final PagedLatentAttention.Request request = PagedLatentAttention.request(spec, x, r);
                final long rows = (long) request.tokens() * spec.heads();
                final long share = budget / spec.maxBatch() / (2L * TOKEN_DIM * Math.max(1, request.length()));
                for (final long row : HostData.sample(random, rows, Math.max(1, share))) {
                    final int token = (int) (row / spec.heads());
                    final int head = (int) (row % spec.heads());
                    final AttentionRow exact = request.row(token, head);
                    final float[] got = x.out()
                            .select(0, r)
                            .select(0, token)
                            .select(0, head)
                            .toFloats();
                    for (int d = 0; d < VALUE_DIM; d++) {
                        tolerance.add(got[d], exact.value(d));
                        final double bound = Math.max(
                                MlaTolerance.OUT_ABSOLUTE * valueScale,
                                MlaTolerance.OUT_RELATIVE * Math.abs(exact.value(d)));
                        ofOut.add(got[d], exact.value(d), bound, r, token, head, d);
                    }
                    final double logSumExp = exact.logSumExp();
                    ofLse.add(
                            x.lse().getFloat(r, head, token),
                            logSumExp,
                            Math.max(MlaTolerance.LSE_ABSOLUTE, MlaTolerance.LSE_RELATIVE * Math.abs(logSumExp)),
                            r,
                            head,
                            token);
                }
            }
            return new Judgement(
                    List.of(ofOut, ofLse),
                    List.of(new Row.Measure(
                            "1-cos", tolerance.result().cosineDistance(), MlaTolerance.MAX_COSINE_DISTANCE)));
        }
    }

    private static final class MlaMerging implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("mla_merge");
        }

        @Override
        public String meaning() {
            return "two partial results of attention into one, by their log-sum-exp";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "out_a, out_b   [batch, s_q, heads, 512] BF16 or F32",
                    "lse_a, lse_b   [batch, heads, s_q] F32, natural logarithm, +infinity where there is no key");
        }

        @Override
        public List<String> outputs() {
            return List.of("out            as out_a", "lse            as lse_a");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor outA = inputs.tensor("out_a", 4, DType.BF16, DType.F32);
            final long[] shape = outA.shape().toArray();
            final long[] lseShape = {shape[0], shape[2], shape[1]};
            final HostTensor outB = inputs.tensor("out_b", shape, outA.dtype());
            final HostTensor lseA = inputs.tensor("lse_a", lseShape, DType.F32);
            final HostTensor lseB = inputs.tensor("lse_b", lseShape, DType.F32);
            final HostTensor out = theirs.tensor("out", shape, outA.dtype());
            final HostTensor lse = theirs.tensor("lse", lseShape, DType.F32);
            try (Arena arena = Arena.ofShared()) {
                final HostTensor exactOut = HostTensor.allocate(arena, out.spec());
                final HostTensor exactLse = HostTensor.allocate(arena, lse.spec());
                MlaMerge.merge(outA, lseA, outB, lseB, exactOut, exactLse);
                final CheckMeasure ofOut = new CheckMeasure("out");
                add(ofOut, out, exactOut, out.dtype() == DType.BF16 ? MlaMergeCase.BF16_ROUNDING : 0);
                final CheckMeasure ofLse = new CheckMeasure("lse");
                add(ofLse, lse, exactLse, 0);
                return new Judgement(List.of(ofOut, ofLse), List.of());
            }
        }

        private static void add(
                final CheckMeasure measure, final HostTensor values, final HostTensor exact, final double rounding) {
            final float[] got = values.toFloats();
            final float[] need = exact.toFloats();
            final long[] shape = values.shape().toArray();
            for (int i = 0; i < got.length; i++) {
                final double bound = MlaMergeCase.BOUND + (MlaMergeCase.BOUND + rounding) * Math.abs(need[i]);
                measure.add(got[i], need[i], bound, CheckMeasure.unravel(i, shape));
            }
        }
    }
}
