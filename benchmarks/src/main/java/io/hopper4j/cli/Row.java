package io.hopper4j.cli;

import java.util.List;

/**
 * One line of a verification.
 *
 * @param operation what was run, such as {@code gemm}
 * @param shape sizes and types, such as {@code m=64 n=576 k=7168 BF16}
 * @param kernel the kernel instance, {@code reference} for the Java reference, empty where nothing ran
 * @param measures the errors found, each with its bound
 * @param microseconds time of one run on the device, NaN where none was measured
 * @param verdict the outcome
 * @param note why it failed or was not run; empty otherwise
 */
record Row(
        String operation,
        String shape,
        String kernel,
        List<Measure> measures,
        double microseconds,
        Verdict verdict,
        String note) {
    /** What came out of a row. */
    enum Verdict {
        /** Everything within bounds. */
        OK,
        /** An error beyond its bound, or an exception. */
        FAIL,
        /** Nothing was run; the note says why. */
        NOT_RUN
    }

    /**
     * An error and what is allowed.
     *
     * @param name what was measured
     * @param value what was found
     * @param bound the largest allowed value
     */
    record Measure(String name, double value, double bound) {
        /** {@return whether the error is allowed; NaN never is} */
        boolean isWithin() {
            return value <= bound;
        }
    }

    Row {
        measures = List.copyOf(measures);
    }

    /** A row whose measures decide the verdict. */
    static Row measured(
            final String operation,
            final String shape,
            final String kernel,
            final double microseconds,
            final Measure... measures) {
        final List<Measure> all = List.of(measures);
        final Verdict verdict = all.stream().allMatch(Measure::isWithin) ? Verdict.OK : Verdict.FAIL;
        return new Row(operation, shape, kernel, all, microseconds, verdict, "");
    }

    static Row failed(final String operation, final String shape, final String why) {
        return new Row(operation, shape, "", List.of(), Double.NaN, Verdict.FAIL, why);
    }

    static Row notRun(final String operation, final String shape, final String why) {
        return new Row(operation, shape, "", List.of(), Double.NaN, Verdict.NOT_RUN, why);
    }
}
