package io.hopper4j.contract;

import io.hopper4j.Tensor;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Nested;

/**
 * The contract of every operation, for any implementation of {@link io.hopper4j.Kernels}. A class that extends this one and says how its backend is opened
 * runs all of it; {@code io.hopper4j.example} shows how, from outside.
 *
 * <p>{@snippet :
 * final class MyKernelsTest extends ContractSuite<HostTensor> {
 *     public Backend<HostTensor> open(int rank) {
 *         return new ReferenceBackend(new MyKernels());
 *     }
 * }
 * }
 *
 * @param <T> the tensors that the implementation works on
 */
public abstract class ContractSuite<T extends Tensor> {
    /** Made by the test engine. */
    protected ContractSuite() {}

    /**
     * {@return an open backend, which the test closes}
     *
     * @param rank of an expert group that it will be; 0 where there is one
     */
    public abstract Backend<T> open(int rank);

    /** {@return how many ranks expert groups are tried with} */
    public IntStream rankCounts() {
        return IntStream.of(1, 2, 8);
    }

    @Nested
    final class Quantize extends QuantizeContractTest<T> {
        Quantize() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class Gemm extends GemmContractTest<T> {
        Gemm() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class GroupedGemm extends GroupedGemmContractTest<T> {
        GroupedGemm() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class Bf16Gemm extends Bf16GemmContractTest<T> {
        Bf16Gemm() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class MlaDecode extends MlaDecodeContractTest<T> {
        MlaDecode() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class MlaMerge extends MlaMergeContractTest<T> {
        MlaMerge() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class KvCache extends PagedKvCacheContractTest<T> {
        KvCache() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class FusedQuantize extends FusedQuantizeContractTest<T> {
        FusedQuantize() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class MlaCacheWrite extends MlaCacheWriteContractTest<T> {
        MlaCacheWrite() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class ExpertGroups extends ExpertGroupContractTest<T> {
        @Override
        Backend<T> open(final int rank) {
            return ContractSuite.this.open(rank);
        }

        @Override
        IntStream rankCounts() {
            return ContractSuite.this.rankCounts();
        }
    }

    @Nested
    final class Gate extends GateContractTest<T> {
        Gate() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class ExpertRows extends ExpertRowsContractTest<T> {
        ExpertRows() {
            super(ContractSuite.this.open(0));
        }
    }

    @Nested
    final class Layer extends ExpertLayerContractTest<T> {
        Layer() {
            super(ContractSuite.this.open(0));
        }
    }
}
