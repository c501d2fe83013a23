package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import java.util.stream.IntStream;

/** The contract, kept by the plain Java reference. */
final class ReferenceContractTest extends ContractSuite<HostTensor> {
    @Override
    public Backend<HostTensor> open(final int rank) {
        return new ReferenceBackend();
    }

    @Override
    public IntStream rankCounts() {
        return IntStream.of(1, 2, 8, 64, 320);
    }
}
