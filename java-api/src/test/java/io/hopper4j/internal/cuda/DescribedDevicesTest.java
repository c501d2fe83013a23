package io.hopper4j.internal.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.DeviceInfo;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.NativeLoader;
import java.lang.foreign.MemorySegment;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The descriptions of Java and of the native library are the same, and survive the way there and back. */
final class DescribedDevicesTest {
    static Stream<DeviceInfo> devices() {
        return DeviceInfo.described().stream();
    }

    @ParameterizedTest
    @MethodSource("devices")
    void shouldDescribeWhatTheLibraryDescribes(final DeviceInfo device) {
        assumeTrue(System.getProperty("hopper4j.library") != null, "the native library has not been built");
        NativeLoader.load();
        try (Call call = new Call()) {
            final MemorySegment info = CudaDevice.newInfo(call.arena());
            call.check(hopper4j_h.h4j_device_describe(call.arena().allocateFrom(device.name()), info, call.error()));
            assertThat(CudaDevice.read(info)).isEqualTo(device);
        }
    }

    @ParameterizedTest
    @MethodSource("devices")
    void shouldComeBackAsItWent(final DeviceInfo device) {
        try (Call call = new Call()) {
            assertThat(CudaDevice.read(CudaDevice.describe(device, call.arena())))
                    .isEqualTo(device);
        }
    }
}
