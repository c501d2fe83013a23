package io.hopper4j.contract;

import io.hopper4j.DeviceTensor;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Tag;

/** The contract, kept by the CUDA kernels. */
@Tag("gpu")
final class CudaContractTest {
    @Nested
    final class Quantize extends QuantizeContractTest<DeviceTensor> {
        Quantize() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class Gemm extends GemmContractTest<DeviceTensor> {
        Gemm() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class GroupedGemm extends GroupedGemmContractTest<DeviceTensor> {
        GroupedGemm() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class Bf16Gemm extends Bf16GemmContractTest<DeviceTensor> {
        Bf16Gemm() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class MlaDecode extends MlaDecodeContractTest<DeviceTensor> {
        MlaDecode() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class MlaMerge extends MlaMergeContractTest<DeviceTensor> {
        MlaMerge() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class KvCache extends PagedKvCacheContractTest<DeviceTensor> {
        KvCache() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class FusedQuantize extends FusedQuantizeContractTest<DeviceTensor> {
        FusedQuantize() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class MlaCacheWrite extends MlaCacheWriteContractTest<DeviceTensor> {
        MlaCacheWrite() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class ExpertGroups extends ExpertGroupContractTest<DeviceTensor> {
        @Override
        Backend<DeviceTensor> open(final int rank) {
            return new CudaBackend(rank);
        }

        @Override
        IntStream rankCounts() {
            return IntStream.of(1, 2, 8);
        }
    }

    @Nested
    final class Gate extends GateContractTest<DeviceTensor> {
        Gate() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class ExpertRows extends ExpertRowsContractTest<DeviceTensor> {
        ExpertRows() {
            super(new CudaBackend());
        }
    }

    @Nested
    final class Layer extends ExpertLayerContractTest<DeviceTensor> {
        Layer() {
            super(new CudaBackend());
        }
    }
}
