package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.Scores;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** What {@code verify} runs on a GPU. A new operation adds one line to {@link #all} and a method that lists its cases. */
final class VerifyCases {
    private static final long[] ROWS = {0, 1, 63, 64, 65, 129, 4097};
    private static final long[] GEMM_N = {8, 576, 2112};
    private static final long[] QUANTIZED_N = {16, 576, 2112};
    private static final long[] GEMM_K = {16, 112, 128, 512, 7168};
    private static final long[] BF16_GEMM_K = {8, 104, 128, 7168};
    private static final long[] COLS = {8, 112, 128, 512, 576, 2112, 7168};
    private static final List<DType> WIDE = List.of(DType.F32, DType.F16, DType.BF16);
    private static final List<Scaling> SCALINGS = List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128);
    private static final int[] HEADS = {1, 3, 8, 16, 64, 128};
    private static final int[] PAGES = {1, 16, 32, 64, 128, 256};
    private static final int[] QUERY_TOKENS = {1, 2, 4};
    private static final List<Integer> LENGTHS = List.of(0, 1, 63, 64, 65, 129, 1000);
    /** The batch that ThunderMLA was shown with: one request far longer than the others. */
    private static final List<Integer> UNEVEN_LENGTHS = List.of(4641, 45118, 1730, 1696);

    private static final int[] EXPERT_HIDDEN = {7168, 136, 2048, 520};

    private static final int RANDOM_CASES = 12;

    private VerifyCases() {}

    /**
     * {@return all cases}
     *
     * @param seed of the random shapes and of all operands
     * @param gpus devices that ranks of expert groups are dealt out to
     */
    static List<VerifyCase> all(final long seed, final int gpus) {
        final SplitMix64 random = new SplitMix64(seed);
        final List<VerifyCase> cases = new ArrayList<>();
        quantize(cases, random);
        dequantize(cases, random);
        gemm(cases, random);
        quantizedGemm(cases, random);
        bf16Gemm(cases, random);
        mlaDecode(cases, random);
        mlaMerge(cases, random);
        fusedQuantize(cases, random);
        mlaCacheWrite(cases, random);
        expertGroups(cases, gpus, random);
        groupedGemm(cases, random);
        gate(cases, random);
        expertRows(cases, random);
        return cases;
    }

    /** Each number of ranks meets each kind of call and of rows; up to four share devices, eight have one each. */
    private static void expertGroups(final List<VerifyCase> cases, final int gpus, final SplitMix64 random) {
        int turn = 0;
        for (final int ranks : gpus < 8 ? new int[] {1, 2, 4} : new int[] {1, 2, 4, 8}) {
            for (final DType rows : List.of(DType.F8_E4M3, DType.BF16)) {
                for (final boolean cast : new boolean[] {false, true}) {
                    if (cast && rows == DType.BF16) {
                        continue;
                    }
                    final int hidden = EXPERT_HIDDEN[turn++ % EXPERT_HIDDEN.length];
                    final ExpertGroupSpec group = ExpertGroupSpec.of(
                                    ranks, 3 * ranks + (int) random.below(40), 1 + (int) random.below(9), hidden, 130)
                            .withLatencyTokens(1 + (int) random.below(24))
                            .withRows(rows)
                            .withSmBudget(16);
                    final DType in = cast ? DType.BF16 : rows;
                    cases.add(new ExpertGroupCase(DispatchSpec.of(group, in), gpus, random.next()));
                    cases.add(new ExpertGroupCase(
                            DispatchSpec.of(group, in).withLayout(MoeLayout.EXPERT), gpus, random.next()));
                    cases.add(new ExpertGroupCase(DispatchSpec.latency(group, in), gpus, random.next()));
                }
            }
        }
    }

    /** Each type, block and scale kind meets each edge of rows and of columns; together they meet in all pairs of rows and columns. */
    private static void quantize(final List<VerifyCase> cases, final SplitMix64 random) {
        int turn = 0;
        for (final Scaling scaling : SCALINGS) {
            for (final ScaleKind kind : ScaleKind.values()) {
                for (final DType type : WIDE) {
                    for (int i = 0; i < ROWS.length; i++) {
                        final long cols = COLS[(i + turn) % COLS.length];
                        final QuantizeSpec spec =
                                QuantizeSpec.of(ROWS[i], cols, type, scaling).withScaleKind(kind);
                        cases.add(new QuantizeCase(spec, ROWS[i], 0, random.next()));
                    }
                    turn++;
                }
            }
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final long rows = random.below(700);
            final QuantizeSpec spec = QuantizeSpec.of(
                            rows + random.below(100),
                            8 * (1 + random.below(512)),
                            pick(WIDE, random),
                            pick(SCALINGS, random))
                    .withScaleKind(pick(List.of(ScaleKind.values()), random));
            cases.add(new QuantizeCase(spec, rows, gap(random), random.next()));
        }
    }

    private static void dequantize(final List<VerifyCase> cases, final SplitMix64 random) {
        int turn = 0;
        for (final Scaling scaling : SCALINGS) {
            for (final DType type : WIDE) {
                for (int i = 0; i < ROWS.length; i++) {
                    final long cols = COLS[(i + turn) % COLS.length];
                    cases.add(new DequantizeCase(
                            DequantizeSpec.of(ROWS[i], cols, scaling, type), ROWS[i], 0, random.next()));
                }
                turn++;
            }
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final long rows = random.below(700);
            final DequantizeSpec spec = DequantizeSpec.of(
                    rows + random.below(100), 8 * (1 + random.below(512)), pick(SCALINGS, random), pick(WIDE, random));
            cases.add(new DequantizeCase(spec, rows, gap(random), random.next()));
        }
    }

    /** All pairs of M and K, N taking turns so that all pairs of M and N, and of N and K, occur too. */
    private static void gemm(final List<VerifyCase> cases, final SplitMix64 random) {
        for (int i = 0; i < ROWS.length; i++) {
            for (int j = 0; j < GEMM_K.length; j++) {
                final GemmSpec spec = GemmSpec.of(ROWS[i], GEMM_N[(i + j) % GEMM_N.length], GEMM_K[j])
                        .withOut((i + j) % 2 == 0 ? DType.BF16 : DType.F32)
                        .withAccumulate((i + 2 * j) % 5 == 0);
                cases.add(new GemmCase(spec, ROWS[i], 0, random.next()));
            }
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final long m = random.below(700);
            final GemmSpec spec = GemmSpec.of(
                            m + random.below(100), 8 * (1 + random.below(300)), 16 * (1 + random.below(256)))
                    .withOut(pick(List.of(DType.BF16, DType.F32), random))
                    .withAccumulate(random.below(2) == 1);
            cases.add(new GemmCase(spec, m, gap(random), random.next()));
        }
    }

    /** Each edge of rows meets both kinds of scales; then random shapes. */
    private static void quantizedGemm(final List<VerifyCase> cases, final SplitMix64 random) {
        int turn = 0;
        for (final ScaleKind kind : ScaleKind.values()) {
            for (final long m : ROWS) {
                final GemmSpec spec = GemmSpec.of(
                                m, QUANTIZED_N[turn % QUANTIZED_N.length], GEMM_K[turn % GEMM_K.length])
                        .withQuantizedOut(kind);
                cases.add(new QuantizedGemmCase(spec, m, 0, random.next()));
                turn++;
            }
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final long m = random.below(700);
            final GemmSpec spec = GemmSpec.of(
                            m + random.below(100), 16 * (1 + random.below(150)), 16 * (1 + random.below(256)))
                    .withQuantizedOut(pick(List.of(ScaleKind.values()), random));
            cases.add(new QuantizedGemmCase(spec, m, gap(random), random.next()));
        }
    }

    /** Groups of every edge size in each form, empty ones among them; then groups of random sizes. */
    private static void groupedGemm(final List<VerifyCase> cases, final SplitMix64 random) {
        final List<List<Long>> rows = List.of(
                List.of(0L),
                List.of(1L, 0L, 63L, 64L, 65L, 129L),
                List.of(4097L, 0L, 3L),
                Collections.nCopies(256, 5L),
                List.of(128L, 256L, 300L, 700L));
        int turn = 0;
        for (final List<Long> sizes : rows) {
            for (final long n : GEMM_N) {
                for (final GroupedProducts.Form form :
                        List.of(GroupedProducts.Form.CONTIGUOUS, GroupedProducts.Form.MASKED)) {
                    final long k = GEMM_K[turn % (GEMM_K.length - 1)];
                    cases.add(new GroupedGemmCase(
                            new GroupedProducts.Shape(form, sizes, turn % 3 * 5L, turn % 2, 0, n, k, turn % 2 == 1),
                            random.next()));
                    turn++;
                }
            }
        }
        for (final List<Long> sizes :
                List.of(List.of(128L), List.of(0L, 256L, 0L, 640L), List.of(1280L, 128L, 0L, 48L), List.of(0L, 16L))) {
            for (final long m : new long[] {1, 65, 129, 576}) {
                cases.add(new GroupedGemmCase(
                        new GroupedProducts.Shape(
                                GroupedProducts.Form.K, sizes, 0, 0, m, GEMM_N[turn % GEMM_N.length], 0, turn % 2 == 1),
                        random.next()));
                turn++;
            }
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final GroupedProducts.Form form = pick(List.of(GroupedProducts.Form.values()), random);
            final long unit = form == GroupedProducts.Form.K ? 128 : 1;
            final List<Long> sizes = new ArrayList<>();
            final long groups = 1 + random.below(9);
            for (long g = 0; g < groups; g++) {
                sizes.add(random.below(4) == 0 ? 0 : unit * random.below(512 / unit));
            }
            sizes.add(unit);
            final long rest = form == GroupedProducts.Form.K ? 0 : random.below(200);
            final long mean = sizes.stream().mapToLong(Long::longValue).sum() / sizes.size();
            cases.add(new GroupedGemmCase(
                    new GroupedProducts.Shape(
                            form,
                            sizes,
                            rest,
                            mean,
                            1 + random.below(600),
                            8 * (1 + random.below(100)),
                            16 * (1 + random.below(100)),
                            random.below(2) == 1),
                    random.next()));
        }
    }

    /** All pairs of M and K, N taking turns; the router, the absorbed projections of MLA, and groups of rows. */
    private static void bf16Gemm(final List<VerifyCase> cases, final SplitMix64 random) {
        for (int i = 0; i < ROWS.length; i++) {
            for (int j = 0; j < BF16_GEMM_K.length; j++) {
                final Bf16GemmSpec spec = Bf16GemmSpec.of(ROWS[i], GEMM_N[(i + j) % GEMM_N.length], BF16_GEMM_K[j])
                        .withOut((i + j) % 2 == 0 ? DType.BF16 : DType.F32)
                        .withAccumulate((i + 2 * j) % 5 == 0);
                cases.add(new Bf16GemmCase(spec, ROWS[i], 0, random.next()));
            }
        }
        for (final long m : new long[] {1, 17, 128, 256}) {
            cases.add(new Bf16GemmCase(Bf16GemmSpec.of(m, 256, 7168).withOut(DType.F32), m, 0, random.next()));
            cases.add(new Bf16GemmCase(Bf16GemmSpec.batched(128, m, 128, 512), m, 0, random.next()));
            cases.add(new Bf16GemmCase(Bf16GemmSpec.batched(128, m, 512, 128), m, 0, random.next()));
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final long m = random.below(700);
            final Bf16GemmSpec spec = Bf16GemmSpec.batched(
                            1 + random.below(4),
                            m + random.below(100),
                            8 * (1 + random.below(300)),
                            8 * (1 + random.below(256)))
                    .withOut(pick(List.of(DType.BF16, DType.F32), random))
                    .withAccumulate(random.below(2) == 1);
            cases.add(new Bf16GemmCase(spec, m, gap(random), random.next()));
            final List<Integer> ends = new ArrayList<>();
            int end = 0;
            for (int g = 0; g <= (int) random.below(12); g++) {
                end += random.below(3) == 0 ? 0 : (int) random.below(300);
                ends.add(end);
            }
            cases.add(new Bf16GroupedGemmCase(
                    Bf16GroupedGemmSpec.of(ends.size(), end + random.below(100), spec.n(), spec.k())
                            .withOut(spec.outDType()),
                    ends,
                    gap(random),
                    random.next()));
        }
    }

    /** All pairs of heads and page sizes, query tokens and masks taking turns; FP8 caches; then a batch of one long request, and one of many heads. */
    private static void mlaDecode(final List<VerifyCase> cases, final SplitMix64 random) {
        int turn = 0;
        for (final int heads : HEADS) {
            for (final int pageSize : PAGES) {
                final MlaDecodeSpec spec = MlaDecodeSpec.of(heads, pageSize, 1, 1, 1)
                        .withSQ(QUERY_TOKENS[(turn + turn / 3) % QUERY_TOKENS.length])
                        .withCausal(turn % 4 != 3)
                        .withWindow(turn % 5 == 4 ? 100 : 0);
                cases.add(MlaDecodeCase.of(spec, LENGTHS, turn % 2 * 3, turn % 3 == 1, turn % 7 == 2, random.next()));
                turn++;
            }
        }
        for (final MlaCacheFormat format : List.of(MlaCacheFormat.FP8_BLOCKS, MlaCacheFormat.FP8_TOKEN)) {
            for (final int heads : HEADS) {
                final MlaDecodeSpec spec = MlaDecodeSpec.of(heads, PAGES[turn % PAGES.length], 1, 1, 1)
                        .withSQ(QUERY_TOKENS[turn % QUERY_TOKENS.length])
                        .withCacheFormat(format);
                cases.add(MlaDecodeCase.of(spec, LENGTHS, turn % 2 * 3, turn % 3 == 1, turn % 4 == 2, random.next()));
                turn++;
            }
        }
        cases.add(MlaDecodeCase.of(
                MlaDecodeSpec.of(16, 64, 1, 1, 1).withSQ(4), UNEVEN_LENGTHS, 0, false, false, random.next()));
        cases.add(MlaDecodeCase.of(
                MlaDecodeSpec.of(128, 64, 1, 1, 1).withSQ(2),
                Collections.nCopies(16, 4096),
                0,
                false,
                false,
                random.next()));
        for (int i = 0; i < RANDOM_CASES; i++) {
            final int batch = 1 + (int) random.below(40);
            final List<Integer> lengths = new ArrayList<>();
            for (int r = 0; r < batch; r++) {
                lengths.add((int) random.below(random.below(4) == 0 ? 3000 : 300));
            }
            final MlaDecodeSpec spec = MlaDecodeSpec.of(1 + (int) random.below(128), 1 << random.below(9), 1, 1, 1)
                    .withSQ(1 + (int) random.below(5))
                    .withCausal(random.below(4) != 0)
                    .withWindow(random.below(3) == 0 ? 1 + (int) random.below(400) : 0)
                    .withSmBudget((int) random.below(2) * (1 + (int) random.below(132)))
                    .withCacheFormat(pick(List.of(MlaCacheFormat.values()), random));
            cases.add(MlaDecodeCase.of(
                    spec, lengths, (int) random.below(5), random.below(2) == 0, random.below(2) == 0, random.next()));
        }
    }

    private static void mlaMerge(final List<VerifyCase> cases, final SplitMix64 random) {
        for (final DType type : List.of(DType.BF16, DType.F32)) {
            for (final int heads : HEADS) {
                final long batch = random.below(40);
                final int tokens = pick(List.of(1, 2, 4), random);
                final MlaMergeSpec spec = MlaMergeSpec.of(type, heads, tokens, batch + random.below(3));
                cases.add(new MlaMergeCase(spec, batch, random.next()));
            }
        }
    }

    /** Edges of rows and columns take turns, and with them options and scale kinds; then random shapes, and groups of counted rows. */
    private static void fusedQuantize(final List<VerifyCase> cases, final SplitMix64 random) {
        final List<ScaleKind> kinds = List.of(ScaleKind.values());
        for (int i = 0; i < ROWS.length + RANDOM_CASES; i++) {
            final boolean edge = i < ROWS.length;
            final long rows = edge ? ROWS[i] : random.below(500);
            final long cols = edge ? COLS[i] : 8 * (1 + random.below(512));
            final long room = edge ? rows : rows + random.below(100);
            final long gap = edge ? 0 : gap(random);
            final ScaleKind kind = kinds.get(i % kinds.size());
            cases.add(new SwigluQuantizeCase(
                    SwigluQuantizeSpec.of(rows, cols).withWeights(i % 3 == 1).withScaleKind(kind), gap, random.next()));
            cases.add(new RmsNormQuantizeCase(
                    RmsNormQuantizeSpec.of(room, cols)
                            .withWeight(i % 3 == 0 ? DType.F32 : DType.BF16)
                            .withResidual(i % 4 >= 2)
                            .withNormalized(i % 5 >= 2)
                            .withScaleKind(kind),
                    rows,
                    gap,
                    random.next()));
            cases.add(new TransposeQuantizeCase(
                    TransposeQuantizeSpec.of(room, cols).withScaleKind(kind), rows, gap, random.next()));
        }
        for (final int groups : new int[] {1, 3, 32, 256}) {
            cases.add(new SwigluQuantizeCase(
                    SwigluQuantizeSpec.masked(groups, 1 + random.below(100), 8 * (1 + random.below(100)))
                            .withWeights(groups != 3),
                    gap(random),
                    random.next()));
        }
    }

    private static void mlaCacheWrite(final List<VerifyCase> cases, final SplitMix64 random) {
        for (final MlaCacheFormat format : MlaCacheFormat.values()) {
            for (final ScaleKind kind : ScaleKind.values()) {
                final boolean wide = kind == ScaleKind.POWER_OF_TWO;
                cases.add(MlaCacheWriteCase.of(format, kind, wide, 64, 128, 9, 128, random.next()));
                cases.add(MlaCacheWriteCase.of(
                        format, kind, !wide, 1 << random.below(9), 3, 6000, 1 + random.below(4000), random.next()));
            }
        }
    }

    /** DeepSeek-V3's gate, one of each kind, and random ones; then the bias update. */
    private static void gate(final List<VerifyCase> cases, final SplitMix64 random) {
        for (final long tokens : ROWS) {
            cases.add(new GateCase(GateSpec.deepSeekV3(tokens), tokens, 0, random.next()));
        }
        for (int i = 0; i < RANDOM_CASES; i++) {
            final int groups = 1 + (int) random.below(32);
            final int inGroup = 1 + (int) random.below(1024 / groups);
            final int kept = 1 + (int) random.below(groups);
            final long tokens = random.below(300);
            final GateSpec spec = GateSpec.of(
                            tokens + random.below(50),
                            groups * inGroup,
                            1 + (int) random.below(Math.min(32, kept * inGroup)))
                    .withGroups(groups, kept)
                    .withLogits(pick(List.of(DType.F32, DType.BF16), random))
                    .withScores(pick(List.of(Scores.values()), random))
                    .withNormalize(random.below(2) == 0);
            cases.add(new GateCase(spec, tokens, 20 * random.below(3), random.next()));
        }
        for (final int experts : new int[] {1, 160, 256, 1024}) {
            cases.add(new BiasUpdateCase(
                    BiasUpdateSpec.of(experts, 0.001f).withClearCounts(experts % 3 == 1), random.next()));
        }
    }

    /** Rows of every type there, and BF16 rows there and back. */
    private static void expertRows(final List<VerifyCase> cases, final SplitMix64 random) {
        final List<PermuteSpec> types = List.of(
                PermuteSpec.of(0, 16, 1, 1, DType.BF16),
                PermuteSpec.of(0, 16, 1, 1, DType.F8_E4M3),
                PermuteSpec.of(0, 16, 1, 1, DType.BF16).withQuantize(ScaleKind.F32),
                PermuteSpec.of(0, 16, 1, 1, DType.BF16).withQuantize(ScaleKind.POWER_OF_TWO));
        final long[][] shapes = {
            {1, 16, 4, 2, 1}, {65, 7168, 256, 8, 1}, {129, 2112, 32, 8, 128}, {700, 128, 1024, 32, 4}
        };
        for (final PermuteSpec type : types) {
            for (final long[] s : shapes) {
                cases.add(rowsCase(type, s[0], s[1], (int) s[2], (int) s[3], (int) s[4], s[0], random));
            }
            for (int i = 0; i < RANDOM_CASES / 2; i++) {
                final long tokens = random.below(500);
                cases.add(rowsCase(
                        type,
                        tokens + random.below(20),
                        16 * (1 + random.below(100)),
                        1 + (int) random.below(300),
                        1 + (int) random.below(32),
                        1 << random.below(9),
                        tokens,
                        random));
            }
        }
    }

    private static ExpertRowsCase rowsCase(
            final PermuteSpec type,
            final long maxTokens,
            final long hidden,
            final int experts,
            final int topK,
            final int alignment,
            final long tokens,
            final SplitMix64 random) {
        final PermuteSpec spec = new PermuteSpec(
                maxTokens, hidden, experts, topK, type.inDType(), type.outDType(), alignment, type.scaleKind(), 0);
        final UnpermuteSpec back = type.outDType() == DType.BF16
                ? UnpermuteSpec.of(maxTokens, spec.rows(), hidden, topK)
                        .withWeights(random.below(3) != 0)
                        .withResidual(random.below(2) == 0)
                : null;
        return new ExpertRowsCase(spec, back, tokens, 25 * random.below(3), random.next());
    }

    private static long gap(final SplitMix64 random) {
        return random.below(3) * 16;
    }

    private static <T> T pick(final List<T> choices, final SplitMix64 random) {
        return choices.get((int) random.below(choices.size()));
    }
}
