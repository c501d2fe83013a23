package io.hopper4j.contract;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.Device;
import io.hopper4j.DeviceTensor;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The contract of expert groups on hosts where each rank has a GPU of its own, with ranks as threads and with a JVM for each. */
@Tag("gpu")
final class CudaExpertHostTest {
    private static void requireGpus(final int count) {
        assumeTrue(Device.all().size() >= count, () -> "needs " + count + " GPUs");
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 4, 8})
    void shouldKeepTheContractWithAJvmForEachRank(final int ranks) throws Exception {
        requireGpus(ranks);
        ExpertGroupProcess.runAll(ExpertGroupProcess.Kind.CUDA, ranks);
    }

    /** Ranks as threads. */
    abstract static class Threads extends ManyRanksContractTest<DeviceTensor> {
        private final int ranks;

        Threads(final int ranks) {
            super(ranks);
            this.ranks = ranks;
        }

        @BeforeEach
        void requireAGpuForEachRank() {
            requireGpus(ranks);
        }

        @Override
        Backend<DeviceTensor> open(final int rank) {
            return new CudaBackend(rank);
        }
    }

    @Nested
    final class OfFour extends Threads {
        OfFour() {
            super(4);
        }
    }

    @Nested
    final class OfEight extends Threads {
        OfEight() {
            super(8);
        }
    }
}
