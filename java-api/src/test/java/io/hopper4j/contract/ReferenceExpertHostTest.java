package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

/** What {@link CudaExpertHostTest} asks for, kept by the reference. */
final class ReferenceExpertHostTest {
    @Test
    void shouldKeepTheContractWithAJvmForEachRank() throws Exception {
        ExpertGroupProcess.runAll(ExpertGroupProcess.Kind.REFERENCE, 4);
    }

    /** Ranks as threads. */
    abstract static class Threads extends ManyRanksContractTest<HostTensor> {
        Threads(final int ranks) {
            super(ranks);
        }

        @Override
        Backend<HostTensor> open(final int rank) {
            return new ReferenceBackend();
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
