package io.hopper4j.contract;

import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.TensorSpec;
import org.junit.jupiter.api.Tag;

/** Random operands of the CUDA kernels. */
@Tag("gpu")
final class CudaOperandsFuzzTest extends OperandsFuzzTest<DeviceTensor> {
    CudaOperandsFuzzTest() {
        super("the CUDA kernels");
    }

    @Override
    Backend<DeviceTensor> open() {
        return new CudaBackend();
    }

    @Override
    DeviceTensor closed(final Backend<DeviceTensor> backend, final TensorSpec spec) {
        try (DeviceArena arena = Device.all().getFirst().openArena(backend.stream())) {
            return arena.allocate(spec);
        }
    }

    @Override
    long calls() {
        return 10_000;
    }
}
