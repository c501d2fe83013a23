package io.hopper4j.cli;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.quant.QuantizeTolerance;
import java.util.Arrays;

/** Comparison of quantised rows with the numbers that they stand for. */
final class QuantizedRows {
    private static final int BLOCK = 128;

    private QuantizedRows() {}

    /** Adds a row to a measure, block by block. */
    static void add(
            final QuantizeTolerance tolerance, final Scaled<HostTensor> out, final long row, final double... exact) {
        final double[] slack = new double[exact.length];
        Arrays.setAll(slack, i -> QuantizeTolerance.SLACK * Math.abs(exact[i]));
        add(tolerance, out, row, exact, slack);
    }

    /** The same of numbers that may themselves be off by so much. */
    static void add(
            final QuantizeTolerance tolerance,
            final Scaled<HostTensor> out,
            final long row,
            final double[] exact,
            final double[] slack) {
        final float[] values = out.values().select(0, row).toFloats();
        for (int first = 0; first < exact.length; first += BLOCK) {
            final int last = Math.min(first + BLOCK, exact.length);
            tolerance.add(
                    Arrays.copyOfRange(values, first, last),
                    out.scales().getFloat(row, first / BLOCK),
                    Arrays.copyOfRange(exact, first, last),
                    Arrays.copyOfRange(slack, first, last));
        }
    }
}
