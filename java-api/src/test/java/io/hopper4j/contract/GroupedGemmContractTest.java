package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Launch;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Shape;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.gemm.GroupedGemmLaunch;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmLaunch;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmLaunch;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The grouped FP8 products, each group within {@link GemmTolerance} of the exact product. */
abstract class GroupedGemmContractTest<T extends Tensor> {
    private static final long SEED = 20261125;

    private final Backend<T> backend;

    GroupedGemmContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** Sizes of groups, rows or K behind the last, and the other extents; the seed is part of a case's name, so a failure can be repeated. */
    record Case(List<Integer> sizes, int rest, int m, int n, int k, DType extents, boolean accumulate, long seed) {
        int total() {
            return sizes.stream().mapToInt(Integer::intValue).sum();
        }

        int largest() {
            return sizes.stream().mapToInt(Integer::intValue).max().orElse(0);
        }

        int begin(final int group) {
            return sizes.subList(0, group).stream().mapToInt(Integer::intValue).sum();
        }
    }

    static Stream<Case> rowCases() {
        final SplittableRandom random = new SplittableRandom(SEED);
        final List<List<Integer>> groups = new ArrayList<>(List.of(
                List.of(0),
                List.of(1),
                List.of(0, 63, 0, 64, 65),
                List.of(128, 1, 127, 129),
                List.of(300, 0, 257, 30),
                random.ints(40, 0, 9).boxed().toList()));
        final List<Case> cases = new ArrayList<>();
        for (final List<Integer> sizes : groups) {
            for (final int[] shape : new int[][] {{8, 16}, {136, 272}, {72, 400}}) {
                cases.add(new Case(
                        sizes,
                        random.nextBoolean() ? 0 : random.nextInt(1, 70),
                        0,
                        shape[0],
                        shape[1],
                        random.nextBoolean() ? DType.I32 : DType.I64,
                        false,
                        random.nextLong()));
            }
        }
        return cases.stream();
    }

    static Stream<Case> kCases() {
        final SplittableRandom random = new SplittableRandom(SEED + 1);
        final List<Case> cases = new ArrayList<>();
        for (final List<Integer> sizes : List.of(
                List.of(128), List.of(0, 256, 0, 128), List.of(384, 128, 0, 48), List.of(16), List.of(0, 0, 256))) {
            for (final int[] shape : new int[][] {{1, 8}, {70, 136}, {260, 72}}) {
                cases.add(new Case(
                        sizes,
                        sizes.getLast() % 128 == 0 && random.nextBoolean() ? 128 : 0,
                        shape[0],
                        shape[1],
                        0,
                        random.nextBoolean() ? DType.I32 : DType.I64,
                        random.nextBoolean(),
                        random.nextLong()));
            }
        }
        return cases.stream();
    }

    // ---- operands ----

    private HostTensor numbers(final DType type, final long... values) {
        final HostTensor tensor = HostTensor.allocate(backend.host, type, values.length);
        final float[] floats = new float[values.length];
        for (int i = 0; i < values.length; i++) {
            floats[i] = (float) values[i];
            assertThat((long) floats[i]).as("exact as F32").isEqualTo(values[i]);
        }
        tensor.setFloats(floats);
        return tensor;
    }

    private T ends(final Case x) {
        return backend.put(numbers(
                x.extents,
                IntStream.rangeClosed(1, x.sizes.size()).mapToLong(x::begin).toArray()));
    }

    private Scaled<HostTensor> activations(final long rows, final long cols, final long seed) {
        return Data.quantized(backend.host, Scaling.ACTIVATION_1X128, rows, cols, seed);
    }

    private List<Scaled<HostTensor>> matrices(
            final Scaling scaling, final int count, final long rows, final long cols, final long seed) {
        return IntStream.range(0, count)
                .mapToObj(g -> Data.quantized(backend.host, scaling, rows, cols, seed + 100 + g))
                .toList();
    }

    /** The matrices behind each other. */
    private Scaled<HostTensor> stack(final List<Scaled<HostTensor>> matrices) {
        final Scaled<HostTensor> first = matrices.getFirst();
        final long groups = matrices.size();
        final HostTensor values = HostTensor.allocate(backend.host, DType.F8_E4M3, groups, first.rows(), first.cols());
        final Shape scaleShape = first.scales().shape();
        final HostTensor scales = HostTensor.allocate(
                backend.host,
                first.scaling().equals(Scaling.ACTIVATION_1X128)
                        ? Scaled.activationScaleSpec(groups, first.rows(), first.cols())
                        : TensorSpec.packed(DType.F32, groups, scaleShape.size(0), scaleShape.size(1)));
        for (int g = 0; g < groups; g++) {
            values.select(0, g).setFloats(matrices.get(g).values().toFloats());
            scales.select(0, g).setFloats(matrices.get(g).scales().toFloats());
        }
        return new Scaled<>(values, scales, first.scaling());
    }

    private T poisoned(final DType dtype, final long... dims) {
        return backend.filled(TensorSpec.packed(dtype, dims), Float.NaN);
    }

    private static Scaled<HostTensor> rows(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(matrix.values().slice(0, from, to), matrix.scales().slice(0, from, to), matrix.scaling());
    }

    private static Scaled<HostTensor> columns(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(
                matrix.values().slice(1, from, to),
                matrix.scales().slice(1, from / 128, Math.ceilDiv(to, 128)),
                matrix.scaling());
    }

    private static void assertWithinBounds(final GemmTolerance.Result error) {
        assertThat(error.withinBounds())
                .as(
                        "worst error is %s of the bound, %s absolute, cosine distance %s, over %s elements",
                        error.worstRatio(), error.worstError(), error.cosineDistance(), error.elements())
                .isTrue();
    }

    private static void assertUntouched(final HostTensor rows) {
        assertThat(rows.toFloats()).as("not in use").satisfies(values -> {
            for (final float value : values) {
                assertThat(value).isNaN();
            }
        });
    }

    private static void assertProduct(
            final Scaled<HostTensor> a, final Scaled<HostTensor> b, final HostTensor out, final long rows) {
        if (rows > 0) {
            assertWithinBounds(Expected.gemmError(a, b, null, out, rows));
        }
    }

    // ---- rows ----

    @ParameterizedTest
    @MethodSource("rowCases")
    void shouldMultiplyGroupsOfRows(final Case x) {
        final int m = x.total() + x.rest;
        final Scaled<HostTensor> a = activations(m, x.k, x.seed);
        final List<Scaled<HostTensor>> b = matrices(Scaling.WEIGHT_128X128, x.sizes.size(), x.n, x.k, x.seed);
        final T out = poisoned(DType.BF16, m, x.n);
        try (GroupedGemmPlan<T> plan = backend.kernels()
                        .plan(GroupedGemmSpec.of(b.size(), m, x.n, x.k).withEnds(x.extents));
                GroupedGemmLaunch<T> launch = plan.bind(backend.put(a), backend.put(stack(b)), ends(x), out, null)) {
            launch.launch(backend.stream());
            final HostTensor got = backend.get(out);
            for (int g = 0; g < b.size(); g++) {
                final int from = x.begin(g);
                final int to = from + x.sizes.get(g);
                assertProduct(rows(a, from, to), b.get(g), got.slice(0, from, to), to - from);
            }
            assertUntouched(got.slice(0, x.total(), m));
        }
    }

    @ParameterizedTest
    @MethodSource("rowCases")
    void shouldMultiplyTheRowsInUseOfEachGroup(final Case x) {
        final int most = x.largest() + x.rest;
        final List<Scaled<HostTensor>> a = matrices(Scaling.ACTIVATION_1X128, x.sizes.size(), most, x.k, x.seed + 1000);
        final List<Scaled<HostTensor>> b = matrices(Scaling.WEIGHT_128X128, x.sizes.size(), x.n, x.k, x.seed);
        final T out = poisoned(DType.BF16, b.size(), most, x.n);
        final T counts = backend.put(numbers(
                x.extents, x.sizes.stream().mapToLong(Integer::longValue).toArray()));
        try (MaskedGemmPlan<T> plan = backend.kernels()
                        .plan(MaskedGemmSpec.of(b.size(), most, x.n, x.k)
                                .withCounts(x.extents)
                                .withExpectedRows(most / 2));
                MaskedGemmLaunch<T> launch =
                        plan.bind(backend.put(stack(a)), backend.put(stack(b)), counts, out, null)) {
            launch.launch(backend.stream());
            final HostTensor got = backend.get(out);
            for (int g = 0; g < b.size(); g++) {
                final int rows = x.sizes.get(g);
                final HostTensor group = got.select(0, g);
                assertProduct(rows(a.get(g), 0, rows), b.get(g), group.slice(0, 0, rows), rows);
                assertUntouched(group.slice(0, rows, most));
            }
        }
    }

    @Test
    void shouldReadEndsAndCountsWhenAGraphRuns() {
        final Scaled<HostTensor> a = activations(200, 256, 3);
        final List<Scaled<HostTensor>> b = matrices(Scaling.WEIGHT_128X128, 3, 72, 256, 4);
        final List<Scaled<HostTensor>> planes = matrices(Scaling.ACTIVATION_1X128, 3, 100, 256, 5);
        final T out = poisoned(DType.BF16, 200, 72);
        final T planesOut = poisoned(DType.BF16, 3, 100, 72);
        final T ends = backend.put(numbers(DType.I32, 0, 0, 0));
        final T counts = backend.put(numbers(DType.I32, 0, 0, 0));
        final Scaled<T> scaled = backend.put(stack(b));
        try (GroupedGemmPlan<T> plan = backend.kernels().plan(GroupedGemmSpec.of(3, 200, 72, 256));
                MaskedGemmPlan<T> masked = backend.kernels().plan(MaskedGemmSpec.of(3, 100, 72, 256));
                GroupedGemmLaunch<T> launch = plan.bind(backend.put(a), scaled, ends, out, null);
                MaskedGemmLaunch<T> maskedLaunch =
                        masked.bind(backend.put(stack(planes)), scaled, counts, planesOut, null);
                Graph graph = backend.stream().capture(on -> {
                    launch.launch(on);
                    maskedLaunch.launch(on, 90);
                })) {
            for (final long[] sizes : new long[][] {{10, 0, 90}, {80, 70, 50}, {1, 64, 2}}) {
                backend.overwrite(
                        ends,
                        numbers(
                                DType.I32,
                                sizes[0],
                                sizes[0] + sizes[1],
                                Arrays.stream(sizes).sum()));
                backend.overwrite(counts, numbers(DType.I32, sizes));
                graph.launch(backend.stream());
                final HostTensor got = backend.get(out);
                final HostTensor gotPlanes = backend.get(planesOut);
                long from = 0;
                for (int g = 0; g < 3; g++) {
                    final long to = from + sizes[g];
                    assertProduct(rows(a, from, to), b.get(g), got.slice(0, from, to), sizes[g]);
                    assertProduct(
                            rows(planes.get(g), 0, sizes[g]),
                            b.get(g),
                            gotPlanes.select(0, g).slice(0, 0, sizes[g]),
                            sizes[g]);
                    from = to;
                }
            }
        }
    }

    // ---- K ----

    @ParameterizedTest
    @MethodSource("kCases")
    void shouldMultiplyGroupsOfK(final Case x) {
        final int k = x.total() + x.rest;
        final int groups = x.sizes.size();
        final Scaled<HostTensor> a = activations(x.m, k, x.seed);
        final Scaled<HostTensor> b = activations(x.n, k, x.seed + 1);
        final HostTensor c = Data.gaussian(backend.host, TensorSpec.packed(DType.F32, groups, x.m, x.n), x.seed + 2);
        final T out = x.accumulate ? backend.put(c) : poisoned(DType.F32, groups, x.m, x.n);
        try (KGroupedGemmPlan<T> plan = backend.kernels()
                        .plan(KGroupedGemmSpec.of(groups, x.m, x.n, k)
                                .withEnds(x.extents)
                                .withAccumulate(x.accumulate));
                KGroupedGemmLaunch<T> launch =
                        plan.bind(backend.put(a), backend.put(b), ends(x), x.accumulate ? out : null, out, null)) {
            launch.launch(backend.stream());
            final HostTensor got = backend.get(out);
            for (int g = 0; g < groups; g++) {
                final int from = x.begin(g);
                final int to = from + x.sizes.get(g);
                final HostTensor product = got.select(0, g);
                final HostTensor addend = c.select(0, g);
                if (from == to) {
                    assertThat(product.toFloats()).isEqualTo(x.accumulate ? addend.toFloats() : new float[x.m * x.n]);
                    continue;
                }
                assertWithinBounds(Expected.columnScaledError(
                        columns(a, from, to), columns(b, from, to), x.accumulate ? addend : null, product));
            }
        }
    }

    // ---- what does not fit ----

    @Test
    void shouldNameTheFirstBadNumberOnce() {
        final T out = poisoned(DType.BF16, 300, 72);
        final Scaled<T> a = backend.put(activations(300, 256, 6));
        final Scaled<T> b = backend.put(stack(matrices(Scaling.WEIGHT_128X128, 3, 72, 256, 7)));
        try (GroupedGemmPlan<T> plan = backend.kernels().plan(GroupedGemmSpec.of(3, 300, 72, 256))) {
            bad(
                    "gemm_grouped: group_ends[1]: got 90, need 100..300",
                    () -> plan.bind(a, b, i32(100, 90, 80), out, null));
            bad(
                    "gemm_grouped: group_ends[2]: got 301, need 200..300",
                    () -> plan.bind(a, b, i32(0, 200, 301), out, null));
            bad("gemm_grouped: group_ends[0]: got -1, need 0..300", () -> plan.bind(a, b, i32(-1, 0, 300), out, null));
        }
        final T planesOut = poisoned(DType.BF16, 3, 100, 72);
        final Scaled<T> planes = backend.put(stack(matrices(Scaling.ACTIVATION_1X128, 3, 100, 256, 8)));
        try (MaskedGemmPlan<T> plan = backend.kernels().plan(MaskedGemmSpec.of(3, 100, 72, 256))) {
            bad(
                    "gemm_masked: counts[2]: got 101, need 0..100",
                    () -> plan.bind(planes, b, i32(0, 100, 101), planesOut, null));
            bad(
                    "gemm_masked: counts[0]: got -7, need 0..100",
                    () -> plan.bind(planes, b, i32(-7, 5, 500), planesOut, null));
        }
        try (KGroupedGemmPlan<T> plan = backend.kernels().plan(KGroupedGemmSpec.of(3, 300, 296, 256))) {
            final Scaled<T> right = backend.put(activations(296, 256, 9));
            final T square = poisoned(DType.F32, 3, 300, 296);
            bad(
                    "gemm_k_grouped: group_ends[1]: got 200, need 128..128",
                    () -> plan.bind(a, right, i32(128, 200, 256), square, null));
            bad(
                    "gemm_k_grouped: group_ends[2]: got 384, need 128..256",
                    () -> plan.bind(a, right, i32(0, 128, 384), square, null));
        }
    }

    private T i32(final long... values) {
        return backend.put(numbers(DType.I32, values));
    }

    private void bad(final String message, final Supplier<? extends Launch> bind) {
        try (Launch launch = bind.get()) {
            launch.launch(backend.stream());
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.stream().synchronize())
                    .withMessage(message);
            backend.stream().synchronize();
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final Scaled<T> a = backend.put(activations(16, 256, 9));
        final Scaled<T> b = backend.put(stack(matrices(Scaling.WEIGHT_128X128, 2, 72, 256, 10)));
        final T ends = i32(8, 16);
        final T out = poisoned(DType.BF16, 16, 72);
        try (GroupedGemmPlan<T> plan = backend.kernels().plan(GroupedGemmSpec.of(2, 16, 72, 256))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(backend.put(activations(17, 256, 9)), b, ends, out, null))
                    .withMessage("gemm_grouped: a.values: got shape [17,256], need [16,256]");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, a, ends, out, null))
                    .withMessage("gemm_grouped: b.scaling: got 1x128, need 128x128");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, i32(16), out, null))
                    .withMessageStartingWith("gemm_grouped: groupEnds: got ")
                    .withMessageEndingWith("need contiguous I32 [2]");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, ends, poisoned(DType.F32, 16, 72), null))
                    .withMessage("gemm_grouped: out: got dtype F32, need BF16");
            assertThatIllegalArgumentException()
                    .isThrownBy(() ->
                            plan.bind(a, b, ends, backend.slice(poisoned(DType.BF16, 16, 76), 1, 0, 72), null))
                    .withMessage(
                            "gemm_grouped: out: got strides [76,1], need packed rows, and rows apart by multiples of 8 that do not overlap");
            plan.bind(a, b, ends, out, null).close();
        }
        assertThat(backend.kernels().support(GroupedGemmSpec.of(513, 1, 12, 120).withEnds(DType.U8)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("gemm_grouped: groups", "513", "at most 512"),
                        new Support.Reason("gemm_grouped: n", "12", "a multiple of 8"),
                        new Support.Reason("gemm_grouped: k", "120", "a multiple of 16"),
                        new Support.Reason("gemm_grouped: ends", "dtype U8", "I32 or I64"))));
        try (KGroupedGemmPlan<T> plan =
                backend.kernels().plan(KGroupedGemmSpec.of(1, 16, 16, 256).withAccumulate(true))) {
            final T square = poisoned(DType.F32, 1, 16, 16);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, a, i32(256), square, null))
                    .withMessage("gemm_k_grouped: c: got null, need a tensor, as the spec accumulates");
        }
    }
}
