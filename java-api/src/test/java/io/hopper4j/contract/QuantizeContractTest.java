package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Quantisation and dequantisation, both defined bit for bit. */
abstract class QuantizeContractTest<T extends Tensor> {
    /** Printed with every failure, as part of the case's name. */
    private static final long SEED = 20261124;

    private final Backend<T> backend;

    QuantizeContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    record Case(DType dtype, Scaling.Block scaling, ScaleKind kind, int rows, int cols, int padding, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        for (final DType dtype : List.of(DType.F32, DType.F16, DType.BF16)) {
            for (final Scaling.Block scaling : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
                for (final ScaleKind kind : ScaleKind.values()) {
                    for (final int[] shape :
                            new int[][] {{0, 128}, {1, 8}, {3, 120}, {65, 128}, {129, 272}, {2, 7168}}) {
                        cases.add(new Case(dtype, scaling, kind, shape[0], shape[1], 0, random.nextLong()));
                    }
                    cases.add(new Case(dtype, scaling, kind, 5, 144, 16, random.nextLong()));
                }
            }
        }
        for (int i = 0; i < 12; i++) {
            cases.add(new Case(
                    List.of(DType.F32, DType.F16, DType.BF16).get(random.nextInt(3)),
                    random.nextBoolean() ? Scaling.ACTIVATION_1X128 : Scaling.WEIGHT_128X128,
                    random.nextBoolean() ? ScaleKind.F32 : ScaleKind.POWER_OF_TWO,
                    random.nextInt(1, 200),
                    8 * random.nextInt(1, 80),
                    16 * random.nextInt(3),
                    random.nextLong()));
        }
        return cases.stream();
    }

    /** Rows of the output start at multiples of 16, whatever the columns. */
    private static long packedStride(final long cols) {
        return Math.ceilDiv(cols, 16) * 16;
    }

    private T view(final DType dtype, final long rows, final long cols, final long ld) {
        return backend.slice(backend.filled(TensorSpec.packed(dtype, rows, ld), 3), 1, 0, cols);
    }

    private Scaled<T> output(final Scaling scaling, final long rows, final long cols, final long padding) {
        return new Scaled<>(
                view(DType.F8_E4M3, rows, cols, packedStride(cols) + padding),
                backend.allocate(Backend.scaleSpec(scaling, rows, cols)),
                scaling);
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldQuantizeBitForBit(final Case c) {
        final TensorSpec padded = TensorSpec.packed(c.dtype, c.rows, c.cols + c.padding);
        final HostTensor in = Data.gaussian(backend.host, padded, c.seed).slice(1, 0, c.cols);
        final Scaled<HostTensor> expected = Expected.quantize(in, c.scaling, c.kind, backend.host);
        final Scaled<T> out = output(c.scaling, c.rows, c.cols, c.padding);

        backend.kernels().quantize(backend.slice(backend.put(in), 1, 0, c.cols), c.kind, out, backend.stream());

        assertSame(backend.get(out), expected);
    }

    private static void assertSame(final Scaled<HostTensor> got, final Scaled<HostTensor> expected) {
        assertThat(Expected.bits(got.scales())).as("scales").isEqualTo(Expected.bits(expected.scales()));
        assertThat(Expected.bits(got.values())).as("values").isEqualTo(Expected.bits(expected.values()));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldDequantizeBitForBit(final Case c) {
        final Scaled<HostTensor> in = Data.quantized(backend.host, c.scaling, c.rows, packedStride(c.cols), c.seed);
        final Scaled<HostTensor> cut = new Scaled<>(in.values().slice(1, 0, c.cols), in.scales(), c.scaling);
        final HostTensor expected = Expected.dequantize(cut, c.dtype, backend.host);
        final T out = view(c.dtype, c.rows, c.cols, c.cols + c.padding);
        final Scaled<T> source = new Scaled<>(
                backend.slice(backend.put(in.values()), 1, 0, c.cols), backend.put(in.scales()), c.scaling);

        backend.kernels().dequantize(source, out, backend.stream());

        assertThat(Expected.bits(backend.get(out))).isEqualTo(Expected.bits(expected));
    }

    @Test
    void shouldSaturateAndKeepSpecialValues() {
        final float[] row = new float[128];
        row[0] = 448;
        row[1] = -449;
        row[2] = Float.NaN;
        row[3] = -0f;
        row[4] = Float.MIN_VALUE;
        row[5] = 1e-30f;
        final HostTensor in = backend.hostTensor(TensorSpec.packed(DType.F32, 1, 128), row);
        final Scaled<T> out = output(Scaling.ACTIVATION_1X128, 1, 128, 0);

        backend.kernels().quantize(backend.put(in), ScaleKind.POWER_OF_TWO, out, backend.stream());

        final Scaled<HostTensor> got = backend.get(out);
        assertThat(got.scales().getFloat(0, 0)).isEqualTo(2f);
        assertThat(got.values().toFloats()).startsWith(224f, -224f, Float.NaN, -0f, 0f, 0f);
        assertSame(got, Expected.quantize(in, Scaling.ACTIVATION_1X128, ScaleKind.POWER_OF_TWO, backend.host));
    }

    @Test
    void shouldScaleARowOfZerosBySmallestAmax() {
        final T in = backend.filled(TensorSpec.packed(DType.BF16, 1, 128), 0);
        final Scaled<T> out = output(Scaling.ACTIVATION_1X128, 1, 128, 0);

        backend.kernels().quantize(in, ScaleKind.F32, out, backend.stream());

        final Scaled<HostTensor> got = backend.get(out);
        assertThat(got.scales().getFloat(0, 0)).isEqualTo(1e-4f * (1 / 448f));
        assertThat(got.values().toFloats()).containsOnly(0f);
    }

    @Test
    void shouldNotUseElementsBeyondTheEdge() {
        // 8 columns in rows of 16: what lies in the gap is huge and must not count.
        final float[] elements = new float[32];
        for (int i = 0; i < elements.length; i++) {
            elements[i] = i % 16 < 8 ? 1 : 1e30f;
        }
        final HostTensor in = backend.hostTensor(TensorSpec.packed(DType.F32, 2, 16), elements);
        final Scaled<T> out = output(Scaling.WEIGHT_128X128, 2, 8, 0);

        backend.kernels().quantize(backend.slice(backend.put(in), 1, 0, 8), ScaleKind.F32, out, backend.stream());

        assertThat(backend.get(out).scales().getFloat(0, 0)).isEqualTo(1 / 448f);
    }

    @Test
    void shouldLaunchFewerRowsTwiceAndRebind() {
        final int rows = 70;
        final int cols = 256;
        final TensorSpec spec = TensorSpec.packed(DType.BF16, rows, cols);
        final HostTensor first = Data.gaussian(backend.host, spec, 1);
        final HostTensor second = Data.gaussian(backend.host, spec, 2);
        final Scaled<T> out = new Scaled<>(
                backend.filled(TensorSpec.packed(DType.F8_E4M3, rows, cols), 3),
                backend.filled(Scaled.activationScaleSpec(rows, cols), 7),
                Scaling.ACTIVATION_1X128);
        try (QuantizePlan<T> plan =
                        backend.kernels().plan(QuantizeSpec.of(rows, cols, DType.BF16, Scaling.ACTIVATION_1X128));
                QuantizeLaunch<T> launch = plan.bind(backend.put(first), out)) {
            launch.launch(backend.stream(), 0);
            launch.launch(backend.stream(), 33);
            final Scaled<HostTensor> some = backend.get(out);
            final Scaled<HostTensor> expected =
                    Expected.quantize(first, Scaling.ACTIVATION_1X128, ScaleKind.F32, backend.host);
            assertThat(Expected.bits(some.values().slice(0, 0, 33)))
                    .isEqualTo(Expected.bits(expected.values().slice(0, 0, 33)));
            assertThat(some.values().slice(0, 33, rows).toFloats())
                    .as("rows not in use")
                    .containsOnly(3f);
            assertThat(some.scales().slice(0, 33, rows).toFloats())
                    .as("rows not in use")
                    .containsOnly(7f);

            launch.launch(backend.stream());
            launch.launch(backend.stream());
            assertSame(backend.get(out), expected);

            launch.rebind(backend.put(second), out);
            launch.launch(backend.stream());
            assertSame(
                    backend.get(out), Expected.quantize(second, Scaling.ACTIVATION_1X128, ScaleKind.F32, backend.host));
        }
    }

    @Test
    void shouldLaunchFewerRowsOfDequantize() {
        final Scaled<HostTensor> in = Data.quantized(backend.host, Scaling.WEIGHT_128X128, 130, 128, 3);
        final T out = backend.filled(TensorSpec.packed(DType.F16, 130, 128), 5);
        try (DequantizePlan<T> plan =
                        backend.kernels().plan(DequantizeSpec.of(130, 128, Scaling.WEIGHT_128X128, DType.F16));
                DequantizeLaunch<T> launch = plan.bind(backend.put(in), out)) {
            launch.launch(backend.stream(), 129);
            final HostTensor got = backend.get(out);
            assertThat(Expected.bits(got.slice(0, 0, 129)))
                    .isEqualTo(Expected.bits(
                            Expected.dequantize(in, DType.F16, backend.host).slice(0, 0, 129)));
            assertThat(got.slice(0, 129, 130).toFloats()).containsOnly(5f);
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final Scaled<T> out = output(Scaling.ACTIVATION_1X128, 4, 128, 0);
        try (QuantizePlan<T> plan =
                backend.kernels().plan(QuantizeSpec.of(4, 128, DType.BF16, Scaling.ACTIVATION_1X128))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(backend.allocate(TensorSpec.packed(DType.F16, 4, 128)), out))
                    .withMessage("quantize: in: got dtype F16, need BF16");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(backend.allocate(TensorSpec.packed(DType.BF16, 5, 128)), out))
                    .withMessage("quantize: in: got shape [5,128], need [4,128]");
            final T in = backend.allocate(TensorSpec.packed(DType.BF16, 4, 128));
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(in, output(Scaling.WEIGHT_128X128, 4, 128, 0)))
                    .withMessage("quantize: out.scaling: got 128x128, need 1x128");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(in, Scaled.activation(view(DType.F8_E4M3, 4, 128, 136), out.scales())))
                    .withMessage(
                            "quantize: out.values: got strides [136,1], need [ld,1] with ld at least 128, a multiple of 16");
            // The next correct call works.
            plan.bind(in, out).close();
        }
    }

    @Test
    void shouldSayWhatIsUnsupported() {
        final QuantizeSpec spec = QuantizeSpec.of(1, 12, DType.I32, new Scaling.Block(64, 64));
        assertThat(backend.kernels().support(spec))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("quantize: in", "dtype I32", "F32, F16 or BF16"),
                        new Support.Reason("quantize: cols", "12", "a multiple of 8"),
                        new Support.Reason("quantize: scaling", "64x64", "1x128 or 128x128"))));
        assertThatExceptionOfType(UnsupportedKernelException.class)
                .isThrownBy(
                        () -> backend.kernels().plan(DequantizeSpec.of(1, 12, Scaling.ACTIVATION_1X128, DType.BF16)))
                .withMessage("dequantize: cols: got 12, need a multiple of 8");
    }
}
