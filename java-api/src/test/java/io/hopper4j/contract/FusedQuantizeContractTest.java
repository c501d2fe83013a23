package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeLaunch;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** SwiGLU, RMSNorm and transposition with quantisation, against the formulas of their specs. */
abstract class FusedQuantizeContractTest<T extends Tensor> {
    /** Printed with every failure, as part of the case's name. */
    private static final long SEED = 20261125;

    private final Backend<T> backend;

    FusedQuantizeContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    record Case(int rows, int cols, int padding, boolean option, boolean second, ScaleKind kind, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        for (final int[] shape :
                new int[][] {{0, 128}, {1, 8}, {3, 120}, {65, 128}, {129, 272}, {9, 2048}, {2, 7168}, {17, 520}}) {
            for (final ScaleKind kind : ScaleKind.values()) {
                cases.add(new Case(
                        shape[0],
                        shape[1],
                        16 * random.nextInt(2),
                        random.nextBoolean(),
                        random.nextBoolean(),
                        kind,
                        random.nextLong()));
            }
        }
        for (int i = 0; i < 8; i++) {
            cases.add(new Case(
                    random.nextInt(1, 300),
                    8 * random.nextInt(1, 80),
                    16 * random.nextInt(3),
                    random.nextBoolean(),
                    random.nextBoolean(),
                    random.nextBoolean() ? ScaleKind.F32 : ScaleKind.POWER_OF_TWO,
                    random.nextLong()));
        }
        return cases.stream();
    }

    // ---- tensors ----

    private static long stride(final long cols, final long padding) {
        return Math.ceilDiv(cols, 16) * 16 + padding;
    }

    private HostTensor gaussian(final long rows, final long cols, final long seed) {
        return Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, rows, cols), seed);
    }

    /** A copy with rows farther apart; what lies between is huge. */
    private T put(final HostTensor matrix, final long padding) {
        final long cols = matrix.shape().size(1);
        final T padded =
                backend.filled(TensorSpec.packed(matrix.dtype(), matrix.shape().size(0), stride(cols, padding)), 1e30f);
        final T view = backend.slice(padded, 1, 0, cols);
        backend.overwrite(view, matrix);
        return view;
    }

    private T vector(final DType type, final float... values) {
        return backend.put(backend.hostTensor(TensorSpec.packed(type, values.length), values));
    }

    private Scaled<T> output(final long rows, final long cols, final long padding) {
        return Scaled.activation(
                backend.slice(
                        backend.filled(TensorSpec.packed(DType.F8_E4M3, rows, stride(cols, padding)), 3), 1, 0, cols),
                backend.filled(Scaled.activationScaleSpec(rows, cols), 7));
    }

    /** Adds a row to a measure, block by block. */
    private static void compare(
            final QuantizeTolerance tolerance, final Scaled<HostTensor> out, final long row, final double... exact) {
        final float[] values = out.values().select(0, row).toFloats();
        assertThat(values).hasSameSizeAs(exact);
        for (int first = 0; first < exact.length; first += 128) {
            final int last = Math.min(first + 128, exact.length);
            tolerance.add(
                    Arrays.copyOfRange(values, first, last),
                    out.scales().getFloat(row, first / 128),
                    Arrays.copyOfRange(exact, first, last));
        }
    }

    private static void within(final QuantizeTolerance tolerance) {
        assertThat(tolerance.worstValueRatio()).as("values by bound").isLessThanOrEqualTo(1);
        assertThat(tolerance.worstScaleRatio()).as("scales by bound").isLessThanOrEqualTo(1);
    }

    private static void untouched(final Scaled<HostTensor> out, final long from, final long to) {
        if (from == to) {
            return;
        }
        assertThat(out.values().slice(0, from, to).toFloats())
                .as("rows not in use")
                .containsOnly(3f);
        assertThat(out.scales().slice(0, from, to).toFloats())
                .as("rows not in use")
                .containsOnly(7f);
    }

    // ---- SwiGLU ----

    private static double[] swiglu(final HostTensor in, final long row, final double weight) {
        final float[] x = in.select(0, row).toFloats();
        return IntStream.range(0, x.length / 2)
                .mapToDouble(c -> x[c] * (1 / (1 + Math.exp(-x[c]))) * x[x.length / 2 + c] * weight)
                .toArray();
    }

    private float[] weights(final int count, final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final float[] weights = new float[count];
        for (int i = 0; i < count; i++) {
            weights[i] = (float) random.nextDouble(0, 2.5);
        }
        return weights;
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldQuantizeSwiglu(final Case c) {
        final HostTensor in = gaussian(c.rows, 2L * c.cols, c.seed);
        final float[] weights = weights(c.rows, c.seed);
        final Scaled<T> out = output(c.rows, c.cols, c.padding);
        final SwigluQuantizeSpec spec =
                SwigluQuantizeSpec.of(c.rows, c.cols).withWeights(c.option).withScaleKind(c.kind);
        try (SwigluQuantizePlan<T> plan = backend.kernels().plan(spec);
                SwigluQuantizeLaunch<T> launch =
                        plan.bind(put(in, c.padding), c.option ? vector(DType.F32, weights) : null, null, out)) {
            launch.launch(backend.stream());
        }
        final Scaled<HostTensor> got = backend.get(out);
        final QuantizeTolerance tolerance = new QuantizeTolerance(c.kind);
        for (int r = 0; r < c.rows; r++) {
            compare(tolerance, got, r, swiglu(in, r, c.option ? weights[r] : 1));
        }
        within(tolerance);
    }

    @Test
    void shouldQuantizeSwigluOfTheRowsThatDeviceMemoryCounts() {
        final int maxRows = 37;
        final int cols = 264;
        final float[] counts = {0, 37, 8, 1, 0, 20};
        final int rows = counts.length * maxRows;
        final HostTensor in = gaussian(rows, 2L * cols, 5);
        final float[] weights = weights(rows, 6);
        final Scaled<T> out = output(rows, cols, 16);
        final T rowCounts = vector(DType.I32, counts);
        final SwigluQuantizeSpec spec =
                SwigluQuantizeSpec.masked(counts.length, maxRows, cols).withWeights(true);
        try (SwigluQuantizePlan<T> plan = backend.kernels().plan(spec);
                SwigluQuantizeLaunch<T> launch = plan.bind(put(in, 16), vector(DType.F32, weights), rowCounts, out)) {
            launch.launch(backend.stream(), 0);
            untouched(backend.get(out), 0, rows);
            launch.launch(backend.stream());
            final Scaled<HostTensor> got = backend.get(out);
            final QuantizeTolerance tolerance = new QuantizeTolerance(ScaleKind.F32);
            for (int g = 0; g < counts.length; g++) {
                for (int r = 0; r < counts[g]; r++) {
                    final int row = g * maxRows + r;
                    compare(tolerance, got, row, swiglu(in, row, weights[row]));
                }
                untouched(got, g * maxRows + (int) counts[g], (g + 1L) * maxRows);
            }
            within(tolerance);

            // The counts of the next step, with nothing bound anew.
            backend.overwrite(rowCounts, backend.hostTensor(TensorSpec.packed(DType.I32, 6), 1, 0, 0, 0, 0, 37));
            launch.launch(backend.stream());
            final QuantizeTolerance next = new QuantizeTolerance(ScaleKind.F32);
            final Scaled<HostTensor> later = backend.get(out);
            for (int row = 5 * maxRows; row < rows; row++) {
                compare(next, later, row, swiglu(in, row, weights[row]));
            }
            within(next);
        }
    }

    @Test
    void shouldNameTheFirstBadCountAndStayInside() {
        final Scaled<T> out = output(24, 128, 0);
        try (SwigluQuantizePlan<T> plan = backend.kernels().plan(SwigluQuantizeSpec.masked(3, 8, 128));
                SwigluQuantizeLaunch<T> launch =
                        plan.bind(put(gaussian(24, 256, 1), 0), null, vector(DType.I32, 8, -3, 1_000_000), out)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> {
                        launch.launch(backend.stream());
                        backend.stream().synchronize();
                    })
                    .withMessage("swiglu_quantize: row_counts[1]: got -3, need 0..8");
            untouched(backend.get(out), 8, 16);
            launch.launch(backend.stream(), 0);
            backend.stream().synchronize();
        }
    }

    // ---- RMSNorm ----

    private static double[] norm(final float[] x, final float[] weight) {
        final double squares = IntStream.range(0, x.length)
                .mapToDouble(c -> (double) x[c] * x[c])
                .sum();
        final double root = Math.sqrt(squares / x.length + 1e-6f);
        return IntStream.range(0, x.length)
                .mapToDouble(c -> x[c] / root * weight[c])
                .toArray();
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldQuantizeTheNorm(final Case c) {
        final HostTensor in = gaussian(c.rows, c.cols, c.seed);
        final HostTensor addend = gaussian(c.rows, c.cols, c.seed + 1);
        final DType weightType = c.seed % 2 == 0 ? DType.BF16 : DType.F32;
        final HostTensor weight = backend.hostTensor(TensorSpec.packed(weightType, c.cols), weights(c.cols, c.seed));
        final @Nullable T residual = c.option ? put(addend, 0) : null;
        final @Nullable T normalized = c.second
                ? backend.slice(
                        backend.filled(TensorSpec.packed(DType.BF16, c.rows, stride(c.cols, c.padding)), 5),
                        1,
                        0,
                        c.cols)
                : null;
        final Scaled<T> out = output(c.rows, c.cols, c.padding);
        final RmsNormQuantizeSpec spec = RmsNormQuantizeSpec.of(c.rows, c.cols)
                .withWeight(weightType)
                .withResidual(c.option)
                .withNormalized(c.second)
                .withScaleKind(c.kind);
        try (RmsNormQuantizePlan<T> plan = backend.kernels().plan(spec);
                RmsNormQuantizeLaunch<T> launch =
                        plan.bind(put(in, c.padding), residual, backend.put(weight), out, normalized)) {
            launch.launch(backend.stream());
        }
        final Scaled<HostTensor> got = backend.get(out);
        final QuantizeTolerance tolerance = new QuantizeTolerance(c.kind);
        final HostTensor sum = backend.hostTensor(TensorSpec.packed(DType.BF16, c.rows, c.cols), sums(in, addend));
        if (residual != null) {
            assertThat(Expected.bits(backend.get(residual))).as("residual").isEqualTo(Expected.bits(sum));
        }
        for (int r = 0; r < c.rows; r++) {
            final double[] exact = norm((c.option ? sum : in).select(0, r).toFloats(), weight.toFloats());
            compare(tolerance, got, r, exact);
            if (normalized != null) {
                final float[] rounded = backend.get(normalized).select(0, r).toFloats();
                for (int i = 0; i < exact.length; i++) {
                    assertThat(rounded[i] - exact[i])
                            .as("normalized %d, %d", r, i)
                            .isBetween(-0x1.02p-8 * Math.abs(exact[i]), 0x1.02p-8 * Math.abs(exact[i]));
                }
            }
        }
        within(tolerance);
    }

    private static float[] sums(final HostTensor x, final HostTensor y) {
        final float[] sums = x.toFloats();
        final float[] addend = y.toFloats();
        for (int i = 0; i < sums.length; i++) {
            sums[i] += addend[i];
        }
        return sums;
    }

    @Test
    void shouldLaunchFewerRowsAndRebind() {
        final HostTensor first = gaussian(40, 256, 1);
        final HostTensor second = gaussian(40, 256, 2);
        final float[] ones = new float[256];
        Arrays.fill(ones, 1);
        final T weight = vector(DType.BF16, ones);
        final Scaled<T> out = output(40, 256, 0);
        try (RmsNormQuantizePlan<T> plan = backend.kernels().plan(RmsNormQuantizeSpec.of(40, 256));
                RmsNormQuantizeLaunch<T> launch = plan.bind(put(first, 0), null, weight, out, null)) {
            launch.launch(backend.stream(), 0);
            launch.launch(backend.stream(), 13);
            untouched(backend.get(out), 13, 40);
            launch.rebind(put(second, 0), null, weight, out, null);
            launch.launch(backend.stream());
            final QuantizeTolerance tolerance = new QuantizeTolerance(ScaleKind.F32);
            final Scaled<HostTensor> got = backend.get(out);
            for (int r = 0; r < 40; r++) {
                compare(tolerance, got, r, norm(second.select(0, r).toFloats(), ones));
            }
            within(tolerance);
        }
    }

    // ---- transposition ----

    @ParameterizedTest
    @MethodSource("cases")
    void shouldQuantizeTheTransposedMatrixBitForBit(final Case c) {
        final HostTensor in = gaussian(c.rows, c.cols, c.seed);
        if (c.rows > 0) {
            in.setFloat(Float.NaN, 0, 1);
            in.setFloat(Float.POSITIVE_INFINITY, c.rows - 1, 2);
            in.setFloat(-0f, c.rows / 2, 3);
        }
        final Scaled<T> out = output(c.cols, c.rows, c.padding);
        try (TransposeQuantizePlan<T> plan = backend.kernels()
                        .plan(TransposeQuantizeSpec.of(c.rows, c.cols).withScaleKind(c.kind));
                TransposeQuantizeLaunch<T> launch = plan.bind(put(in, c.padding), out)) {
            launch.launch(backend.stream());
        }
        final Scaled<HostTensor> expected =
                Expected.quantize(in.transpose(0, 1), Scaling.ACTIVATION_1X128, c.kind, backend.host);
        final Scaled<HostTensor> got = backend.get(out);
        assertThat(Expected.bits(got.scales())).as("scales").isEqualTo(Expected.bits(expected.scales()));
        assertThat(Expected.bits(got.values())).as("values").isEqualTo(Expected.bits(expected.values()));
    }

    @Test
    void shouldTransposeFewerRows() {
        final HostTensor in = gaussian(200, 64, 4);
        final Scaled<T> out = output(64, 200, 0);
        try (TransposeQuantizePlan<T> plan = backend.kernels().plan(TransposeQuantizeSpec.of(200, 64));
                TransposeQuantizeLaunch<T> launch = plan.bind(put(in, 0), out)) {
            launch.launch(backend.stream(), 131);
        }
        final Scaled<HostTensor> expected = Expected.quantize(
                in.slice(0, 0, 131).transpose(0, 1), Scaling.ACTIVATION_1X128, ScaleKind.F32, backend.host);
        final Scaled<HostTensor> got = backend.get(out);
        assertThat(Expected.bits(got.values().slice(1, 0, 131))).isEqualTo(Expected.bits(expected.values()));
        assertThat(got.values().slice(1, 131, 200).toFloats()).containsOnly(3f);
        assertThat(Expected.bits(got.scales())).isEqualTo(Expected.bits(expected.scales()));
    }

    // ---- mistakes ----

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final Scaled<T> out = output(4, 128, 0);
        final T in = put(gaussian(4, 256, 1), 0);
        try (SwigluQuantizePlan<T> swiglu = backend.kernels().plan(SwigluQuantizeSpec.of(4, 128))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> swiglu.bind(put(gaussian(4, 128, 1), 0), null, null, out))
                    .withMessage("swiglu_quantize: in: got shape [4,128], need [4,256]");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> swiglu.bind(in, vector(DType.F32, 1, 1, 1, 1), null, out))
                    .withMessageContaining("swiglu_quantize: weights: got")
                    .withMessageEndingWith("need null, as the spec does not ask for it");
            swiglu.bind(in, null, null, out).close();
        }
        try (SwigluQuantizePlan<T> masked = backend.kernels().plan(SwigluQuantizeSpec.masked(2, 2, 128))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> masked.bind(in, null, null, out))
                    .withMessage("swiglu_quantize: rowCounts: got null, need a tensor, as the spec asks for it");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> masked.bind(in, null, vector(DType.I32, 1, 2, 3), out))
                    .withMessage("swiglu_quantize: rowCounts: got shape [3], need [2]");
        }
        final T x = put(gaussian(4, 128, 1), 0);
        try (RmsNormQuantizePlan<T> norm = backend.kernels().plan(RmsNormQuantizeSpec.of(4, 128))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> norm.bind(x, null, vector(DType.F32, new float[128]), out, null))
                    .withMessage("rmsnorm_quantize: weight: got dtype F32, need BF16");
        }
        try (TransposeQuantizePlan<T> transpose = backend.kernels().plan(TransposeQuantizeSpec.of(4, 128))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> transpose.bind(x, out))
                    .withMessage("transpose_quantize: out.values: got shape [4,128], need [128,4]");
        }
    }

    @Test
    void shouldSayWhatIsUnsupported() {
        assertThat(backend.kernels().support(SwigluQuantizeSpec.masked(1025, 1, 12)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("swiglu_quantize: groups", "1025", "at most 1024"),
                        new Support.Reason("swiglu_quantize: cols", "12", "a multiple of 8"))));
        assertThat(backend.kernels().support(RmsNormQuantizeSpec.of(1, 32_776).withWeight(DType.F16)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("rmsnorm_quantize: cols", "32776", "a multiple of 8 up to 32768"),
                        new Support.Reason("rmsnorm_quantize: weight", "dtype F16", "BF16 or F32"))));
        assertThat(backend.kernels().support(TransposeQuantizeSpec.of(1, 12)))
                .isEqualTo(new Support.Unsupported(
                        List.of(new Support.Reason("transpose_quantize: cols", "12", "a multiple of 8"))));
    }
}
