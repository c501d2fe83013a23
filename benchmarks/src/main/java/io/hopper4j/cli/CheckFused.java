package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.FusedQuantization;
import io.hopper4j.reference.RmsNorm;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What {@code check} can judge of passes that are fused with quantisation. */
final class CheckFused {
    private static final int BLOCK = 128;

    private static final List<String> OUTPUTS =
            List.of("values       [rows, cols] F8_E4M3", "scales       [rows, ceil(cols/128)] F32");

    private static final String SCALE_KIND = "scale_kind   f32 (if not given) or power_of_two";

    private CheckFused() {}

    static List<CheckOperation> all() {
        return List.of(new Swiglu(), new Norm(), new Transpose());
    }

    /** Quantised rows against the numbers that they stand for, by the bounds of {@link QuantizeTolerance}. */
    private static final class QuantizedErrors {
        private final CheckMeasure ofValues = new CheckMeasure("values");
        private final CheckMeasure ofScales = new CheckMeasure("scales");
        private final ScaleKind kind;
        private final HostTensor values;
        private final HostTensor scales;

        QuantizedErrors(final ScaleKind kind, final CheckTensors theirs, final long rows, final long cols)
                throws IOException {
            this.kind = kind;
            this.values = theirs.tensor("values", new long[] {rows, cols}, DType.F8_E4M3);
            this.scales = theirs.tensor(
                    "scales", Scaling.ACTIVATION_1X128.scaleShape(rows, cols).toArray(), DType.F32);
        }

        void add(final long row, final double... exact) {
            final float[] got = values.select(0, row).toFloats();
            for (int first = 0; first < exact.length; first += BLOCK) {
                final int last = Math.min(first + BLOCK, exact.length);
                final float scale = scales.getFloat(row, first / BLOCK);
                final QuantizeTolerance whole = new QuantizeTolerance(kind);
                whole.add(Arrays.copyOfRange(got, first, last), scale, Arrays.copyOfRange(exact, first, last));
                double amax = 0;
                for (int c = first; c < last; c++) {
                    amax = Math.max(amax, Math.abs(exact[c]));
                    final QuantizeTolerance one = new QuantizeTolerance(kind);
                    one.add(new float[] {got[c]}, scale, new double[] {exact[c]});
                    ofValues.addRatio(got[c], exact[c] / scale, one.worstValueRatio(), row, c);
                }
                ofScales.addRatio(scale, amax / 448, whole.worstScaleRatio(), row, first / BLOCK);
            }
        }
    }

    private static final class Swiglu implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("swiglu_quantize");
        }

        @Override
        public String meaning() {
            return "silu(gate) * up (* weight) in blocks of 1 x 128, within the bounds of QuantizeTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "x            [rows, 2 cols] BF16: gate, then up",
                    "weights      [rows] F32; may be missing: 1",
                    SCALE_KIND);
        }

        @Override
        public List<String> outputs() {
            return OUTPUTS;
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor x = inputs.tensor("x", 2, DType.BF16);
            final long rows = x.shape().size(0);
            final @Nullable HostTensor weights = inputs.optional("weights", 1, DType.F32) == null
                    ? null
                    : inputs.tensor("weights", new long[] {rows}, DType.F32);
            final QuantizedErrors errors = new QuantizedErrors(
                    CheckOperations.scaleKind(inputs), theirs, rows, x.shape().size(1) / 2);
            for (long r = 0; r < rows; r++) {
                errors.add(
                        r,
                        FusedQuantization.swiglu(x.select(0, r).toFloats(), weights == null ? 1 : weights.getFloat(r)));
            }
            return new Judgement(List.of(errors.ofValues, errors.ofScales), List.of());
        }
    }

    private static final class Norm implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("rmsnorm_quantize");
        }

        @Override
        public String meaning() {
            return "RMSNorm of x (+ residual) in blocks of 1 x 128, within the bounds of QuantizeTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "x            [rows, cols] BF16",
                    "residual     [rows, cols] BF16, before it is added to; may be missing",
                    "weight       [cols] BF16 or F32",
                    "eps          " + RmsNormQuantizeSpec.DEEPSEEK_V3_EPS + " if not given",
                    SCALE_KIND);
        }

        @Override
        public List<String> outputs() {
            return OUTPUTS;
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor x = inputs.tensor("x", 2, DType.BF16);
            final long[] shape = x.shape().toArray();
            final @Nullable HostTensor residual = inputs.optional("residual", 2, DType.BF16) == null
                    ? null
                    : inputs.tensor("residual", shape, DType.BF16);
            final float[] weight = inputs.tensor("weight", new long[] {shape[1]}, DType.BF16, DType.F32)
                    .toFloats();
            final float eps = inputs.number("eps", RmsNormQuantizeSpec.DEEPSEEK_V3_EPS);
            final QuantizedErrors errors =
                    new QuantizedErrors(CheckOperations.scaleKind(inputs), theirs, shape[0], shape[1]);
            try (Arena arena = Arena.ofConfined()) {
                final HostTensor sum = HostTensor.allocate(arena, DType.BF16, shape[1]);
                for (long r = 0; r < shape[0]; r++) {
                    final float[] in = x.select(0, r).toFloats();
                    if (residual != null) {
                        final float[] more = residual.select(0, r).toFloats();
                        for (int c = 0; c < in.length; c++) {
                            in[c] += more[c];
                        }
                    }
                    sum.setFloats(in); // what is normalised has been rounded to BF16
                    errors.add(r, RmsNorm.normalize(sum.toFloats(), weight, eps));
                }
            }
            return new Judgement(List.of(errors.ofValues, errors.ofScales), List.of());
        }
    }

    private static final class Transpose implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("transpose_quantize");
        }

        @Override
        public String meaning() {
            return "the transpose of a matrix in blocks of 1 x 128, bit for bit";
        }

        @Override
        public List<String> inputs() {
            return List.of("x            [cols, rows] BF16", SCALE_KIND);
        }

        @Override
        public List<String> outputs() {
            return OUTPUTS;
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor x = inputs.tensor("x", 2, DType.BF16);
            final long rows = x.shape().size(1);
            final long cols = x.shape().size(0);
            final QuantizedErrors got = new QuantizedErrors(CheckOperations.scaleKind(inputs), theirs, rows, cols);
            try (Arena arena = Arena.ofShared()) {
                final Scaled<HostTensor> exact = HostData.quantized(arena, Scaling.ACTIVATION_1X128, rows, cols);
                FusedQuantization.transposeQuantize(x, exact, got.kind);
                got.ofValues.addEqual(got.values, exact.values());
                got.ofScales.addEqual(got.scales, exact.scales());
            }
            return new Judgement(List.of(got.ofValues, got.ofScales), List.of());
        }
    }
}
