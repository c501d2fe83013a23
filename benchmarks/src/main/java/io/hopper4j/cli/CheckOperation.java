package io.hopper4j.cli;

import java.io.IOException;
import java.util.List;

/** How {@code check} judges the outputs of one operation that someone else computed. */
interface CheckOperation {
    /** {@return the operation's names, that of the spec first} */
    List<String> names();

    /** {@return one line on what is computed} */
    String meaning();

    /** {@return a line each on the tensors and scalars that the input file must and may have} */
    List<String> inputs();

    /** {@return a line each on the tensors that the output file must have} */
    List<String> outputs();

    /** A judgement: what was compared, and measures of the whole beside the elements. */
    record Judgement(List<CheckMeasure> measures, List<Row.Measure> whole) {
        boolean isWithin() {
            return measures.stream().allMatch(CheckMeasure::isWithin)
                    && whole.stream().allMatch(Row.Measure::isWithin);
        }
    }

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
