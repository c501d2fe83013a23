package io.hopper4j.contract;

import io.hopper4j.Device;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Kernels;
import org.junit.jupiter.api.Tag;

/** Lifetimes of the CUDA implementation. */
@Tag("gpu")
final class CudaLifetimeTest extends LifetimeContractTest<DeviceTensor> {
    CudaLifetimeTest() {
        super(
                Kernels.cuda(Device.all().getFirst()),
                stream -> LifetimeStress.deviceOwner(Device.all().getFirst().openArena(stream)));
    }

    @Override
    long deviceBytesInUse() {
        final Device device = Device.all().getFirst();
        return device.info().memoryBytes() - device.freeBytes();
    }
}
