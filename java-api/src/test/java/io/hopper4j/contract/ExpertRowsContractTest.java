package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.ScaleKind;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Rows to experts and back, both defined bit for bit. */
abstract class ExpertRowsContractTest<T extends Tensor> {
    private static final long SEED = 20261127;
    /** What memory holds that must not be written. */
    private static final float UNTOUCHED = 3;

    private static final float UNTOUCHED_ID = 7777;

    private final Backend<T> backend;

    ExpertRowsContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    enum Routing {
        UNIFORM,
        HOLES,
        ONE_EXPERT,
        NOWHERE
    }

    /** {@code tokens} of the spec's are used; the seed is part of a case's name. */
    record Case(PermuteSpec spec, long tokens, int gap, Routing routing, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        final List<PermuteSpec> types = List.of(
                PermuteSpec.of(0, 16, 1, 1, DType.BF16),
                PermuteSpec.of(0, 16, 1, 1, DType.F8_E4M3),
                PermuteSpec.of(0, 16, 1, 1, DType.BF16).withQuantize(ScaleKind.F32),
                PermuteSpec.of(0, 16, 1, 1, DType.BF16).withQuantize(ScaleKind.POWER_OF_TWO));
        for (final PermuteSpec type : types) {
            int turn = 0;
            for (final int[] shape : new int[][] {
                {1, 16, 4, 2, 1}, {3, 128, 4, 3, 8}, {70, 272, 16, 4, 128}, {40, 1040, 256, 8, 1}, {20, 144, 1024, 8, 2}
            }) {
                final Routing routing = Routing.values()[turn % 2];
                cases.add(new Case(
                        sized(type, shape[0], shape[1], shape[2], shape[3], shape[4]),
                        shape[0],
                        turn % 2 * 16,
                        routing,
                        random.nextLong()));
                turn++;
            }
            for (final Routing routing : Routing.values()) {
                cases.add(new Case(sized(type, 50, 128, 8, 6, 16), 37, 16, routing, random.nextLong()));
                cases.add(new Case(sized(type, 50, 128, 8, 6, 1).withSmBudget(1), 50, 0, routing, random.nextLong()));
            }
            cases.add(new Case(sized(type, 50, 128, 8, 6, 16), 0, 0, Routing.UNIFORM, random.nextLong()));
            cases.add(new Case(sized(type, 0, 128, 8, 6, 16), 0, 0, Routing.UNIFORM, random.nextLong()));
            for (int i = 0; i < 5; i++) {
                final int tokens = random.nextInt(1, 300);
                cases.add(new Case(
                        sized(
                                type,
                                tokens,
                                16L * random.nextInt(1, 40),
                                random.nextInt(1, 200),
                                random.nextInt(1, 33),
                                1 << random.nextInt(0, 9)),
                        random.nextInt(0, tokens + 1),
                        16 * random.nextInt(0, 3),
                        Routing.values()[random.nextInt(2)],
                        random.nextLong()));
            }
        }
        return cases.stream();
    }

    private static PermuteSpec sized(
            final PermuteSpec type,
            final long tokens,
            final long hidden,
            final int experts,
            final int topK,
            final int alignment) {
        return new PermuteSpec(
                tokens, hidden, experts, topK, type.inDType(), type.outDType(), alignment, type.scaleKind(), 0);
    }

    private static float[] ids(final PermuteSpec spec, final Routing routing, final SplittableRandom random) {
        final float[] ids = new float[Math.toIntExact(spec.maxTokens() * spec.topK())];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = switch (routing) {
                case UNIFORM -> random.nextInt(spec.experts());
                case HOLES -> random.nextInt(3) == 0 ? -1 : random.nextInt(spec.experts());
                case ONE_EXPERT -> spec.experts() - 1;
                case NOWHERE -> -1;
            };
        }
        return ids;
    }

    private T view(final DType dtype, final long rows, final long cols, final int gap) {
        return backend.slice(backend.filled(TensorSpec.packed(dtype, rows, cols + gap), UNTOUCHED), 1, 0, cols);
    }

    private PermuteOperands<T> operands(
            final PermuteSpec spec, final T in, final @Nullable T inScales, final int gap, final float... ids) {
        final TensorSpec choices = TensorSpec.packed(DType.I32, spec.maxTokens(), spec.topK());
        return new PermuteOperands<>(
                backend.put(backend.hostTensor(choices, ids)),
                in,
                inScales,
                view(spec.outDType(), spec.rows(), spec.hidden(), gap),
                spec.outDType() == DType.BF16
                        ? null
                        : backend.filled(Scaled.activationScaleSpec(spec.rows(), spec.hidden()), UNTOUCHED),
                backend.filled(TensorSpec.packed(DType.I32, spec.experts()), UNTOUCHED_ID),
                backend.filled(choices, UNTOUCHED_ID),
                backend.filled(TensorSpec.packed(DType.I32, spec.rows()), UNTOUCHED_ID));
    }

    private static float[] filled(final int count, final float value) {
        final float[] values = new float[count];
        Arrays.fill(values, value);
        return values;
    }

    private float[] integers(final @Nullable T tensor) {
        return backend.get(Objects.requireNonNull(tensor)).toFloats();
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldPlaceRowsBitForBit(final Case c) {
        final PermuteSpec spec = c.spec;
        final SplittableRandom random = new SplittableRandom(c.seed);
        final float[] ids = ids(spec, c.routing, random);
        final Scaled<HostTensor> quantized;
        final HostTensor rows;
        final T in;
        if (spec.inDType() == DType.BF16) {
            final TensorSpec padded = TensorSpec.packed(DType.BF16, spec.maxTokens(), spec.hidden() + c.gap);
            rows = Data.gaussian(backend.host, padded, random.nextLong()).slice(1, 0, spec.hidden());
            quantized = Expected.quantize(rows, Scaling.ACTIVATION_1X128, spec.scaleKind(), backend.host);
            in = backend.slice(backend.put(rows), 1, 0, spec.hidden());
        } else {
            quantized = Data.quantized(
                    backend.host, Scaling.ACTIVATION_1X128, spec.maxTokens(), spec.hidden(), random.nextLong());
            rows = quantized.values();
            in = backend.put(rows);
        }
        final PermuteOperands<T> x =
                operands(spec, in, spec.inDType() == DType.BF16 ? null : backend.put(quantized.scales()), c.gap, ids);
        try (PermutePlan<T> plan = backend.kernels().plan(spec);
                PermuteLaunch<T> launch = plan.bind(x)) {
            launch.launch(backend.stream(), c.tokens);
            backend.stream().synchronize();
        }

        final int used = Math.toIntExact(c.tokens * spec.topK());
        final float[] places = new float[ids.length];
        Arrays.fill(places, 0, used, -1);
        Arrays.fill(places, used, places.length, UNTOUCHED_ID);
        final float[] ends = new float[spec.experts()];
        final float[] sources = new float[Math.toIntExact(spec.rows())];
        Arrays.fill(sources, UNTOUCHED_ID);
        int end = 0;
        for (int e = 0; e < ends.length; e++) {
            for (int i = 0; i < used; i++) {
                if (ids[i] == e) {
                    places[i] = end;
                    sources[end++] = i;
                }
            }
            while (end % spec.alignment() != 0) {
                sources[end++] = -1;
            }
            ends[e] = end;
        }
        assertThat(integers(x.groupEnds())).as("groupEnds").containsExactly(ends);
        assertThat(integers(x.places())).as("places").containsExactly(places);
        assertThat(integers(x.sources())).as("sources").containsExactly(sources);

        final HostTensor values = spec.outDType() == DType.BF16 ? rows : quantized.values();
        final HostTensor out = backend.get(x.out());
        final HostTensor outScales =
                spec.outDType() == DType.BF16 ? null : backend.get(Objects.requireNonNull(x.outScales()));
        for (int r = 0; r < sources.length; r++) {
            final float[] row = out.select(0, r).toFloats();
            final float[] scales =
                    outScales == null ? new float[0] : outScales.select(0, r).toFloats();
            if (r >= end) {
                assertThat(row).as("row %d, which is not in use", r).containsOnly(UNTOUCHED);
                assertThat(scales).as("row %d, which is not in use", r).isEqualTo(filled(scales.length, UNTOUCHED));
            } else if (sources[r] < 0) {
                assertThat(row).as("padding in row %d", r).containsOnly(0);
                assertThat(scales).as("padding in row %d", r).isEqualTo(filled(scales.length, 0));
            } else {
                final long token = (long) sources[r] / spec.topK();
                assertThat(row)
                        .as("row %d", r)
                        .containsExactly(values.select(0, token).toFloats());
                if (outScales != null) {
                    assertThat(scales)
                            .as("scales of row %d", r)
                            .containsExactly(quantized.scales().select(0, token).toFloats());
                }
            }
        }
    }

    @Test
    void shouldDropAndNameTheFirstIdThatIsNoExpert() {
        final PermuteSpec spec = PermuteSpec.of(3, 8, 4, 2, DType.BF16);
        final T in = backend.filled(TensorSpec.packed(DType.BF16, 3, 8), 1);
        final PermuteOperands<T> x = operands(spec, in, null, 0, 3, -1, 4, 0, -2, 3);
        try (PermutePlan<T> plan = backend.kernels().plan(spec);
                PermuteLaunch<T> launch = plan.bind(x)) {
            launch.launch(backend.stream());
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.stream().synchronize())
                    .withMessage("moe_permute: ids[2]: got 4, need -1..3");
            assertThat(integers(x.places())).containsExactly(1, -1, -1, 0, -1, 2);
            assertThat(integers(x.groupEnds())).containsExactly(1, 1, 1, 3);
        }
    }

    /** What a sum takes. */
    record SumCase(UnpermuteSpec spec, int gap, long seed) {}

    static Stream<SumCase> sums() {
        final List<SumCase> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED + 1);
        for (final boolean weighted : new boolean[] {false, true}) {
            for (final boolean residual : new boolean[] {false, true}) {
                for (final int[] shape :
                        new int[][] {{0, 4, 8, 2}, {1, 1, 8, 1}, {5, 40, 264, 8}, {33, 100, 2056, 9}, {7, 300, 128, 32}
                        }) {
                    cases.add(new SumCase(
                            UnpermuteSpec.of(shape[0], shape[1], shape[2], shape[3])
                                    .withWeights(weighted)
                                    .withResidual(residual),
                            residual ? 8 : 0,
                            random.nextLong()));
                }
            }
        }
        return cases.stream();
    }

    private static long sourceRow(final float place) {
        return (long) place;
    }

    @ParameterizedTest
    @MethodSource("sums")
    void shouldSumInOrderBitForBit(final SumCase c) {
        final UnpermuteSpec spec = c.spec;
        final SplittableRandom random = new SplittableRandom(c.seed);
        final HostTensor x = Data.gaussian(
                        backend.host,
                        TensorSpec.packed(DType.BF16, spec.rows(), spec.hidden() + c.gap),
                        random.nextLong())
                .slice(1, 0, spec.hidden());
        final HostTensor residual = Data.gaussian(
                backend.host, TensorSpec.packed(DType.BF16, spec.maxTokens(), spec.hidden()), random.nextLong());
        final TensorSpec choices = TensorSpec.packed(DType.F32, spec.maxTokens(), spec.topK());
        final float[] weights = new float[Math.toIntExact(choices.elements())];
        final float[] places = new float[weights.length];
        for (int i = 0; i < places.length; i++) {
            weights[i] = (float) random.nextDouble();
            places[i] = random.nextInt(4) == 0 ? -1 : random.nextInt((int) spec.rows());
        }
        final UnpermuteOperands<T> operands = new UnpermuteOperands<>(
                backend.slice(backend.put(x), 1, 0, spec.hidden()),
                backend.put(backend.hostTensor(TensorSpec.packed(DType.I32, spec.maxTokens(), spec.topK()), places)),
                spec.weighted() ? backend.put(backend.hostTensor(choices, weights)) : null,
                spec.residual() ? backend.put(residual) : null,
                view(DType.BF16, spec.maxTokens(), spec.hidden(), c.gap));
        try (UnpermutePlan<T> plan = backend.kernels().plan(spec);
                UnpermuteLaunch<T> launch = plan.bind(operands)) {
            launch.launch(backend.stream());
            backend.stream().synchronize();
        }

        final HostTensor expected = HostTensor.allocate(backend.host, DType.BF16, spec.maxTokens(), spec.hidden());
        for (int t = 0; t < spec.maxTokens(); t++) {
            for (int col = 0; col < spec.hidden(); col++) {
                float sum = 0;
                for (int j = 0; j < spec.topK(); j++) {
                    final int i = t * spec.topK() + j;
                    if (places[i] >= 0) {
                        sum = Math.fma(spec.weighted() ? weights[i] : 1, x.getFloat(sourceRow(places[i]), col), sum);
                    }
                }
                expected.setFloat(spec.residual() ? sum + residual.getFloat(t, col) : sum, t, col);
            }
        }
        assertThat(Expected.bits(backend.get(operands.out()))).isEqualTo(Expected.bits(expected));
    }

    @Test
    void shouldLeaveOutAndNameAPlaceThatIsNoRow() {
        final UnpermuteSpec spec = UnpermuteSpec.of(2, 3, 8, 2).withWeights(false);
        final UnpermuteOperands<T> operands = new UnpermuteOperands<>(
                backend.filled(TensorSpec.packed(DType.BF16, 3, 8), 1),
                backend.put(backend.hostTensor(TensorSpec.packed(DType.I32, 2, 2), 2, 0, 3, 1)),
                null,
                null,
                backend.filled(TensorSpec.packed(DType.BF16, 2, 8), 9));
        try (UnpermutePlan<T> plan = backend.kernels().plan(spec);
                UnpermuteLaunch<T> launch = plan.bind(operands)) {
            launch.launch(backend.stream(), 1);
            backend.stream().synchronize();
            assertThat(backend.get(operands.out()).select(0, 1).toFloats()).containsOnly(9);
            launch.launch(backend.stream());
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.stream().synchronize())
                    .withMessage("moe_unpermute: places[2]: got 3, need -1..2");
            assertThat(backend.get(operands.out()).select(0, 0).toFloats()).containsOnly(2);
            assertThat(backend.get(operands.out()).select(0, 1).toFloats()).containsOnly(1);
        }
    }

    @Test
    void shouldReturnRowsInACapturedGraphAndRebind() {
        final int tokens = 9;
        final PermuteSpec there = PermuteSpec.of(tokens, 64, 5, 3, DType.BF16).withAlignment(4);
        final UnpermuteSpec back = UnpermuteSpec.of(tokens, there.rows(), 64, 3).withWeights(false);
        final HostTensor rows = Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, tokens, 64), 5);
        final T ones = backend.filled(TensorSpec.packed(DType.BF16, tokens, 64), 1);
        final PermuteOperands<T> x =
                operands(there, ones, null, 0, ids(there, Routing.UNIFORM, new SplittableRandom(6)));
        final T out = backend.allocate(TensorSpec.packed(DType.BF16, tokens, 64));
        try (PermutePlan<T> permute = backend.kernels().plan(there);
                UnpermutePlan<T> unpermute = backend.kernels().plan(back);
                PermuteLaunch<T> first = permute.bind(x);
                UnpermuteLaunch<T> then =
                        unpermute.bind(new UnpermuteOperands<>(x.out(), x.places(), null, null, out))) {
            first.launch(backend.stream());
            then.launch(backend.stream());
            assertThat(backend.get(out).toFloats()).containsOnly(3);
            first.rebind(new PermuteOperands<>(
                    x.ids(), backend.put(rows), null, x.out(), null, x.groupEnds(), x.places(), null));
            try (Graph graph = backend.stream().capture(on -> {
                first.launch(on);
                then.launch(on);
            })) {
                graph.launch(backend.stream());
                graph.launch(backend.stream());
                final HostTensor got = backend.get(out);
                for (int t = 0; t < tokens; t++) {
                    for (int c = 0; c < 64; c++) {
                        final float value = rows.getFloat(t, c);
                        final HostTensor threefold = backend.hostTensor(TensorSpec.packed(DType.BF16, 1), 3 * value);
                        assertThat(got.getFloat(t, c)).isEqualTo(threefold.getFloat(0));
                    }
                }
            }
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final PermuteSpec spec = PermuteSpec.of(2, 16, 4, 2, DType.F8_E4M3);
        final T in = backend.filled(TensorSpec.packed(DType.F8_E4M3, 2, 16), 1);
        final T scales = backend.filled(Scaled.activationScaleSpec(2, 16), 1);
        final PermuteOperands<T> good = operands(spec, in, scales, 0, 0, 1, 2, 3);
        try (PermutePlan<T> plan = backend.kernels().plan(spec)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(new PermuteOperands<>(
                            good.ids(), in, null, good.out(), good.outScales(), good.groupEnds(), good.places(), null)))
                    .withMessage("moe_permute: inScales: got null, need a tensor, as rows are F8_E4M3");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(new PermuteOperands<>(
                            good.ids(), in, scales, in, good.outScales(), good.groupEnds(), good.places(), null)))
                    .withMessage("moe_permute: out: got shape [2,16], need [4,16]");
            plan.bind(good).close();
        }
        assertThat(backend.kernels()
                        .support(new PermuteSpec(1, 24, 2000, 40, DType.F8_E4M3, DType.BF16, 3, ScaleKind.F32, 0)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("moe_permute: out", "dtype BF16 from F8_E4M3", "F8_E4M3, or BF16 from BF16"),
                        new Support.Reason("moe_permute: experts", "2000", "at most 1024"),
                        new Support.Reason("moe_permute: topK", "40", "at most 32"),
                        new Support.Reason("moe_permute: alignment", "3", "a power of two up to 256"))));
        assertThat(backend.kernels().support(UnpermuteSpec.of(1, 1, 12, 1)))
                .isEqualTo(new Support.Unsupported(
                        List.of(new Support.Reason("moe_unpermute: hidden", "12", "a multiple of 8"))));
    }
}
