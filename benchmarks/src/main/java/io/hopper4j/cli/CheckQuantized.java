package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import java.io.IOException;
import java.util.Arrays;
import java.util.List;

/** The errors of rows quantised in blocks of 1 x 128 against the numbers that they stand for, by the bounds of {@link QuantizeTolerance}. */
final class CheckQuantized {
    private static final int BLOCK = 128;

    static final String SCALE_KIND = "scale_kind   f32 (if not given) or power_of_two";

    private final CheckMeasure ofValues;
    private final CheckMeasure ofScales;
    private final ScaleKind kind;
    private final HostTensor values;
    private final HostTensor scales;

    /** @param names of the two tensors */
    CheckQuantized(
            final ScaleKind kind, final CheckTensors theirs, final List<String> names, final long rows, final long cols)
            throws IOException {
        this.kind = kind;
        this.values = theirs.tensor(names.getFirst(), new long[] {rows, cols}, DType.F8_E4M3);
        this.scales = theirs.tensor(
                names.getLast(), Scaling.ACTIVATION_1X128.scaleShape(rows, cols).toArray(), DType.F32);
        this.ofValues = new CheckMeasure(names.getFirst());
        this.ofScales = new CheckMeasure(names.getLast());
    }

    static ScaleKind scaleKind(final CheckTensors inputs) {
        return switch (inputs.attribute("scale_kind").orElse("f32")) {
            case "f32" -> ScaleKind.F32;
            case "power_of_two" -> ScaleKind.POWER_OF_TWO;
            default -> throw new CheckTensors.Misfit("scale_kind: need f32 or power_of_two");
        };
    }

    HostTensor values() {
        return values;
    }

    HostTensor scales() {
        return scales;
    }

    /** Adds a row of numbers that F32 holds within a few units. */
    void add(final long row, final double... exact) {
        final double[] slack = new double[exact.length];
        Arrays.setAll(slack, i -> QuantizeTolerance.SLACK * Math.abs(exact[i]));
        add(row, exact, slack);
    }

    /** Adds a row of numbers that may themselves be off by so much. */
    void add(final long row, final double[] exact, final double[] slack) {
        final float[] got = values.select(0, row).toFloats();
        for (int first = 0; first < exact.length; first += BLOCK) {
            final int last = Math.min(first + BLOCK, exact.length);
            final float scale = scales.getFloat(row, first / BLOCK);
            final int block = first / BLOCK;
            addBlock(kind, ofValues, ofScales, first, got, scale, exact, slack, last, new long[] {row}, block);
        }
    }

    /** Adds the elements {@code first..last} of a row and their scale; {@code row} are the indices in front of theirs. */
    static void addBlock(
            final ScaleKind kind,
            final CheckMeasure ofValues,
            final CheckMeasure ofScales,
            final int first,
            final float[] got,
            final float scale,
            final double[] exact,
            final double[] slack,
            final int last,
            final long[] row,
            final long scaleIndex) {
        final QuantizeTolerance whole = new QuantizeTolerance(kind);
        whole.add(
                Arrays.copyOfRange(got, first, last),
                scale,
                Arrays.copyOfRange(exact, first, last),
                Arrays.copyOfRange(slack, first, last));
        double amax = 0;
        for (int c = first; c < last; c++) {
            amax = Math.max(amax, Math.abs(exact[c]));
            final QuantizeTolerance one = new QuantizeTolerance(kind);
            one.add(new float[] {got[c]}, scale, new double[] {exact[c]}, new double[] {slack[c]});
            ofValues.addRatio(got[c], exact[c] / scale, one.worstValueRatio(), with(row, c));
        }
        ofScales.addRatio(scale, amax / 448, whole.worstScaleRatio(), with(row, scaleIndex));
    }

    private static long[] with(final long[] row, final long last) {
        final long[] index = Arrays.copyOf(row, row.length + 1);
        index[row.length] = last;
        return index;
    }

    /** Compares all elements for equality. */
    void addEqual(final HostTensor exactValues, final HostTensor exactScales) {
        ofValues.addEqual(values, exactValues);
        ofScales.addEqual(scales, exactScales);
    }

    CheckOperation.Judgement judgement() {
        return CheckOperation.Judgement.of(ofValues, ofScales);
    }
}
