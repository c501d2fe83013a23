package io.hopper4j.contract;

import io.hopper4j.Tensor;
import java.util.stream.IntStream;

/** The contract of expert groups with one number of ranks throughout, where otherwise two would do. */
abstract class ManyRanksContractTest<T extends Tensor> extends ExpertGroupContractTest<T> {
    private final int ranks;

    ManyRanksContractTest(final int ranks) {
        this.ranks = ranks;
    }

    @Override
    IntStream rankCounts() {
        return IntStream.of(ranks);
    }

    @Override
    int several() {
        return ranks;
    }
}
