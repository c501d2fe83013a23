package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Shape;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.ExpertLayer;
import io.hopper4j.moe.ExpertLayerOperands;
import io.hopper4j.moe.ExpertLayerSpec;
import io.hopper4j.quant.ScaleKind;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.function.DoubleSupplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The expert layer against loops with double accumulators, quantised and rounded where {@link ExpertLayerSpec} says so. */
abstract class ExpertLayerContractTest<T extends Tensor> {
    private static final long SEED = 20261128;
    private static final int HIDDEN = 272;
    private static final int INTERMEDIATE = 144;
    private static final int EXPERTS = 5;
    private static final int TOP_K = 3;
    private static final int TOKENS = 37;

    /**
     * Relative squared error. Rounding the result to BF16 costs 2.8e-6 on the average of thousands of values. A tensor core's sum in the down projection, off by up to 2^-13, makes of some rows' values the
     * neighbours in BF16: an error of 2^-13 becomes a step, 2^-7 at most, in one value of 2^6, which adds 2^-20 = 1e-6 at most.
     *
     * <p>The projection to gate and up is exact, see {@link #x}. Were it not, such neighbours would go through SwiGLU to another E4M3 code, up to 2^-3 away, or change the scale of a block: errors of 4e-6 to 4e-5, as the data
     * fall, and a bound so wide would hide faults.
     */
    private static final double BOUND = 5e-6;

    private final Backend<T> backend;
    private final SplittableRandom random = new SplittableRandom(SEED);

    /**
     * Integers to 14, and a 14 in each block: they are quantised exactly, to multiples of 32, with a scale of 2^-5. The first weights are integers to 8 with powers of two as scales, so sums stay below 2^13 units, which
     * every way of summing has exactly.
     */
    private final HostTensor x;

    private final HostTensor residual;
    private final HostTensor weights;
    private final float[] ids = new float[TOKENS * TOP_K];
    private final Scaled<HostTensor> gateUp;
    private final Scaled<HostTensor> down;

    ExpertLayerContractTest(final Backend<T> backend) {
        this.backend = backend;
        final float[] integers = new float[TOKENS * HIDDEN];
        for (int i = 0; i < integers.length; i++) {
            integers[i] = i % HIDDEN % 128 == 0 ? 14 : random.nextInt(-14, 15);
        }
        x = backend.hostTensor(TensorSpec.packed(DType.BF16, TOKENS, HIDDEN), integers);
        residual = Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, TOKENS, HIDDEN), random.nextLong());
        weights = backend.hostTensor(TensorSpec.packed(DType.F32, TOKENS, TOP_K), new float[TOKENS * TOP_K]);
        for (int i = 0; i < ids.length; i++) {
            ids[i] = random.nextInt(6) == 0 ? -1 : random.nextInt(EXPERTS - 1); // the last expert has no tokens
            weights.setFloat((float) random.nextDouble(), i / TOP_K, i % TOP_K);
        }
        gateUp = stack(
                2 * INTERMEDIATE, HIDDEN, () -> random.nextInt(-8, 9), () -> random.nextBoolean() ? 0x1p-9 : 0x1p-10);
        down = stack(
                HIDDEN, INTERMEDIATE, () -> 100 * random.nextGaussian(), () -> random.nextDouble(0x1p-12, 0x1p-10));
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** A matrix of weights for each expert. */
    private Scaled<HostTensor> stack(
            final int rows, final int cols, final DoubleSupplier value, final DoubleSupplier scale) {
        final HostTensor values = HostTensor.allocate(backend.host, DType.F8_E4M3, EXPERTS, rows, cols);
        final Shape blocks = Scaling.WEIGHT_128X128.scaleShape(rows, cols);
        final HostTensor scales = HostTensor.allocate(backend.host, DType.F32, EXPERTS, blocks.size(0), blocks.size(1));
        final float[] v = new float[Math.toIntExact(values.spec().elements())];
        for (int i = 0; i < v.length; i++) {
            v[i] = (float) value.getAsDouble();
        }
        values.setFloats(v);
        final float[] s = new float[Math.toIntExact(scales.spec().elements())];
        for (int i = 0; i < s.length; i++) {
            s[i] = (float) scale.getAsDouble();
        }
        scales.setFloats(s);
        return new Scaled<>(values, scales, Scaling.WEIGHT_128X128);
    }

    private ExpertLayerOperands<T> operands(final boolean withResidual) {
        return new ExpertLayerOperands<>(
                backend.put(x),
                backend.put(backend.hostTensor(TensorSpec.packed(DType.I32, TOKENS, TOP_K), ids)),
                backend.put(weights),
                backend.put(gateUp),
                backend.put(down),
                withResidual ? backend.put(residual) : null,
                backend.filled(TensorSpec.packed(DType.BF16, TOKENS, HIDDEN), 7));
    }

    /** {@code sum over c of matrix[row, c] * in[c]}, all dequantised, rounded to BF16. */
    private float[] project(final Scaled<HostTensor> matrix, final int expert, final double[] in, final int rows) {
        final float[] values = matrix.values().select(0, expert).toFloats();
        final HostTensor scales = matrix.scales().select(0, expert);
        final HostTensor out = HostTensor.allocate(backend.host, DType.BF16, rows);
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int c = 0; c < in.length; c++) {
                sum += values[r * in.length + c] * (double) scales.getFloat(r / 128, c / 128) * in[c];
            }
            out.setFloat((float) sum, r);
        }
        return out.toFloats();
    }

    private double[] quantized(final float[] row, final ScaleKind kind) {
        final HostTensor in = backend.hostTensor(TensorSpec.packed(DType.F32, 1, row.length), row);
        final Scaled<HostTensor> q = Expected.quantize(in, Scaling.ACTIVATION_1X128, kind, backend.host);
        final double[] values = new double[row.length];
        for (int c = 0; c < row.length; c++) {
            values[c] = q.values().getFloat(0, c) * (double) q.scales().getFloat(0, c / 128);
        }
        return values;
    }

    private double[] expected(final int token, final ScaleKind kind, final boolean withResidual) {
        final double[] sum = new double[HIDDEN];
        final double[] in = quantized(x.select(0, token).toFloats(), kind);
        for (int j = 0; j < TOP_K; j++) {
            final int expert = (int) ids[token * TOP_K + j];
            if (expert < 0) {
                continue;
            }
            final float[] projected = project(gateUp, expert, in, 2 * INTERMEDIATE);
            final float[] activated = new float[INTERMEDIATE];
            for (int c = 0; c < INTERMEDIATE; c++) {
                final double gate = projected[c];
                activated[c] = (float) (gate / (1 + Math.exp(-gate)) * projected[INTERMEDIATE + c]);
            }
            final float[] row = project(down, expert, quantized(activated, kind), HIDDEN);
            for (int c = 0; c < HIDDEN; c++) {
                sum[c] += weights.getFloat(token, j) * (double) row[c];
            }
        }
        for (int c = 0; c < HIDDEN && withResidual; c++) {
            sum[c] += residual.getFloat(token, c);
        }
        return sum;
    }

    private void assertClose(final HostTensor out, final int tokens, final ScaleKind kind, final boolean withResidual) {
        double error = 0;
        double size = 0;
        for (int t = 0; t < tokens; t++) {
            final double[] wanted = expected(t, kind, withResidual);
            final float[] got = out.select(0, t).toFloats();
            for (int c = 0; c < HIDDEN; c++) {
                error += (got[c] - wanted[c]) * (got[c] - wanted[c]);
                size += wanted[c] * wanted[c];
            }
        }
        assertThat(error / size).as("relative squared error").isLessThan(BOUND);
    }

    @Test
    void shouldComputeWhatTheLoopsDo() {
        for (final ScaleKind kind : ScaleKind.values()) {
            for (final boolean withResidual : new boolean[] {false, true}) {
                final ExpertLayerSpec spec = ExpertLayerSpec.of(TOKENS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K)
                        .withScaleKind(kind)
                        .withResidual(withResidual);
                final ExpertLayerOperands<T> operands = operands(withResidual);
                try (ExpertLayer<T> layer = ExpertLayer.open(backend.kernels(), spec, operands, backend::allocate)) {
                    layer.launch(backend.stream());
                    backend.stream().synchronize();
                    assertClose(backend.get(operands.out()), TOKENS, kind, withResidual);
                }
            }
        }
    }

    @Test
    void shouldRunFewerTokensInACapturedGraph() {
        final ExpertLayerSpec spec = ExpertLayerSpec.of(TOKENS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K);
        final ExpertLayerOperands<T> operands = operands(false);
        try (ExpertLayer<T> layer = ExpertLayer.open(backend.kernels(), spec, operands, backend::allocate);
                Graph graph = backend.stream().capture(on -> layer.launch(on, 20))) {
            graph.launch(backend.stream());
            final HostTensor first = backend.get(operands.out());
            graph.launch(backend.stream());
            final HostTensor second = backend.get(operands.out());
            assertClose(first, 20, ScaleKind.F32, false);
            assertThat(Arrays.equals(Expected.bits(first), Expected.bits(second)))
                    .as("the same bits")
                    .isTrue();
            assertThat(first.slice(0, 20, TOKENS).toFloats()).containsOnly(7);
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFitAndLeaveNothingOpen() {
        final ExpertLayerSpec spec =
                ExpertLayerSpec.of(TOKENS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K).withResidual(true);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> ExpertLayer.open(backend.kernels(), spec, operands(false), backend::allocate))
                .withMessage("moe_unpermute: residual: got null, need a tensor, as the spec has one");
        // Kernels with open plans would refuse to close.
    }
}
