package io.hopper4j.cli;

import io.hopper4j.HostTensor;
import java.util.Arrays;

/** The errors of one tensor against its bounds, and where the worst is. */
final class CheckMeasure {
    private final String tensor;
    private long count;
    private double ratio;
    private double error;
    private double bound;
    private double got;
    private double expected;
    private long[] indices = {};

    CheckMeasure(final String tensor) {
        this.tensor = tensor;
    }

    /** Compares an element; a bound of 0 allows equal bits and NaN for NaN only. */
    void add(final double value, final double exact, final double allowed, final long... index) {
        final double off = Double.compare(value, exact) == 0 ? 0 : Math.abs(value - exact);
        record(value, exact, off, allowed, off == 0 ? 0 : off / allowed, index);
    }

    /** Adds an element whose error by its bound is known. */
    void addRatio(final double value, final double exact, final double part, final long... index) {
        final double off = Math.abs(value - exact);
        record(value, exact, off, part == 0 ? 1 : off / part, part, index);
    }

    private void record(
            final double value,
            final double exact,
            final double off,
            final double allowed,
            final double part,
            final long... index) {
        count++;
        if (count == 1 || !(part <= ratio)) {
            if (Double.isNaN(ratio)) {
                return; // the first NaN is the worst there is
            }
            ratio = part;
            error = off;
            bound = allowed;
            got = value;
            expected = exact;
            indices = index.clone();
        }
    }

    /** Compares all elements for equality. */
    void addEqual(final HostTensor values, final HostTensor exact) {
        final float[] got = values.toFloats();
        final float[] need = exact.toFloats();
        final long[] shape = values.shape().toArray();
        for (int i = 0; i < got.length; i++) {
            add(got[i], need[i], 0, unravel(i, shape));
        }
    }

    static long[] unravel(final long flat, final long... shape) {
        final long[] index = new long[shape.length];
        long rest = flat;
        for (int dim = shape.length - 1; dim >= 0; dim--) {
            index[dim] = rest % shape[dim];
            rest /= shape[dim];
        }
        return index;
    }

    boolean isWithin() {
        return ratio <= 1;
    }

    @Override
    public String toString() {
        if (count == 0) {
            return tensor + ": no elements";
        }
        return "%s: %d elements: worst error %.6g, %s, at %s: got %.9g, need %.9g"
                .formatted(
                        tensor,
                        count,
                        error,
                        bound == 0 ? "need equal" : "bound %.6g, error/bound %.3f".formatted(bound, ratio),
                        Arrays.toString(indices).replace(" ", ""),
                        got,
                        expected);
    }
}
