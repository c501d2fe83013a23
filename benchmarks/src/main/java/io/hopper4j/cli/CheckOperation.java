package io.hopper4j.cli;

import java.io.IOException;
import java.util.List;

/**
 * How {@code check} judges the outputs of one operation that someone else computed.
 *
 * @param names the operation's names, that of the spec first
 * @param meaning one line on what is computed
 * @param inputs a line each on the tensors and scalars that the input file must and may have
 * @param outputs a line each on the tensors that the output file must have
 * @param judging compares
 */
record CheckOperation(List<String> names, String meaning, List<String> inputs, List<String> outputs, Judging judging) {
    /** A judgement: what was compared, and measures of the whole beside the elements. */
    record Judgement(List<CheckMeasure> measures, List<Row.Measure> whole) {
        static Judgement of(final CheckMeasure... measures) {
            return new Judgement(List.of(measures), List.of());
        }

        boolean isWithin() {
            return measures.stream().allMatch(CheckMeasure::isWithin)
                    && whole.stream().allMatch(Row.Measure::isWithin);
        }
    }

    /** Compares what came out with what must come out. */
    @FunctionalInterface
    interface Judging {
        /**
         * {@return the judgement}
         *
         * @param inputs what the operation was given
         * @param theirs what came out
         * @param budget about how many multiply-adds the reference may spend; where all elements cost more, a sample is compared
         * @throws CheckTensors.Misfit if a tensor is missing or does not fit
         */
        Judgement judge(CheckTensors inputs, CheckTensors theirs, long budget) throws IOException;
    }

    Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget) throws IOException {
        return judging.judge(inputs, theirs, budget);
    }

    @Override
    public String toString() {
        return names.getFirst();
    }
}
