package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Another engine's context, stream and buffers, made with the driver alone and not with the primary context. */
@Tag("gpu")
final class ForeignContextTest {
    private static final int M = 65;
    private static final int N = 576;
    private static final int K = 512;

    private final Arena host = Arena.ofConfined();
    private final CudaDriver driver = new CudaDriver();
    private final long context = driver.createContext(0);
    private final long cuStream = driver.createStream();
    private final List<Long> buffers = new ArrayList<>();

    private final Device device = Device.all().getFirst();
    private final Kernels<DeviceTensor> kernels = Kernels.cuda(device);
    private final Stream stream = device.wrapStream(cuStream);
    private final DeviceArena arena = device.openArena(stream);

    private final Scaled<HostTensor> a = Data.quantized(host, Scaling.ACTIVATION_1X128, M, K, 21);
    private final Scaled<HostTensor> b = Data.quantized(host, Scaling.WEIGHT_128X128, N, K, 22);

    @AfterEach
    void close() {
        arena.close();
        stream.close();
        kernels.close();
        driver.setCurrent(context);
        driver.synchronize(cuStream); // closing the wrapper has not destroyed it
        buffers.forEach(driver::free);
        driver.destroyStream(cuStream);
        driver.destroyContext(context);
        driver.close();
        host.close();
    }

    /** A buffer of the engine. */
    private DeviceTensor buffer(final TensorSpec spec) {
        driver.setCurrent(context);
        final long address = driver.allocate(spec.byteSpan());
        buffers.add(address);
        return arena.wrap(address, spec);
    }

    private DeviceTensor put(final HostTensor elements) {
        final DeviceTensor tensor = buffer(elements.spec());
        driver.copyToDevice(tensor.address(), elements.segment());
        return tensor;
    }

    private Scaled<DeviceTensor> put(final Scaled<HostTensor> matrix) {
        return new Scaled<>(put(matrix.values()), put(matrix.scales()), matrix.scaling());
    }

    private HostTensor get(final DeviceTensor tensor) {
        driver.setCurrent(context);
        driver.synchronize(cuStream);
        final HostTensor copy = HostTensor.allocate(host, tensor.spec());
        driver.copyToHost(copy.segment(), tensor.address());
        return copy;
    }

    @Test
    void shouldMultiplyEagerlyAndCapturedInTheContextOfTheStream() {
        final Scaled<DeviceTensor> left = put(a);
        final Scaled<DeviceTensor> right = put(b);
        final DeviceTensor eager = buffer(TensorSpec.packed(DType.BF16, M, N));
        final DeviceTensor replayed = buffer(TensorSpec.packed(DType.BF16, M, N));
        driver.setCurrent(0);

        kernels.gemm(left, right, eager, stream);
        assertThat(driver.currentContext())
                .as("no context was current, none is")
                .isZero();
        try (GemmPlan<DeviceTensor> plan = kernels.plan(GemmSpec.of(M, N, K));
                GemmLaunch<DeviceTensor> launch = plan.bind(left, right, replayed, null);
                Graph graph = stream.capture(launch::launch)) {
            assertThat(driver.currentContext()).isZero();
            graph.launch(stream);
            graph.launch(stream);
            assertThat(driver.currentContext()).isZero();
            stream.synchronize();
        }

        final HostTensor got = get(eager);
        final GemmTolerance.Result error = Expected.gemmError(a, b, null, got, M);
        assertThat(error.withinBounds()).as("%s", error).isTrue();
        assertThat(Expected.bits(get(replayed))).as("captured against eager").isEqualTo(Expected.bits(got));
    }

    @Test
    void shouldQuantizeBitForBitAndLeaveTheCurrentContextAlone() {
        final HostTensor in = Data.gaussian(host, TensorSpec.packed(DType.BF16, M, K), 23);
        final Scaled<DeviceTensor> out = new Scaled<>(
                buffer(TensorSpec.packed(DType.F8_E4M3, M, K)),
                buffer(Scaled.activationScaleSpec(M, K)),
                Scaling.ACTIVATION_1X128);
        final DeviceTensor source = put(in);
        driver.setCurrent(context);

        kernels.quantize(source, ScaleKind.POWER_OF_TWO, out, stream);

        assertThat(driver.currentContext()).isEqualTo(context);
        final Scaled<HostTensor> expected =
                Expected.quantize(in, Scaling.ACTIVATION_1X128, ScaleKind.POWER_OF_TWO, host);
        assertThat(Expected.bits(get(out.scales()))).isEqualTo(Expected.bits(expected.scales()));
        assertThat(Expected.bits(get(out.values()))).isEqualTo(Expected.bits(expected.values()));
    }

    @Test
    void shouldAllocateAndCopyOnTheStream() {
        final HostTensor elements = Data.gaussian(host, TensorSpec.packed(DType.F32, 33, 17), 24);
        driver.setCurrent(0);
        final DeviceTensor tensor = arena.allocate(elements.spec());
        tensor.copyFrom(elements, stream);
        final HostTensor back = HostTensor.allocate(host, elements.spec());
        tensor.copyTo(back, stream);
        stream.synchronize();
        assertThat(driver.currentContext()).isZero();
        assertThat(Expected.bits(back)).isEqualTo(Expected.bits(elements));
        assertThat(stream.handle()).isEqualTo(cuStream);
    }
}
