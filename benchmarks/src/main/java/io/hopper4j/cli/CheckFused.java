package io.hopper4j.cli;

import static io.hopper4j.cli.CheckQuantized.SCALE_KIND;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.FusedQuantization;
import io.hopper4j.reference.RmsNorm;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What {@code check} can judge of passes that are fused with quantisation. */
final class CheckFused {
    private static final List<String> NAMES = List.of("values", "scales");
    private static final List<String> OUTPUTS =
            List.of("values       [rows, cols] F8_E4M3", "scales       [rows, ceil(cols/128)] F32");

    private CheckFused() {}

    static List<CheckOperation> all() {
        return List.of(
                new CheckOperation(
                        List.of("swiglu_quantize"),
                        "silu(gate) * up (* weight) in blocks of 1 x 128, within the bounds of QuantizeTolerance",
                        List.of(
                                "x            [rows, 2 cols] BF16: gate, then up",
                                "weights      [rows] F32; may be missing: 1",
                                SCALE_KIND),
                        OUTPUTS,
                        CheckFused::swiglu),
                new CheckOperation(
                        List.of("rmsnorm_quantize"),
                        "RMSNorm of x (+ residual) in blocks of 1 x 128, within the bounds of QuantizeTolerance",
                        List.of(
                                "x            [rows, cols] BF16",
                                "residual     [rows, cols] BF16, before it is added to; may be missing",
                                "weight       [cols] BF16 or F32",
                                "eps          " + RmsNormQuantizeSpec.DEEPSEEK_V3_EPS + " if not given",
                                SCALE_KIND),
                        OUTPUTS,
                        CheckFused::norm),
                new CheckOperation(
                        List.of("transpose_quantize"),
                        "the transpose of a matrix in blocks of 1 x 128, bit for bit",
                        List.of("x            [cols, rows] BF16", SCALE_KIND),
                        OUTPUTS,
                        CheckFused::transpose));
    }

    private static Judgement swiglu(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor x = inputs.tensor("x", 2, DType.BF16);
        final long rows = x.shape().size(0);
        final @Nullable HostTensor weights = inputs.optional("weights", new long[] {rows}, DType.F32);
        final CheckQuantized errors = new CheckQuantized(
                CheckQuantized.scaleKind(inputs), theirs, NAMES, rows, x.shape().size(1) / 2);
        for (long r = 0; r < rows; r++) {
            errors.add(
                    r, FusedQuantization.swiglu(x.select(0, r).toFloats(), weights == null ? 1 : weights.getFloat(r)));
        }
        return errors.judgement();
    }

    private static Judgement norm(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor x = inputs.tensor("x", 2, DType.BF16);
        final long[] shape = x.shape().toArray();
        final @Nullable HostTensor residual = inputs.optional("residual", shape, DType.BF16);
        final float[] weight = inputs.tensor("weight", new long[] {shape[1]}, DType.BF16, DType.F32)
                .toFloats();
        final float eps = inputs.number("eps", RmsNormQuantizeSpec.DEEPSEEK_V3_EPS);
        final CheckQuantized errors =
                new CheckQuantized(CheckQuantized.scaleKind(inputs), theirs, NAMES, shape[0], shape[1]);
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
        return errors.judgement();
    }

    private static Judgement transpose(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor x = inputs.tensor("x", 2, DType.BF16);
        final long rows = x.shape().size(1);
        final long cols = x.shape().size(0);
        final ScaleKind kind = CheckQuantized.scaleKind(inputs);
        final CheckQuantized got = new CheckQuantized(kind, theirs, NAMES, rows, cols);
        try (Arena arena = Arena.ofShared()) {
            final Scaled<HostTensor> exact = HostData.quantized(arena, Scaling.ACTIVATION_1X128, rows, cols);
            FusedQuantization.transposeQuantize(x, exact, kind);
            got.addEqual(exact.values(), exact.scales());
        }
        return got.judgement();
    }
}
