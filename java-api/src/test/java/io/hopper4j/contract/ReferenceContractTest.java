package io.hopper4j.contract;

import io.hopper4j.HostTensor;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Nested;

/** The contract, kept by the plain Java reference. */
final class ReferenceContractTest {
    @Nested
    final class Quantize extends QuantizeContractTest<HostTensor> {
        Quantize() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class Gemm extends GemmContractTest<HostTensor> {
        Gemm() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class GroupedGemm extends GroupedGemmContractTest<HostTensor> {
        GroupedGemm() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class Bf16Gemm extends Bf16GemmContractTest<HostTensor> {
        Bf16Gemm() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class MlaDecode extends MlaDecodeContractTest<HostTensor> {
        MlaDecode() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class MlaMerge extends MlaMergeContractTest<HostTensor> {
        MlaMerge() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class KvCache extends PagedKvCacheContractTest<HostTensor> {
        KvCache() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class FusedQuantize extends FusedQuantizeContractTest<HostTensor> {
        FusedQuantize() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class MlaCacheWrite extends MlaCacheWriteContractTest<HostTensor> {
        MlaCacheWrite() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class ExpertGroups extends ExpertGroupContractTest<HostTensor> {
        @Override
        Backend<HostTensor> open(final int rank) {
            return new ReferenceBackend();
        }

        @Override
        IntStream rankCounts() {
            return IntStream.of(1, 2, 8, 64, 320);
        }
    }

    @Nested
    final class Gate extends GateContractTest<HostTensor> {
        Gate() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class ExpertRows extends ExpertRowsContractTest<HostTensor> {
        ExpertRows() {
            super(new ReferenceBackend());
        }
    }

    @Nested
    final class Layer extends ExpertLayerContractTest<HostTensor> {
        Layer() {
            super(new ReferenceBackend());
        }
    }
}
