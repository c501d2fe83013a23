package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Planning with the native library and no device. */
final class PlanningTest {
    @BeforeEach
    void requireLibrary() {
        assumeTrue(
                System.getProperty("hopper4j.library") != null,
                "the native library has not been built: system property hopper4j.library is not set");
    }

    static Stream<DeviceInfo> devices() {
        return DeviceInfo.described().stream();
    }

    @ParameterizedTest
    @MethodSource("devices")
    void shouldPlanForDescribedDevices(final DeviceInfo device) {
        for (final OpSpec spec : new OpSpec[] {
            GemmSpec.of(4096, 7168, 2048),
            GemmSpec.of(1, 8, 16).withOut(DType.F32).withAccumulate(true),
            GemmSpec.of(0, 576, 7168).withSmBudget(20),
            Bf16GemmSpec.batched(128, 64, 512, 128),
            Bf16GroupedGemmSpec.of(8, 4096, 2048, 7168),
            QuantizeSpec.of(4096, 7168, DType.BF16, Scaling.ACTIVATION_1X128),
            QuantizeSpec.of(7168, 2048, DType.F32, Scaling.WEIGHT_128X128),
            DequantizeSpec.of(128, 2048, Scaling.WEIGHT_128X128, DType.F16),
            SwigluQuantizeSpec.of(4096, 2048).withWeights(true),
            SwigluQuantizeSpec.masked(32, 4096, 2048),
            RmsNormQuantizeSpec.of(4096, 7168),
            TransposeQuantizeSpec.of(4096, 7168),
            MlaCacheWriteSpec.of(MlaDecodeSpec.of(128, 64, 32, 8192, 4096).withCacheFormat(MlaCacheFormat.FP8_BLOCKS)),
            MlaDecodeSpec.of(128, 64, 32, 8192, 4096),
            MlaDecodeSpec.of(1, 1, 0, 0, 1).withSQ(4).withSmBudget(20)
        }) {
            assertThat(Kernels.support(device, spec))
                    .as("%s on %s", spec, device.name())
                    .isInstanceOfSatisfying(Support.Supported.class, supported -> {
                        assertThat(supported.kernel()).startsWith(spec.operation());
                        assertThat(supported.explanation()).isNotBlank();
                        assertThat(supported.workspaceBytes()).isNotNegative();
                    });
        }
    }

    @Test
    void shouldSayWhatADeviceLacks() {
        final DeviceInfo a100 = new DeviceInfo("A100", 8, 0, 108, 166_912, 40L << 20, 80L << 30, 300);
        assertThat(Kernels.support(a100, GemmSpec.of(1, 8, 16)))
                .isInstanceOfSatisfying(
                        Support.Unsupported.class,
                        unsupported -> assertThat(unsupported.reasons())
                                .singleElement()
                                .satisfies(reason -> {
                                    assertThat(reason.name()).isEqualTo("gemm: device.compute_capability");
                                    assertThat(reason.got()).isEqualTo("8.0 (A100)");
                                    assertThat(reason.needed()).startsWith("9.0");
                                }));
    }

    @Test
    void shouldSayWhichLibraryIsUsed() {
        final LibraryInfo library = Device.library();
        assertThat(library.path())
                .isEqualTo(Path.of(System.getProperty("hopper4j.library")).toAbsolutePath());
        assertThat(library.version()).matches("\\d+\\.\\d+\\.\\d+");
        assertThat(library.abiVersion()).isEqualTo(1);
    }

    @Test
    void shouldCountNoDevicesWithoutADriverAndSayWhy() {
        assumeTrue(!Files.exists(Path.of("/dev/nvidiactl")), "there is a driver");
        assertThat(Device.count()).isZero();
        assertThat(Device.all()).isEmpty();
        assertThat(Device.library().driverCudaVersion()).isZero();
        assertThat(Device.unavailableReason())
                .hasValueSatisfying(
                        reason -> assertThat(reason).contains("libcuda.so.1").contains("need an NVIDIA driver"));
    }

    @Test
    void shouldRefuseDevicesOfOthers() {
        final Device other = new NoDevice();
        assertThatExceptionOfType(IllegalArgumentException.class)
                .isThrownBy(() -> Kernels.cuda(other))
                .withMessageEndingWith("need one of Device.all()");
    }

    /** A device that this library did not make. */
    private record NoDevice() implements Device {
        @Override
        public int index() {
            return 0;
        }

        @Override
        public DeviceInfo info() {
            return DeviceInfo.H20;
        }

        @Override
        public long freeBytes() {
            return 0;
        }

        @Override
        public void trimMemory(final long keepBytes) {
            throw new UnsupportedOperationException();
        }

        @Override
        public DeviceArena openArena(final io.hopper4j.Stream on) {
            throw new UnsupportedOperationException();
        }

        @Override
        public io.hopper4j.Stream openStream() {
            throw new UnsupportedOperationException();
        }

        @Override
        public io.hopper4j.Stream wrapStream(final long cuStream) {
            throw new UnsupportedOperationException();
        }

        @Override
        public HostTensor allocatePinned(final java.lang.foreign.Arena owner, final DType dtype, final long... dims) {
            throw new UnsupportedOperationException();
        }
    }

    @Test
    void shouldTakeSmsByTheLink() {
        final DispatchSpec dispatch = DispatchSpec.of(ExpertGroupSpec.of(2, 256, 8, 7168, 4096), DType.F8_E4M3);
        for (final OpSpec spec : List.of(dispatch, CombineSpec.of(dispatch))) {
            assertThat(explanation(DeviceInfo.H100_SXM, spec)).contains("24 CTAs");
            assertThat(explanation(DeviceInfo.H800, spec)).contains("14 CTAs");
            assertThat(explanation(DeviceInfo.H100_SXM.withNvlinkGBs(160), spec))
                    .contains("12 CTAs");
            assertThat(explanation(DeviceInfo.H100_SXM.withNvlinkGBs(0), spec)).contains("24 CTAs");
        }
    }

    private static String explanation(final DeviceInfo device, final OpSpec spec) {
        return ((Support.Supported) Kernels.support(device, spec)).explanation();
    }
}
