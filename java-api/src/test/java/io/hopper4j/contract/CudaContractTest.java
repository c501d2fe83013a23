package io.hopper4j.contract;

import io.hopper4j.DeviceTensor;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Tag;

/** The contract, kept by the CUDA kernels. */
@Tag("gpu")
final class CudaContractTest extends ContractSuite<DeviceTensor> {
    @Override
    public Backend<DeviceTensor> open(final int rank) {
        return new CudaBackend(rank);
    }

    @Override
    public IntStream rankCounts() {
        return IntStream.of(1, 2, 4, 8);
    }
}
