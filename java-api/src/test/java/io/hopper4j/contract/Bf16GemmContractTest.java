package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmLaunch;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssertAlternative;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** BF16 products, one, many or grouped, within {@link GemmTolerance} of the exact ones. */
abstract class Bf16GemmContractTest<T extends Tensor> {
    private static final long SEED = 20261125;

    private final Backend<T> backend;

    Bf16GemmContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** The seed is part of a case's name, so a failure can be repeated. {@code middle}: the batch is the middle dimension of A, C and D. */
    record Case(int batch, int m, int n, int k, DType out, boolean accumulate, boolean middle, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        for (final int m : new int[] {0, 1, 7, 63, 64, 65, 129}) {
            for (final int n : new int[] {8, 256, 576}) {
                for (final int k : new int[] {8, 104, 512}) {
                    cases.add(random(random, 1, m, n, k));
                }
            }
        }
        for (final int b : new int[] {1, 17, 128}) {
            cases.add(new Case(16, b, 128, 512, DType.BF16, false, true, random.nextLong()));
            cases.add(new Case(16, b, 512, 128, DType.BF16, false, true, random.nextLong()));
        }
        cases.add(random(random, 0, 16, 16, 16));
        for (int i = 0; i < 16; i++) {
            cases.add(random(
                    random,
                    random.nextInt(1, 5),
                    random.nextInt(1, 150),
                    8 * random.nextInt(1, 40),
                    8 * random.nextInt(1, 80)));
        }
        return cases.stream();
    }

    private static Case random(final SplittableRandom random, final int batch, final int m, final int n, final int k) {
        return new Case(
                batch,
                m,
                n,
                k,
                random.nextBoolean() ? DType.BF16 : DType.F32,
                random.nextBoolean(),
                random.nextBoolean(),
                random.nextLong());
    }

    private HostTensor normal(final DType dtype, final long seed, final long... dims) {
        final TensorSpec flat = TensorSpec.packed(
                dtype, Arrays.stream(dims).limit(dims.length - 1).reduce(1, (x, y) -> x * y), dims[dims.length - 1]);
        return HostTensor.wrap(Data.gaussian(backend.host, flat, seed).segment(), TensorSpec.packed(dtype, dims));
    }

    private T output(final DType dtype, final long... dims) {
        return backend.filled(TensorSpec.packed(dtype, dims), Float.NaN);
    }

    private static int[] repeated(final int batch, final int m, final int rows, final int n) {
        return IntStream.range(0, batch * m)
                .map(i -> i % m < rows ? i / m * n : -1)
                .toArray();
    }

    private static void assertWithinBounds(final GemmTolerance.Result error) {
        assertThat(error.withinBounds())
                .as(
                        "worst error is %s of the bound, %s absolute, cosine distance %s, over %s elements",
                        error.worstRatio(), error.worstError(), error.cosineDistance(), error.elements())
                .isTrue();
    }

    /** The same elements, laid out with the first two dimensions exchanged. */
    private T exchanged(final HostTensor batch) {
        final HostTensor middle = HostTensor.allocate(
                backend.host,
                batch.dtype(),
                batch.shape().size(1),
                batch.shape().size(0),
                batch.shape().size(2));
        middle.transpose(0, 1).setFloats(batch.toFloats());
        final T put = backend.put(middle);
        return backend.relaid(put, middle.spec().transpose(0, 1));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldMultiplyWithinBounds(final Case x) {
        final HostTensor a = normal(DType.BF16, x.seed, x.batch, x.m, x.k);
        final HostTensor b = normal(DType.BF16, x.seed + 1, x.batch, x.n, x.k);
        final HostTensor c = x.accumulate ? normal(x.out, x.seed + 2, x.batch, x.m, x.n) : null;
        final T packed = x.middle ? output(x.out, x.m, x.batch, x.n) : output(x.out, x.batch, x.m, x.n);
        final T out = x.middle ? backend.relaid(packed, packed.spec().transpose(0, 1)) : packed;

        backend.kernels()
                .gemm(
                        x.middle ? exchanged(a) : backend.put(a),
                        backend.put(b),
                        c == null ? null : x.middle ? exchanged(c) : backend.put(c),
                        out,
                        backend.stream());

        assertWithinBounds(Expected.bf16GemmError(a, b, c, backend.get(out), x.n, repeated(x.batch, x.m, x.m, x.n)));
    }

    @Test
    void shouldTakePlainMatricesForABatchOfOneAndAddIntoTheSameTensor() {
        final HostTensor a = normal(DType.BF16, 1, 65, 256);
        final HostTensor b = normal(DType.BF16, 2, 72, 256);
        final HostTensor c = normal(DType.F32, 3, 65, 72);
        final T out = backend.put(c);

        backend.kernels().gemm(backend.put(a), backend.put(b), out, out, backend.stream());

        assertWithinBounds(Expected.bf16GemmError(a, b, c, backend.get(out), 72, repeated(1, 65, 65, 72)));
    }

    @Test
    void shouldUseFewerRowsWhenLaunchedSo() {
        final HostTensor a = normal(DType.BF16, 5, 2, 129, 256);
        final HostTensor b = normal(DType.BF16, 6, 2, 72, 256);
        final T out = backend.filled(TensorSpec.packed(DType.F32, 2, 129, 72), -7);
        try (Bf16GemmPlan<T> plan = backend.kernels()
                        .plan(Bf16GemmSpec.batched(2, 129, 72, 256).withOut(DType.F32));
                Bf16GemmLaunch<T> launch = plan.bind(backend.put(a), backend.put(b), out, null)) {
            launch.launch(backend.stream(), 0);
            assertThat(backend.get(out).toFloats()).as("no rows in use").containsOnly(-7f);
            for (final int rows : new int[] {1, 65, 129}) {
                launch.launch(backend.stream(), rows);
                final HostTensor got = backend.get(out);
                assertWithinBounds(Expected.bf16GemmError(a, b, null, got, 72, repeated(2, 129, rows, 72)));
                if (rows < 129) {
                    assertThat(got.slice(1, rows, 129).toFloats())
                            .as("rows not in use")
                            .containsOnly(-7f);
                }
            }
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> launch.launch(backend.stream(), 130))
                    .withMessage("gemm_bf16: rows: got 130, need 0..129, the rows bound");
        }
    }

    @Test
    void shouldGiveTheSameBitsFromAGraphAndFollowRebind() {
        final HostTensor a = normal(DType.BF16, 7, 40, 384);
        final HostTensor other = normal(DType.BF16, 8, 40, 384);
        final HostTensor b = normal(DType.BF16, 9, 136, 384);
        final T first = output(DType.BF16, 40, 136);
        final T second = output(DType.BF16, 40, 136);
        final T weights = backend.put(b);
        try (Bf16GemmPlan<T> plan = backend.kernels().plan(Bf16GemmSpec.of(40, 136, 384));
                Bf16GemmLaunch<T> launch = plan.bind(backend.put(a), weights, first, null)) {
            launch.launch(backend.stream());
            final int[] once = Expected.bits(backend.get(first));
            launch.rebind(backend.put(a), weights, null, second, null);
            try (Graph graph = backend.stream().capture(launch::launch)) {
                graph.launch(backend.stream());
                assertThat(Expected.bits(backend.get(second))).isEqualTo(once);
            }
            launch.rebind(backend.put(other), weights, null, second, null);
            launch.launch(backend.stream());
            assertWithinBounds(
                    Expected.bf16GemmError(other, b, null, backend.get(second), 136, repeated(1, 40, 40, 136)));
        }
    }

    /** Ends of groups, and what they are cut to in {@code rows} rows. */
    record Groups(int m, int rows, DType out, boolean accumulate, List<Integer> ends, String fault) {}

    static Stream<Groups> groups() {
        return Stream.of(
                new Groups(300, 300, DType.BF16, false, List.of(0, 10, 10, 140, 141, 300), ""),
                new Groups(300, 300, DType.F32, true, List.of(128, 256, 290), ""),
                new Groups(300, 200, DType.BF16, true, List.of(100, 200), ""),
                new Groups(20, 20, DType.BF16, false, List.of(1, 1, 2, 3, 20), ""),
                new Groups(20, 20, DType.F32, false, List.of(0, 0), ""),
                new Groups(0, 0, DType.BF16, false, List.of(0), ""),
                new Groups(300, 300, DType.BF16, false, List.of(100, 50, 300), "group_ends[1]: got 50, need 100..300"),
                new Groups(
                        300,
                        200,
                        DType.F32,
                        false,
                        List.of(-7, 50, 2_000_000_000, 9),
                        "group_ends[0]: got -7, need 0..200"),
                new Groups(300, 200, DType.BF16, false, List.of(100, 201), "group_ends[1]: got 201, need 100..200"));
    }

    @ParameterizedTest
    @MethodSource("groups")
    void shouldMultiplyGroupsOfRowsByTheirOwnMatrix(final Groups x) {
        final int n = 72;
        final int k = 136;
        final int count = x.ends.size();
        final HostTensor a = normal(DType.BF16, 11, x.m, k);
        final HostTensor b = normal(DType.BF16, 12, count, n, k);
        final HostTensor c = x.accumulate ? normal(x.out, 13, x.m, n) : null;
        final HostTensor ends = HostTensor.allocate(backend.host, DType.I32, count);
        final int[] bRow = new int[x.m];
        Arrays.fill(bRow, -1);
        int begin = 0;
        for (int g = 0; g < count; g++) {
            ends.segment().setAtIndex(java.lang.foreign.ValueLayout.JAVA_INT, g, x.ends.get(g));
            final int end = Math.min(Math.max(x.ends.get(g), begin), x.rows);
            Arrays.fill(bRow, begin, end, g * n);
            begin = end;
        }
        final T out = output(x.out, x.m, n);
        try (Bf16GroupedGemmPlan<T> plan = backend.kernels()
                        .plan(Bf16GroupedGemmSpec.of(count, x.m, n, k)
                                .withOut(x.out)
                                .withAccumulate(x.accumulate));
                Bf16GroupedGemmLaunch<T> launch = plan.bind(
                        backend.put(a),
                        backend.put(b),
                        backend.put(ends),
                        c == null ? null : backend.put(c),
                        out,
                        null)) {
            launch.launch(backend.stream(), x.rows);
            if (!x.fault.isEmpty()) {
                assertThatIllegalArgumentException()
                        .isThrownBy(backend.stream()::synchronize)
                        .withMessage("gemm_bf16_grouped: " + x.fault);
            }
            backend.stream().synchronize();
            final HostTensor got = backend.get(out);
            assertWithinBounds(Expected.bf16GemmError(a, b, c, got, n, bRow));
            for (int i = 0; i < x.m; i++) {
                if (bRow[i] < 0) {
                    assertThat(got.select(0, i).toFloats())
                            .as("row %s of no group", i)
                            .containsOnly(Float.NaN);
                }
            }
        }
    }

    @Test
    void shouldNameTheOperandThatDoesNotFit() {
        final T a = output(DType.BF16, 2, 16, 64);
        final T b = output(DType.BF16, 2, 136, 64);
        final T out = output(DType.BF16, 2, 16, 136);
        try (Bf16GemmPlan<T> plan = backend.kernels().plan(Bf16GemmSpec.batched(2, 16, 136, 64));
                Bf16GemmPlan<T> one = backend.kernels().plan(Bf16GemmSpec.of(16, 136, 64));
                Bf16GroupedGemmPlan<T> grouped = backend.kernels().plan(Bf16GroupedGemmSpec.of(2, 16, 136, 64))) {
            refused(plan, output(DType.F32, 2, 16, 64), b, out).withMessage("gemm_bf16: a: got dtype F32, need BF16");
            refused(plan, a, output(DType.BF16, 2, 64, 136), out)
                    .withMessage("gemm_bf16: b: got shape [2,64,136], need [2,136,64]");
            refused(one, a, b, out)
                    .withMessage(
                            "gemm_bf16: a: got shape [2,16,64], need [1,16,64] without its first dimension or with it");
            refused(plan, a, b, backend.relaid(out, TensorSpec.strided(DType.BF16, new long[] {2, 16, 136}, new long[] {
                        16, 1, 32
                    })))
                    .withMessage(
                            "gemm_bf16: out: got strides [16,1,32], need packed rows, all else at least 136 apart, by a multiple of 8");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, out, out, null))
                    .withMessage("gemm_bf16: c: got BF16 [2,16,136], need null, as the spec does not accumulate");
            final T matrix = output(DType.BF16, 16, 64);
            final T flat = output(DType.BF16, 16, 136);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> grouped.bind(matrix, b, output(DType.I32, 3), flat, null))
                    .withMessage("gemm_bf16_grouped: groupEnds: got I32 [3], need contiguous I32 [2]");
            // The next correct call works.
            plan.bind(a, b, out, null).close();
            grouped.bind(matrix, b, output(DType.I32, 2), flat, null).close();
        }
        assertThatIllegalArgumentException()
                .isThrownBy(() -> backend.kernels().gemm(output(DType.BF16, 8), b, out, backend.stream()))
                .withMessage("gemm_bf16: a: got shape [8], need 2 or 3 dimensions");
    }

    private ThrowableAssertAlternative<IllegalArgumentException> refused(
            final Bf16GemmPlan<T> plan, final T a, final T b, final T out) {
        return assertThatIllegalArgumentException().isThrownBy(() -> plan.bind(a, b, out, null));
    }

    @Test
    void shouldSayWhatIsUnsupported() {
        final Support.Unsupported expected = new Support.Unsupported(List.of(
                new Support.Reason("gemm_bf16: batch", "65536", "at most 65535"),
                new Support.Reason("gemm_bf16: n", "12", "a multiple of 8"),
                new Support.Reason("gemm_bf16: k", "20", "a multiple of 8"),
                new Support.Reason("gemm_bf16: out", "dtype F16", "BF16 or F32")));
        final Bf16GemmSpec spec = Bf16GemmSpec.batched(65536, 1, 12, 20).withOut(DType.F16);
        assertThat(backend.kernels().support(spec)).isEqualTo(expected);
        assertThatExceptionOfType(UnsupportedKernelException.class)
                .isThrownBy(() -> backend.kernels().plan(spec))
                .satisfies(e -> assertThat(e.reasons()).isEqualTo(expected.reasons()));
        assertThat(backend.kernels().support(Bf16GroupedGemmSpec.of(65536, 1, 8, 8)))
                .isEqualTo(new Support.Unsupported(
                        List.of(new Support.Reason("gemm_bf16_grouped: groups", "65536", "at most 65535"))));
        assertThat(backend.kernels().support(Bf16GemmSpec.batched(0, 0, 8, 8)).isSupported())
                .isTrue();
    }

    @Test
    void shouldRefuseUseAfterClose() {
        final T a = output(DType.BF16, 4, 128);
        final T b = output(DType.BF16, 8, 128);
        final T out = output(DType.BF16, 4, 8);
        final Bf16GemmPlan<T> plan = backend.kernels().plan(Bf16GemmSpec.of(4, 8, 128));
        final Bf16GemmLaunch<T> launch = plan.bind(a, b, out, null);
        assertThatIllegalStateException()
                .isThrownBy(plan::close)
                .withMessageContaining("close: got open [gemm_bf16 launch");
        launch.close();
        assertThatIllegalStateException()
                .isThrownBy(() -> launch.launch(backend.stream()))
                .withMessageEndingWith(": got a closed one, need an open one");
        plan.close();
        assertThatIllegalStateException().isThrownBy(() -> plan.bind(a, b, out, null));
    }
}
