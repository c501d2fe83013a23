package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaSoftmaxScale;
import io.hopper4j.attention.MlaTolerance;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.reference.AttentionRow;
import io.hopper4j.reference.MlaMerge;
import io.hopper4j.reference.PagedLatentAttention;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.List;

/** What {@code check} can judge of attention. */
final class CheckAttention {
    private static final long SEED = 20261125;

    private static final String FORMAT =
            "format         of FP8 tokens, 512 E4M3, 16 bytes of F32 scales, 64 BF16: fp8_blocks (if not given), four scales, or fp8_token, one";

    private CheckAttention() {}

    static List<CheckOperation> all() {
        return List.of(
                new CheckOperation(
                        List.of("mla_decode", "flash_mla_decode"),
                        "attention of MLA decode over a paged cache of BF16 or FP8 tokens, within the bounds of MlaTolerance",
                        List.of(
                                "q              [batch, s_q, heads, 576] BF16",
                                "cache          [pages, page_size, 576] BF16, or [pages, page_size, 656] U8 of FP8 tokens",
                                FORMAT,
                                "block_table    [batch, width] I32",
                                "lengths        [batch] I32, the tokens of the query included",
                                "q_tokens       [batch] I32: query tokens in use; may be missing: all",
                                "sink           [heads] F32; may be missing: none",
                                "softmax_scale  DeepSeek-V3's, " + MlaSoftmaxScale.DEEPSEEK_V3 + ", if not given",
                                "causal         1 if not given",
                                "window         0, none, if not given",
                                "value_scale    size of the cached values in units of 0.1, which the bound grows with; 1 if not given"),
                        List.of(
                                "out            [batch, s_q, heads, 512] BF16",
                                "lse            [batch, heads, s_q] F32, natural logarithm, +infinity where there is no key"),
                        CheckAttention::decode),
                new CheckOperation(
                        List.of("mla_merge"),
                        "two partial results of attention into one, by their log-sum-exp",
                        List.of(
                                "out_a, out_b   [batch, s_q, heads, 512] BF16 or F32",
                                "lse_a, lse_b   [batch, heads, s_q] F32, natural logarithm, +infinity where there is no key"),
                        List.of("out            as out_a", "lse            as lse_a"),
                        CheckAttention::merge),
                new CheckOperation(
                        List.of("mla_cache_write"),
                        "RMSNorm, RoPE and the way of tokens into a paged cache, within half a unit of BF16 or the bounds of QuantizeTolerance",
                        List.of(
                                "in             [tokens, 576] BF16: latent, then what is turned",
                                "weight         [512] BF16 or F32: the norm's",
                                "rope           [length, 64] F32: 32 cosines and 32 sines of each position",
                                "positions      [tokens] I32 or I64; -1: padding",
                                "requests       [tokens] I32; may be missing: tokens in order, request_tokens of each",
                                "block_table    [batch, width] I32",
                                FORMAT,
                                "scale_kind     f32 (if not given) or power_of_two, of FP8 tokens",
                                "request_tokens 1 if not given",
                                "eps            " + RmsNormQuantizeSpec.DEEPSEEK_V3_EPS + " if not given"),
                        List.of(
                                "cache          [pages, page_size, 576] BF16, or [pages, page_size, 656] U8 of FP8 tokens; only what the tokens wrote is compared"),
                        CheckAttention::cacheWrite));
    }

    private static Judgement decode(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor q = inputs.tensor("q", 4, DType.BF16);
        final long batch = q.shape().size(0);
        final int sQ = Math.toIntExact(q.shape().size(1));
        final int heads = Math.toIntExact(q.shape().size(2));
        inputs.tensor("q", new long[] {batch, sQ, heads, TOKEN_DIM}, DType.BF16);
        final Cache cache = Cache.of(inputs, inputs);
        final HostTensor table = inputs.tensor("block_table", 2, DType.I32);
        final long width = table.shape().size(1);
        inputs.tensor("block_table", new long[] {batch, width}, DType.I32);
        final MlaDecodeSpec spec = cache.spec(heads, batch, width)
                .withSQ(sQ)
                .withCausal(inputs.integer("causal", 1) != 0)
                .withWindow(inputs.integer("window", 0))
                .withSoftmaxScale(inputs.number("softmax_scale", MlaSoftmaxScale.DEEPSEEK_V3));
        final HostTensor out = theirs.tensor("out", new long[] {batch, sQ, heads, VALUE_DIM}, DType.BF16);
        final HostTensor lse = theirs.tensor("lse", new long[] {batch, heads, sQ}, DType.F32);
        try (Arena arena = Arena.ofShared()) {
            final MlaDecodeOperands<HostTensor> x = MlaDecodeOperands.<HostTensor>builder()
                    .q(q)
                    .cache(cache.tensor())
                    .blockTable(table)
                    .lengths(inputs.tensor("lengths", new long[] {batch}, DType.I32))
                    .qTokens(inputs.optional("q_tokens", new long[] {batch}, DType.I32))
                    .sink(inputs.optional("sink", new long[] {heads}, DType.F32))
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
                final float[] got =
                        x.out().select(0, r).select(0, token).select(0, head).toFloats();
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

    /** A paged cache and its format. */
    private record Cache(HostTensor tensor, MlaCacheFormat format) {
        static Cache of(final CheckTensors file, final CheckTensors attributes) throws IOException {
            final HostTensor cache = file.tensor("cache", 3, DType.BF16, DType.U8);
            final String name = attributes.attribute("format").orElse("fp8_blocks");
            if (!name.equals("fp8_blocks") && !name.equals("fp8_token")) {
                throw new CheckTensors.Misfit("format: got " + name + ", need fp8_blocks or fp8_token");
            }
            final MlaCacheFormat fp8 = name.equals("fp8_blocks") ? MlaCacheFormat.FP8_BLOCKS : MlaCacheFormat.FP8_TOKEN;
            final MlaCacheFormat format = cache.dtype() == DType.BF16 ? MlaCacheFormat.BF16 : fp8;
            final long[] shape = {cache.shape().size(0), cache.shape().size(1), format.tokenSize()};
            return new Cache(file.tensor("cache", shape, cache.dtype()), format);
        }

        /** A decode of this cache whose requests may be as long as their rows of the block table. */
        MlaDecodeSpec spec(final int heads, final long batch, final long width) {
            final int pageSize = Math.toIntExact(tensor.shape().size(1));
            return MlaDecodeSpec.of(
                            heads,
                            pageSize,
                            batch,
                            width * pageSize,
                            tensor.shape().size(0))
                    .withCacheFormat(format);
        }
    }

    private static Judgement merge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
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
            return Judgement.of(ofOut, ofLse);
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

    // ---- writing ----

    private static Judgement cacheWrite(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final Cache cache = Cache.of(theirs, inputs);
        final HostTensor in = inputs.tensor("in", 2, DType.BF16);
        final long tokens = in.shape().size(0);
        inputs.tensor("in", new long[] {tokens, TOKEN_DIM}, DType.BF16);
        final HostTensor weight = inputs.tensor("weight", new long[] {VALUE_DIM}, DType.BF16, DType.F32);
        final long length = inputs.tensor("rope", 2, DType.F32).shape().size(0);
        final HostTensor positions = inputs.tensor("positions", new long[] {tokens}, DType.I32, DType.I64);
        final HostTensor table = inputs.tensor("block_table", 2, DType.I32);
        final MlaDecodeSpec decode =
                cache.spec(1, table.shape().size(0), table.shape().size(1));
        final MlaCacheWriteSpec spec = new MlaCacheWriteSpec(
                cache.format(),
                CheckQuantized.scaleKind(inputs),
                weight.dtype(),
                positions.dtype(),
                decode.pageSize(),
                inputs.integer("request_tokens", 1),
                0,
                inputs.number("eps", RmsNormQuantizeSpec.DEEPSEEK_V3_EPS),
                tokens,
                decode.maxBatch(),
                Math.min(length, decode.maxLength()),
                decode.pages());
        final MlaCacheWriteOperands<HostTensor> x = new MlaCacheWriteOperands<>(
                in,
                weight,
                inputs.tensor("rope", new long[] {length, TOKEN_DIM - VALUE_DIM}, DType.F32),
                positions,
                inputs.optional("requests", new long[] {tokens}, DType.I32),
                table,
                cache.tensor());
        final CheckCacheWrite errors = new CheckCacheWrite(spec, x);
        for (final long token : HostData.sample(new SplitMix64(SEED), tokens, Math.max(1, budget / TOKEN_DIM))) {
            errors.add(token);
        }
        return errors.judgement();
    }
}
