package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/** What {@code check} can judge. */
final class CheckOperations {
    private CheckOperations() {}

    /** {@return all operations} */
    static List<CheckOperation> all() {
        return Stream.of(
                        List.of(
                                new CheckOperation(
                                        List.of("quantize"),
                                        "E4M3 values and F32 scales of a matrix, bit for bit",
                                        List.of(
                                                "x            [rows, cols] F32, F16 or BF16",
                                                "scale_kind   f32 (if not given) or power_of_two"),
                                        List.of(
                                                "values       [rows, cols] F8_E4M3",
                                                "scales       F32 [rows, ceil(cols/128)] for blocks of 1 x 128, [ceil(rows/128), ceil(cols/128)] for 128 x 128"),
                                        CheckOperations::quantize),
                                new CheckOperation(
                                        List.of("dequantize"),
                                        "float(value) * scale of a quantised matrix, bit for bit",
                                        List.of(
                                                "values       [rows, cols] F8_E4M3",
                                                "scales       F32 [rows, ceil(cols/128)] for blocks of 1 x 128, [ceil(rows/128), ceil(cols/128)] for 128 x 128"),
                                        List.of("out          [rows, cols] F32, F16 or BF16"),
                                        CheckOperations::dequantize)),
                        CheckFused.all(),
                        CheckProducts.all(),
                        CheckAttention.all(),
                        CheckRouting.all(),
                        CheckExchange.all())
                .flatMap(List::stream)
                .toList();
    }

    /** {@return the operation of a name} */
    static Optional<CheckOperation> find(final String name) {
        return all().stream()
                .filter(operation -> operation.names().contains(name))
                .findFirst();
    }

    /** The blocks that a matrix with scales of this shape has. */
    private static Scaling.Block blocks(
            final CheckTensors file, final String name, final HostTensor scales, final long rows, final long cols) {
        for (final Scaling.Block block : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
            if (scales.shape().equals(block.scaleShape(rows, cols))) {
                return block;
            }
        }
        throw file.misfit(
                name,
                "shape " + scales.shape(),
                Scaling.ACTIVATION_1X128.scaleShape(rows, cols) + " for blocks of 1 x 128 or "
                        + Scaling.WEIGHT_128X128.scaleShape(rows, cols) + " for blocks of 128 x 128");
    }

    private static Judgement quantize(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor x = inputs.tensor("x", 2, DType.F32, DType.F16, DType.BF16);
        final long rows = x.shape().size(0);
        final long cols = x.shape().size(1);
        final HostTensor values = theirs.tensor("values", new long[] {rows, cols}, DType.F8_E4M3);
        final HostTensor scales = theirs.tensor("scales", 2, DType.F32);
        final ScaleKind kind = CheckQuantized.scaleKind(inputs);
        try (Arena arena = Arena.ofShared()) {
            final Scaled<HostTensor> exact =
                    HostData.quantized(arena, blocks(theirs, "scales", scales, rows, cols), rows, cols);
            BlockQuantization.quantize(x, exact, kind);
            final CheckMeasure ofValues = new CheckMeasure("values");
            ofValues.addEqual(values, exact.values());
            final CheckMeasure ofScales = new CheckMeasure("scales");
            ofScales.addEqual(scales, exact.scales());
            return Judgement.of(ofValues, ofScales);
        }
    }

    private static Judgement dequantize(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor values = inputs.tensor("values", 2, DType.F8_E4M3);
        final long[] shape = values.shape().toArray();
        final HostTensor scales = inputs.tensor("scales", 2, DType.F32);
        final HostTensor out = theirs.tensor("out", shape, DType.F32, DType.F16, DType.BF16);
        try (Arena arena = Arena.ofShared()) {
            final HostTensor exact = HostTensor.allocate(arena, out.spec());
            final Scaling.Block blocks = blocks(inputs, "scales", scales, shape[0], shape[1]);
            BlockQuantization.dequantize(new Scaled<>(values, scales, blocks), exact);
            final CheckMeasure measure = new CheckMeasure("out");
            measure.addEqual(out, exact);
            return Judgement.of(measure);
        }
    }
}
