package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssertAlternative;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The dense block-scaled GEMM, within {@link GemmTolerance} of the exact product. */
abstract class GemmContractTest<T extends Tensor> {
    private static final long SEED = 20261124;

    private final Backend<T> backend;

    GemmContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** The seed is part of a case's name, so a failure can be repeated. */
    record Case(int m, int n, int k, DType out, boolean accumulate, int padding, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        for (final int m : new int[] {0, 1, 63, 64, 65, 129}) {
            for (final int n : new int[] {8, 576}) {
                for (final int k : new int[] {16, 112, 128, 512}) {
                    final DType out = random.nextBoolean() ? DType.BF16 : DType.F32;
                    cases.add(new Case(m, n, k, out, random.nextBoolean(), 0, random.nextLong()));
                }
            }
        }
        for (final DType out : List.of(DType.BF16, DType.F32)) {
            for (final boolean accumulate : new boolean[] {false, true}) {
                for (final int padding : new int[] {0, 16, 48}) {
                    cases.add(new Case(70, 136, 272, out, accumulate, padding, random.nextLong()));
                }
            }
        }
        for (int i = 0; i < 12; i++) {
            cases.add(new Case(
                    random.nextInt(1, 200),
                    8 * random.nextInt(1, 40),
                    16 * random.nextInt(1, 40),
                    random.nextBoolean() ? DType.BF16 : DType.F32,
                    random.nextBoolean(),
                    16 * random.nextInt(3),
                    random.nextLong()));
        }
        return cases.stream();
    }

    private Scaled<HostTensor> a(final long m, final long k, final long seed) {
        return Data.quantized(backend.host, Scaling.ACTIVATION_1X128, m, k, seed);
    }

    private Scaled<HostTensor> b(final long n, final long k, final long seed) {
        return Data.quantized(backend.host, Scaling.WEIGHT_128X128, n, k, seed + 1);
    }

    private HostTensor c(final DType dtype, final long m, final long n, final long seed) {
        return Data.gaussian(backend.host, TensorSpec.packed(dtype, m, n), seed + 2);
    }

    /** An output whose old contents, NaN, must not show. */
    private T output(final DType dtype, final long m, final long n) {
        return backend.filled(TensorSpec.packed(dtype, m, n), Float.NaN);
    }

    /** A tensor with these elements in rows that are farther apart, with NaN between. */
    private T padded(final HostTensor elements, final int padding) {
        final long rows = elements.shape().size(0);
        final long cols = elements.shape().size(1);
        final float[] values = new float[Math.toIntExact(rows * (cols + padding))];
        final float[] packed = elements.toFloats();
        for (int i = 0; i < values.length; i++) {
            final int col = i % Math.toIntExact(cols + padding);
            values[i] = col < cols ? packed[i / Math.toIntExact(cols + padding) * (int) cols + col] : Float.NaN;
        }
        final HostTensor wide = backend.hostTensor(TensorSpec.packed(elements.dtype(), rows, cols + padding), values);
        return backend.slice(backend.put(wide), 1, 0, cols);
    }

    private Scaled<T> padded(final Scaled<HostTensor> matrix, final int padding) {
        return new Scaled<>(padded(matrix.values(), padding), backend.put(matrix.scales()), matrix.scaling());
    }

    private static void assertWithinBounds(final GemmTolerance.Result error) {
        assertThat(error.withinBounds())
                .as(
                        "worst error is %s of the bound, %s absolute, cosine distance %s, over %s elements",
                        error.worstRatio(), error.worstError(), error.cosineDistance(), error.elements())
                .isTrue();
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldMultiplyWithinBounds(final Case x) {
        final Scaled<HostTensor> a = a(x.m, x.k, x.seed);
        final Scaled<HostTensor> b = b(x.n, x.k, x.seed);
        final HostTensor c = x.accumulate ? c(x.out, x.m, x.n, x.seed) : null;
        final T wide = output(x.out, x.m, x.n + x.padding);
        final T out = backend.slice(wide, 1, 0, x.n);

        backend.kernels()
                .gemm(
                        padded(a, x.padding),
                        padded(b, x.padding),
                        c == null ? null : padded(c, x.padding),
                        out,
                        backend.stream());

        assertWithinBounds(Expected.gemmError(a, b, c, backend.get(out), x.m));
        for (final float gap :
                backend.get(backend.slice(wide, 1, x.n, x.n + x.padding)).toFloats()) {
            assertThat(gap).as("between the rows of the output").isNaN();
        }
    }

    /** The seed is part of a case's name. */
    record QuantizedCase(int m, int n, int k, ScaleKind kind, int padding, long seed) {}

    static Stream<QuantizedCase> quantizedCases() {
        final List<QuantizedCase> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        for (final int m : new int[] {1, 64, 129}) {
            for (final int n : new int[] {16, 128, 208, 576}) {
                final ScaleKind kind = random.nextBoolean() ? ScaleKind.F32 : ScaleKind.POWER_OF_TWO;
                cases.add(new QuantizedCase(m, n, 16 * random.nextInt(1, 40), kind, 16, random.nextLong()));
            }
        }
        cases.add(new QuantizedCase(70, 256, 2048, ScaleKind.F32, 0, random.nextLong()));
        cases.add(new QuantizedCase(300, 144, 144, ScaleKind.POWER_OF_TWO, 0, random.nextLong()));
        return cases.stream();
    }

    @ParameterizedTest
    @MethodSource("quantizedCases")
    void shouldQuantizeItsOutput(final QuantizedCase x) {
        final Scaled<HostTensor> a = a(x.m, x.k, x.seed);
        final Scaled<HostTensor> b = b(x.n, x.k, x.seed);
        final int stride = x.n + x.padding;
        final T wide = backend.filled(TensorSpec.packed(DType.F8_E4M3, x.m, stride), 3);
        final T scales = backend.filled(Scaled.activationScaleSpec(x.m, x.n), 7);
        final Scaled<T> out = Scaled.activation(backend.slice(wide, 1, 0, x.n), scales);
        final int some = x.m / 2;
        try (GemmPlan<T> plan =
                        backend.kernels().plan(GemmSpec.of(x.m, x.n, x.k).withQuantizedOut(x.kind));
                GemmLaunch<T> launch = plan.bind(backend.put(a), backend.put(b), out, null)) {
            launch.launch(backend.stream(), some);
            assertThat(backend.get(backend.slice(wide, 0, some, x.m)).toFloats())
                    .as("rows not in use")
                    .containsOnly(3f);
            assertThat(backend.get(backend.slice(scales, 0, some, x.m)).toFloats())
                    .as("rows not in use")
                    .containsOnly(7f);
            launch.launch(backend.stream());
        }
        final QuantizeTolerance error = Expected.quantizedGemmError(a, b, backend.get(out), x.kind, x.m);
        assertThat(error.worstValueRatio()).as("values by bound").isLessThanOrEqualTo(1);
        assertThat(error.worstScaleRatio()).as("scales by bound").isLessThanOrEqualTo(1);
        assertThat(error.count()).isEqualTo((long) x.m * x.n);
        for (final float gap : backend.get(backend.slice(wide, 1, x.n, stride)).toFloats()) {
            assertThat(gap).as("between the rows of the output").isEqualTo(3);
        }
    }

    /** What one product writes, the next reads as its A. */
    @Test
    void shouldChainThroughQuantizedOutput() {
        final Scaled<HostTensor> b = b(256, 384, 11);
        final Scaled<HostTensor> next = b(72, 256, 12);
        final Scaled<T> between = backend.put(a(65, 256, 13));
        final T out = output(DType.F32, 65, 72);
        final Scaled<T> first = backend.put(a(65, 384, 11));
        final Scaled<T> other = backend.put(a(65, 384, 14));
        try (GemmPlan<T> plan = backend.kernels().plan(GemmSpec.of(65, 256, 384).withQuantizedOut(ScaleKind.F32));
                GemmLaunch<T> launch = plan.bind(first, backend.put(b), between, null)) {
            for (final Scaled<T> a : List.of(first, other)) {
                launch.rebind(a, backend.put(b), between, null);
                launch.launch(backend.stream());
                backend.kernels().gemm(between, backend.put(next), out, backend.stream());
                assertWithinBounds(Expected.gemmError(backend.get(between), next, null, backend.get(out), 65));
            }
        }
    }

    @Test
    void shouldAddIntoTheSameTensor() {
        final Scaled<HostTensor> a = a(65, 256, 4);
        final Scaled<HostTensor> b = b(64, 256, 4);
        final HostTensor c = c(DType.F32, 65, 64, 4);
        final T out = backend.put(c);

        backend.kernels().gemm(backend.put(a), backend.put(b), out, out, backend.stream());

        assertWithinBounds(Expected.gemmError(a, b, c, backend.get(out), 65));
    }

    @Test
    void shouldUseFewerRowsWhenLaunchedSo() {
        final Scaled<HostTensor> a = a(129, 256, 5);
        final Scaled<HostTensor> b = b(72, 256, 5);
        final T out = backend.filled(TensorSpec.packed(DType.F32, 129, 72), -7);
        try (GemmPlan<T> plan = backend.kernels().plan(GemmSpec.of(129, 72, 256).withOut(DType.F32));
                GemmLaunch<T> launch = plan.bind(backend.put(a), backend.put(b), out, null)) {
            launch.launch(backend.stream(), 0);
            assertThat(backend.get(out).toFloats()).as("no rows in use").containsOnly(-7f);
            for (final int rows : new int[] {1, 65, 129}) {
                launch.launch(backend.stream(), rows);
                final HostTensor got = backend.get(out);
                assertWithinBounds(Expected.gemmError(a, b, null, got, rows));
                if (rows < 129) {
                    assertThat(got.slice(0, rows, 129).toFloats())
                            .as("rows not in use")
                            .containsOnly(-7f);
                }
            }
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> launch.launch(backend.stream(), 130))
                    .withMessage("gemm: rows: got 130, need 0..129, the rows bound");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> launch.launch(backend.stream(), -1))
                    .withMessage("gemm: rows: got -1, need 0..129, the rows bound");
        }
    }

    @Test
    void shouldGiveTheSameBitsWhenLaunchedTwiceAndFollowRebind() {
        final Scaled<HostTensor> a = a(40, 384, 6);
        final Scaled<HostTensor> other = a(40, 384, 60);
        final Scaled<HostTensor> b = b(136, 384, 6);
        final T first = output(DType.BF16, 40, 136);
        final T second = output(DType.BF16, 40, 136);
        final Scaled<T> weights = backend.put(b);
        try (GemmPlan<T> plan = backend.kernels().plan(GemmSpec.of(40, 136, 384));
                GemmLaunch<T> launch = plan.bind(backend.put(a), weights, first, null)) {
            launch.launch(backend.stream());
            final int[] once = Expected.bits(backend.get(first));
            launch.launch(backend.stream());
            assertThat(Expected.bits(backend.get(first))).isEqualTo(once);

            assertThatIllegalArgumentException()
                    .isThrownBy(() -> launch.rebind(backend.put(a(39, 384, 6)), weights, null, second, null))
                    .withMessage("gemm: a.values: got shape [39,384], need [40,384]");
            launch.launch(backend.stream());
            assertThat(Expected.bits(backend.get(first)))
                    .as("a failed rebind changes nothing")
                    .isEqualTo(once);

            launch.rebind(backend.put(other), weights, null, second, null);
            launch.launch(backend.stream());
            assertWithinBounds(Expected.gemmError(other, b, null, backend.get(second), 40));
            assertThat(Expected.bits(backend.get(first))).as("no longer bound").isEqualTo(once);
        }
    }

    @Test
    void shouldGiveARowTheSameBitsInEveryBatch() {
        final Scaled<HostTensor> a = a(130, 384, 9);
        final Scaled<T> all = backend.put(a);
        final Scaled<T> b = backend.put(b(136, 384, 9));
        final GemmSpec spec = GemmSpec.of(130, 136, 384).withBatchInvariant(true);
        final int[] whole = invariant(spec, all, b);
        for (final int rows : new int[] {1, 3, 64, 65, 128}) {
            final Scaled<T> part = new Scaled<>(
                    backend.slice(all.values(), 0, 0, rows), backend.slice(all.scales(), 0, 0, rows), all.scaling());
            assertThat(invariant(GemmSpec.of(rows, 136, 384).withBatchInvariant(true), part, b))
                    .as("%s rows", rows)
                    .isEqualTo(Arrays.copyOf(whole, rows * 136));
        }
    }

    private int[] invariant(final GemmSpec spec, final Scaled<T> a, final Scaled<T> b) {
        final T out = output(DType.BF16, spec.maxM(), spec.n());
        try (GemmPlan<T> plan = backend.kernels().plan(spec);
                GemmLaunch<T> launch = plan.bind(a, b, out, null)) {
            launch.launch(backend.stream());
            return Expected.bits(backend.get(out));
        }
    }

    @Test
    void shouldWaitForAWhenOnlyBIsConstant() {
        final Scaled<T> b = backend.put(b(576, 2048, 10));
        final Scaled<T> a = backend.put(a(64, 2048, 10));
        final T out = output(DType.BF16, 64, 576);
        try (GemmPlan<T> plan =
                        backend.kernels().plan(GemmSpec.of(64, 576, 2048).withConstantB(true));
                GemmLaunch<T> launch = plan.bind(a, b, out, null)) {
            for (int round = 0; round < 5; round++) {
                final T in = backend.put(Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, 64, 2048), round));
                backend.kernels().quantize(in, ScaleKind.F32, a, backend.stream());
                launch.launch(backend.stream());
                assertWithinBounds(Expected.gemmError(backend.get(a), backend.get(b), null, backend.get(out), 64));
            }
        }
    }

    @Test
    void shouldReplayWhatWasCaptured() {
        final Scaled<HostTensor> a = a(33, 256, 7);
        final Scaled<HostTensor> b = b(64, 256, 7);
        final Scaled<T> left = backend.put(a);
        final Scaled<T> right = backend.put(b);
        final T eager = output(DType.BF16, 33, 64);
        final T replayed = output(DType.BF16, 33, 64);
        backend.kernels().gemm(left, right, eager, backend.stream());
        final int[] expected = Expected.bits(backend.get(eager));
        try (GemmPlan<T> plan = backend.kernels().plan(GemmSpec.of(33, 64, 256))) {
            final GemmLaunch<T> launch = plan.bind(left, right, replayed, null);
            try (Graph bound = backend.stream().capture(launch::launch);
                    Graph once =
                            backend.stream().capture(on -> backend.kernels().gemm(left, right, replayed, on))) {
                launch.close();
                assertThat(backend.get(replayed).toFloats())
                        .as("captured, not run")
                        .containsOnly(Float.NaN);
                for (final Graph graph : List.of(bound, once)) {
                    graph.launch(backend.stream());
                    assertThat(Expected.bits(backend.get(replayed))).isEqualTo(expected);
                }
            }
        }
    }

    @Test
    void shouldEndACaptureWhoseBodyThrows() {
        final IllegalArgumentException thrown = new IllegalArgumentException("from the body");
        final Scaled<HostTensor> a = a(3, 128, 8);
        final Scaled<HostTensor> b = b(8, 128, 8);
        final Scaled<T> left = backend.put(a);
        final Scaled<T> right = backend.put(b);
        final T out = output(DType.F32, 3, 8);
        assertThatThrownBy(() -> backend.stream().capture(on -> {
                    backend.kernels().gemm(left, right, out, on);
                    throw thrown;
                }))
                .isSameAs(thrown);
        assertThatIllegalStateException()
                .isThrownBy(() -> backend.stream().capture(io.hopper4j.Stream::synchronize))
                .withMessageContaining("synchronize: got a stream being captured, need one that is not");
        assertThat(backend.get(out).toFloats()).as("nothing was run").containsOnly(Float.NaN);

        backend.kernels().gemm(left, right, out, backend.stream());

        assertWithinBounds(Expected.gemmError(a, b, null, backend.get(out), 3));
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final T wrongDtype = backend.filled(TensorSpec.packed(DType.F8_E5M2, 16, 256), 1);
        final Scaled<T> a = backend.put(a(16, 256, 9));
        final Scaled<T> b = backend.put(b(136, 256, 9));
        final T out = output(DType.BF16, 16, 136);
        try (GemmPlan<T> plan = backend.kernels().plan(GemmSpec.of(16, 136, 256));
                GemmPlan<T> adding =
                        backend.kernels().plan(GemmSpec.of(16, 136, 256).withAccumulate(true))) {
            refused(plan, Scaled.activation(wrongDtype, a.scales()), b, out)
                    .withMessage("gemm: a.values: got dtype F8_E5M2, need F8_E4M3");
            refused(plan, backend.put(a(16, 128, 9)), b, out)
                    .withMessage("gemm: a.values: got shape [16,128], need [16,256]");
            refused(plan, a, backend.put(b(128, 256, 9)), out)
                    .withMessage("gemm: b.values: got shape [128,256], need [136,256]");
            refused(plan, b, b, out).withMessage("gemm: a.scaling: got 128x128, need 1x128");
            refused(plan, a, b, output(DType.F32, 16, 136)).withMessage("gemm: out: got dtype F32, need BF16");
            refused(plan, a, b, output(DType.BF16, 136, 16))
                    .withMessage("gemm: out: got shape [136,16], need [16,136]");
            refused(plan, Scaled.activation(a.values(), output(DType.F32, 16, 2)), b, out)
                    .withMessage("gemm: a.scales: got strides [2,1], need [1,ld] with ld at least 16, a multiple of 4");
            refused(plan, a, b, backend.slice(output(DType.BF16, 16, 140), 1, 0, 136))
                    .withMessage("gemm: out: got strides [140,1], need [ld,1] with ld at least 136, a multiple of 8");
            refused(plan, a, b, backend.relaid(out, TensorSpec.strided(DType.BF16, new long[] {16, 136}, new long[] {
                        1, 16
                    })))
                    .withMessage("gemm: out: got strides [1,16], need [ld,1] with ld at least 136, a multiple of 8");
            final Scaled<T> quantized = backend.put(a(16, 144, 9));
            final Scaled<T> wide = backend.put(b(144, 256, 9));
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, quantized, null))
                    .withMessage("gemm: out: got values and scales, need one tensor, as the spec's output is BF16");
            try (GemmPlan<T> quantizing =
                    backend.kernels().plan(GemmSpec.of(16, 144, 256).withQuantizedOut(ScaleKind.F32))) {
                refused(quantizing, a, wide, out)
                        .withMessage(
                                "gemm: out: got BF16 [16,136], need values and scales, as the spec's output is quantised");
                assertThatIllegalArgumentException()
                        .isThrownBy(() -> quantizing.bind(a, wide, a, null))
                        .withMessage("gemm: out.values: got shape [16,256], need [16,144]");
                assertThatIllegalArgumentException()
                        .isThrownBy(() -> quantizing.bind(a, wide, wide, null))
                        .withMessage("gemm: out.scaling: got 128x128, need 1x128");
                quantizing.bind(a, wide, quantized, null).close();
            }
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, out, out, null))
                    .withMessage("gemm: c: got BF16 [16,136], need null, as the spec does not accumulate");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> adding.bind(a, b, out, null))
                    .withMessage("gemm: c: got null, need a tensor, as the spec accumulates");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, out, out))
                    .withMessage("gemm: workspace: got BF16 [16,136], need contiguous U8");
            // The next correct call works.
            plan.bind(a, b, out, null).close();
        }
    }

    private ThrowableAssertAlternative<IllegalArgumentException> refused(
            final GemmPlan<T> plan, final Scaled<T> a, final Scaled<T> b, final T out) {
        return assertThatIllegalArgumentException().isThrownBy(() -> plan.bind(a, b, out, null));
    }

    @Test
    void shouldSayWhatIsUnsupported() {
        final GemmSpec spec =
                GemmSpec.of(1, 12, 120).withOut(DType.F16).withScaling(Scaling.WEIGHT_128X128, new Scaling.PerTensor());
        final Support.Unsupported expected = new Support.Unsupported(List.of(
                new Support.Reason("gemm: n", "12", "a multiple of 8"),
                new Support.Reason("gemm: k", "120", "a multiple of 16"),
                new Support.Reason("gemm: out", "dtype F16", "BF16, F32 or F8_E4M3"),
                new Support.Reason("gemm: a.scaling", "128x128", "1x128"),
                new Support.Reason("gemm: b.scaling", "per tensor", "128x128")));
        assertThat(backend.kernels().support(spec)).isEqualTo(expected);
        assertThatExceptionOfType(UnsupportedKernelException.class)
                .isThrownBy(() -> backend.kernels().plan(spec))
                .satisfies(e -> assertThat(e.reasons()).isEqualTo(expected.reasons()))
                .withMessageStartingWith(
                        "gemm: n: got 12, need a multiple of 8; gemm: k: got 120, need a multiple of 16");
        assertThat(backend.kernels()
                        .support(GemmSpec.of(1, 8, 16).withAccumulate(true).withQuantizedOut(ScaleKind.F32)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("gemm: n", "8", "a multiple of 16"),
                        new Support.Reason("gemm: accumulate", "true", "false, as the output is F8_E4M3"))));
        assertThat(backend.kernels().support(GemmSpec.of(0, 8, 16)).isSupported())
                .isTrue();
    }

    @Test
    void shouldRefuseUseAfterCloseAndCloseBeforeUsers() {
        final Scaled<T> a = backend.put(a(4, 128, 10));
        final Scaled<T> b = backend.put(b(8, 128, 10));
        final T out = output(DType.BF16, 4, 8);
        final Kernels<T> kernels = backend.kernels();
        final GemmPlan<T> plan = kernels.plan(GemmSpec.of(4, 8, 128));
        final GemmLaunch<T> launch = plan.bind(a, b, out, null);
        assertThatIllegalStateException()
                .isThrownBy(kernels::close)
                .withMessageContaining("close: got open [gemm plan")
                .withMessageContaining("need them closed before");
        assertThatIllegalStateException()
                .isThrownBy(plan::close)
                .withMessageContaining("close: got open [gemm launch")
                .withMessageContaining("need them closed before");
        launch.launch(backend.stream());

        launch.close();
        launch.close();
        assertThatIllegalStateException()
                .isThrownBy(() -> launch.launch(backend.stream()))
                .withMessageStartingWith("gemm launch")
                .withMessageEndingWith(": got a closed one, need an open one");
        assertThatIllegalStateException().isThrownBy(() -> launch.rebind(a, b, null, out, null));
        plan.close();
        assertThatIllegalStateException()
                .isThrownBy(() -> plan.bind(a, b, out, null))
                .withMessageStartingWith("gemm plan")
                .withMessageEndingWith(": got a closed one, need an open one");
        final io.hopper4j.Stream closed = kernels.openStream();
        closed.close();
        assertThatIllegalStateException().isThrownBy(() -> kernels.gemm(a, b, out, closed));
        kernels.gemm(a, b, out, backend.stream());
        backend.stream().synchronize();
    }
}
