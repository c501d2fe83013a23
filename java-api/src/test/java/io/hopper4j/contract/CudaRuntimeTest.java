package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.sun.management.ThreadMXBean;
import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.OutOfDeviceMemoryException;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Devices, streams, events, graphs, arenas and launches on a real device: what the contract suite does not reach. */
@Tag("gpu")
final class CudaRuntimeTest {
    private static final int M = 64;
    private static final int N = 128;
    private static final int K = 256;

    private final CudaBackend backend = new CudaBackend();
    private final Device device = Device.all().getFirst();
    private final Stream stream = backend.stream();
    private final DeviceArena arena = backend.arena();
    private final Scaled<HostTensor> hostA = Data.quantized(backend.host, Scaling.ACTIVATION_1X128, M, K, 31);
    private final Scaled<HostTensor> hostB = Data.quantized(backend.host, Scaling.WEIGHT_128X128, N, K, 32);
    private final Scaled<DeviceTensor> a = backend.put(hostA);
    private final Scaled<DeviceTensor> b = backend.put(hostB);

    @AfterEach
    void close() {
        backend.close();
    }

    private DeviceTensor output() {
        return backend.filled(TensorSpec.packed(DType.BF16, M, N), Float.NaN);
    }

    /** The bits that every launch on these operands must give. */
    private int[] expectedBits() {
        final DeviceTensor out = output();
        backend.kernels().gemm(a, b, out, stream);
        return Expected.bits(backend.get(out));
    }

    // ---- devices ----

    @Test
    void shouldDescribeTheDevice() {
        assertThat(device.index()).isZero();
        assertThat(device.info().isHopper()).as("%s", device.info()).isTrue();
        assertThat(device.info().smCount()).isBetween(1, 1000);
        assertThat(device.freeBytes()).isBetween(1L, device.info().memoryBytes());
        assertThat(Device.unavailableReason()).isEmpty();
        assertThat(Device.all().getFirst()).isSameAs(device);
        assertThat(Device.library().driverCudaVersion()).isGreaterThanOrEqualTo(12000);
    }

    @Test
    void shouldSayWhatAnotherDeviceMayNotDo() {
        assumeTrue(Device.count() >= 2, "there is one device");
        final Device other = Device.all().get(1);
        try (Stream otherStream = other.openStream();
                DeviceArena otherArena = other.openArena(otherStream);
                GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K))) {
            final DeviceTensor out = otherArena.allocate(DType.BF16, M, N);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(a, b, out, null))
                    .withMessage("gemm: out: got a tensor of %s, need one of %s", other, device);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.kernels().gemm(a, b, output(), otherStream))
                    .withMessage("gemm: stream: got %s, need a stream of %s", otherStream, device);
            assertThatIllegalArgumentException().isThrownBy(() -> out.copyFrom(hostA.values(), stream));
        }
    }

    // ---- memory ----

    @Test
    void shouldRefuseMoreThanTheCardHasAndGoOn() {
        final long bytes = device.info().memoryBytes() + 1;
        assertThatExceptionOfType(OutOfDeviceMemoryException.class)
                .isThrownBy(() -> arena.allocate(DType.U8, bytes))
                .satisfies(e -> {
                    assertThat(e.requestedBytes()).isEqualTo(bytes);
                    assertThat(e.freeBytes()).isBetween(0L, device.info().memoryBytes());
                })
                .withMessageContaining(Long.toString(bytes));
        // What the card has in all, but not free.
        assertThatExceptionOfType(OutOfDeviceMemoryException.class)
                .isThrownBy(() -> arena.allocate(DType.U8, device.info().memoryBytes()));
        assertThat(expectedBits()).hasSize(M * N);
    }

    @Test
    void shouldWorkWhileAllMemoryIsTakenAndGiveItBack() {
        final int[] expected = expectedBits();
        final DeviceTensor out = output();
        stream.synchronize();
        device.trimMemory(0);
        final long free = device.freeBytes();
        assumeTrue(
                free >= device.info().memoryBytes() - (2L << 30),
                "another process is using the card and would not find memory: " + free + " bytes are free");
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K));
                GemmLaunch<DeviceTensor> launch = plan.bind(a, b, out, null)) {
            try (DeviceArena all = device.openArena(stream)) {
                for (long bytes = 1L << 34; bytes >= 1 << 21; ) {
                    try {
                        all.allocate(DType.U8, bytes);
                    } catch (final OutOfDeviceMemoryException e) {
                        assertThat(e.requestedBytes()).isEqualTo(bytes);
                        assertThat(e.freeBytes()).isLessThan(free);
                        bytes /= 2;
                    }
                }
                assertThat(device.freeBytes()).isLessThan(free / 16);
                launch.launch(stream);
                assertThat(Expected.bits(backend.get(out))).isEqualTo(expected);
                assertThatExceptionOfType(OutOfDeviceMemoryException.class)
                        .isThrownBy(() -> all.allocate(DType.U8, 1L << 30));
            }
            stream.synchronize();
            device.trimMemory(0);
            assertThat(device.freeBytes()).isGreaterThan(free - (free >> 4));
            assertThat(expectedBits()).isEqualTo(expected);
        }
        assertThatIllegalArgumentException().isThrownBy(() -> device.trimMemory(-1));
    }

    @Test
    void shouldCopyThroughPinnedMemoryAndPaddedRows() {
        final DeviceTensor wide = backend.filled(TensorSpec.packed(DType.F32, 5, 9), -1);
        try (Arena owner = Arena.ofShared()) {
            final HostTensor pinned = device.allocatePinned(owner, DType.F32, 5, 7);
            assertThat(pinned.toFloats()).containsOnly(0f);
            pinned.setFloat(3, 4, 6);
            wide.slice(1, 1, 8).copyFrom(pinned, stream);
            final HostTensor got = backend.get(wide);
            assertThat(got.getFloat(4, 7)).isEqualTo(3);
            assertThat(got.getFloat(4, 6)).isEqualTo(0);
            assertThat(got.select(1, 0).toFloats()).as("left of the rows").containsOnly(-1f);
            assertThat(got.select(1, 8).toFloats()).as("right of the rows").containsOnly(-1f);
            final HostTensor back = device.allocatePinned(owner, DType.F32, 5, 7);
            wide.slice(1, 1, 8).copyTo(back, stream);
            stream.synchronize();
            assertThat(back.toFloats()).containsExactly(pinned.toFloats());
            assertThat(device.allocatePinned(owner, DType.F32, 0, 7).toFloats()).isEmpty();
        }
    }

    @Test
    void shouldCopyWithinTheDevice() {
        final HostTensor numbers = HostTensor.allocate(backend.host, DType.F32, 5, 7);
        numbers.setFloat(3, 4, 6);
        final DeviceTensor from = backend.put(numbers);
        final DeviceTensor wide = backend.filled(TensorSpec.packed(DType.F32, 5, 9), -1);
        wide.slice(1, 1, 8).copyFrom(from, stream);
        final HostTensor got = backend.get(wide);
        assertThat(got.slice(1, 1, 8).toFloats()).containsExactly(numbers.toFloats());
        assertThat(got.select(1, 0).toFloats()).as("left of the rows").containsOnly(-1f);
        assertThat(got.select(1, 8).toFloats()).as("right of the rows").containsOnly(-1f);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> wide.copyFrom(from, stream))
                .withMessage("copyFrom: source: got F32 [5,7], need F32 [5,9]");
        final DeviceArena other = device.openArena(stream);
        final DeviceTensor gone = other.allocate(DType.F32, 5, 9);
        other.close();
        assertThatIllegalStateException().isThrownBy(() -> wide.copyFrom(gone, stream));
    }

    @Test
    void shouldRefuseHostMemoryThatCannotBeCopied() {
        final DeviceTensor tensor = arena.allocate(DType.F32, 4);
        final TensorSpec spec = tensor.spec();
        assertThatIllegalArgumentException()
                .isThrownBy(() -> tensor.copyFrom(HostTensor.wrap(MemorySegment.ofArray(new float[4]), spec), stream))
                .withMessage("copyFrom: host tensor: got memory of the Java heap, need native memory");
        assertThatIllegalArgumentException()
                .isThrownBy(() ->
                        tensor.copyTo(HostTensor.wrap(backend.host.allocate(16).asReadOnly(), spec), stream))
                .withMessage("copyTo: target: got read-only memory, need memory that can be written");
        final HostTensor gone;
        try (Arena closed = Arena.ofConfined()) {
            gone = HostTensor.allocate(closed, spec);
        }
        assertThatIllegalStateException().isThrownBy(() -> tensor.copyFrom(gone, stream));
    }

    @Test
    void shouldCheckBorrowedAddresses() {
        final TensorSpec spec = TensorSpec.packed(DType.F32, 4);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> arena.wrap(0, spec))
                .withMessage("wrap: address: got 0, need a device address for F32 [4]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> arena.wrap(0x1002, spec))
                .withMessage("wrap: address: got 0x1002, need a multiple of 4 bytes");
        final DeviceTensor buffer = arena.allocate(DType.U8, 2L * M * N + 16);
        final DeviceTensor odd = arena.wrap(buffer.address() + 8, TensorSpec.packed(DType.BF16, M, N));
        assertThatIllegalArgumentException()
                .isThrownBy(() -> backend.kernels().gemm(a, b, odd, stream))
                .withMessage(
                        "gemm: out: got address 0x%s, need a multiple of 16 bytes", Long.toHexString(odd.address()));
    }

    @Test
    void shouldEndTensorsWithTheirArena() {
        final DeviceArena other = device.openArena(stream);
        final DeviceTensor tensor = other.allocate(DType.BF16, M, N);
        assertThatIllegalStateException()
                .isThrownBy(stream::close)
                .withMessageContaining("close: got open [arena, arena], need them closed before");
        other.close();
        other.close();
        assertThatIllegalStateException()
                .isThrownBy(tensor::address)
                .withMessageEndingWith("got a closed one, need an open one");
        assertThatIllegalStateException().isThrownBy(() -> tensor.slice(0, 0, 1));
        final HostTensor target = HostTensor.allocate(backend.host, tensor.spec());
        assertThatIllegalStateException().isThrownBy(() -> tensor.copyTo(target, stream));
        assertThatIllegalStateException().isThrownBy(() -> other.allocate(DType.U8, 1));
        assertThatIllegalStateException().isThrownBy(() -> other.wrap(0x1000, tensor.spec()));
        assertThatIllegalStateException().isThrownBy(() -> backend.kernels().gemm(a, b, tensor, stream));
        assertThat(expectedBits()).hasSize(M * N);
    }

    @Test
    void shouldKeepArenasOpenForLaunchesAndGraphs() {
        final DeviceArena first = device.openArena(stream);
        final DeviceArena second = device.openArena(stream);
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K))) {
            final GemmLaunch<DeviceTensor> launch = plan.bind(a, b, first.allocate(DType.BF16, M, N), null);
            final Graph graph = stream.capture(launch::launch);
            launch.rebind(a, b, null, second.allocate(DType.BF16, M, N), null);
            assertThatIllegalStateException()
                    .isThrownBy(first::close)
                    .withMessageEndingWith("close: got open [graph], need them closed before");
            assertThatIllegalStateException()
                    .isThrownBy(second::close)
                    .withMessageEndingWith("close: got open [gemm launch], need them closed before");
            launch.close();
            second.close();
            graph.launch(stream);
            graph.close();
            first.close();
            assertThatIllegalStateException().isThrownBy(() -> graph.launch(stream));
        }
    }

    // ---- streams, events, graphs ----

    @Test
    void shouldMeasureAndAwaitEvents() throws ExecutionException, InterruptedException, TimeoutException {
        try (Stream other = device.openStream();
                Event start = stream.record()) {
            final DeviceTensor out = output();
            backend.kernels().gemm(a, b, out, stream);
            try (Event end = stream.record()) {
                other.await(end);
                try (Event after = other.record()) {
                    after.toCompletionStage().toCompletableFuture().get(10, TimeUnit.SECONDS);
                    assertThat(after.isReached()).isTrue();
                }
                assertThat(end.isReached()).as("awaited by the other stream").isTrue();
                assertThat(end.elapsedSince(start)).isBetween(Duration.ZERO, Duration.ofSeconds(10));
                end.synchronize();
            }
        }
        final Event closed = stream.record();
        closed.close();
        assertThatIllegalStateException().isThrownBy(closed::isReached);
        assertThatIllegalStateException().isThrownBy(() -> stream.await(closed));
    }

    @Test
    void shouldRefuseWhatACaptureCannotHold() {
        assertThatIllegalStateException()
                .isThrownBy(() -> stream.capture(_ -> arena.allocate(DType.U8, 16)))
                .withMessageContaining("allocate: got a stream being captured, need one that is not");
        assertThatIllegalStateException()
                .isThrownBy(() -> stream.capture(on -> on.capture(_ -> {}).close()))
                .withMessageContaining("capture: got a stream being captured, need one that is not");
        assertThatIllegalStateException().isThrownBy(() -> stream.capture(_ -> arena.close()));
        stream.synchronize();
        assertThat(expectedBits()).hasSize(M * N);
    }

    @Test
    void shouldCaptureWorkOfAStreamThatJoined() {
        final int[] expected = expectedBits();
        final DeviceTensor out = output();
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K));
                GemmLaunch<DeviceTensor> launch = plan.bind(a, b, out, null);
                Stream side = device.openStream();
                Graph graph = stream.capture(on -> {
                    try (Event fork = on.record()) {
                        side.await(fork);
                    }
                    launch.launch(side);
                    try (Event join = side.record()) {
                        on.await(join);
                    }
                })) {
            assertThat(backend.get(out).toFloats()).as("captured, not run").containsOnly(Float.NaN);
            graph.launch(stream);
            assertThat(Expected.bits(backend.get(out))).isEqualTo(expected);
        }
    }

    @Test
    void shouldNotDestroyAWrappedStream() {
        try (Stream wrapped = device.wrapStream(stream.handle())) {
            assertThat(wrapped.handle()).isEqualTo(stream.handle());
            final DeviceTensor out = output();
            backend.kernels().gemm(a, b, out, wrapped);
            assertThat(Expected.bits(backend.get(out))).isEqualTo(expectedBits());
        }
        stream.synchronize();
        try (Stream legacy = device.wrapStream(0)) {
            final DeviceTensor out = output();
            stream.synchronize();
            backend.kernels().gemm(a, b, out, legacy);
            legacy.synchronize();
            assertThat(Expected.bits(backend.get(out))).isEqualTo(expectedBits());
        }
    }

    @Test
    void shouldRefuseStreamsOfTheReference() {
        try (Kernels<HostTensor> reference = Kernels.reference();
                Stream host = reference.openStream()) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.kernels().gemm(a, b, output(), host))
                    .withMessage("gemm: stream: got %s, need a stream of %s", host, device);
            assertThatIllegalArgumentException().isThrownBy(() -> device.openArena(host));
        }
    }

    // ---- launches ----

    @Test
    void shouldAllocateNothingOnTheHeapPerLaunch() {
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K));
                GemmLaunch<DeviceTensor> launch = plan.bind(a, b, output(), null)) {
            assertAllocatesNothing(launch);
        }
        final MlaData data =
                new MlaData(backend.host, MlaDecodeSpec.of(8, 16, 1, 1, 1), new int[] {5, 40}, null, false, 33);
        try (MlaDecodePlan<DeviceTensor> plan = backend.kernels().plan(data.spec)) {
            final DeviceTensor lengths = backend.put(data.lengthTensor(backend.host));
            final DeviceTensor schedule = arena.allocate(DType.U8, plan.scheduleBytes());
            final MlaDecodeOperands<DeviceTensor> operands = MlaDecodeOperands.<DeviceTensor>builder()
                    .q(backend.put(data.q))
                    .cache(backend.put(data.cache))
                    .blockTable(backend.put(data.blockTable))
                    .lengths(lengths)
                    .schedule(schedule)
                    .out(arena.allocate(DType.BF16, 2, 1, 8, MlaDecodeSpec.VALUE_DIM))
                    .lse(arena.allocate(DType.F32, 2, 8, 1))
                    .workspace(arena.allocate(DType.U8, plan.workspaceBytes()))
                    .build();
            try (MlaScheduleLaunch<DeviceTensor> first = plan.bindSchedule(lengths, null, schedule);
                    MlaDecodeLaunch<DeviceTensor> then = plan.bind(operands)) {
                assertAllocatesNothing(first);
                assertAllocatesNothing(then);
            }
        }
    }

    private void assertAllocatesNothing(final Launch launch) {
        final ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
        long least = Long.MAX_VALUE;
        // The first rounds compile the code; a compiled round allocates nothing at all.
        for (int round = 0; round < 40 && least > 0; round++) {
            final long before = threads.getCurrentThreadAllocatedBytes();
            for (int i = 0; i < 1000; i++) {
                launch.launch(stream);
            }
            least = Math.min(least, threads.getCurrentThreadAllocatedBytes() - before);
            stream.synchronize();
        }
        assertThat(least).as("bytes allocated by 1000 launches of %s", launch).isZero();
    }

    @Test
    void shouldLaunchFromSeveralThreadsOnSeveralStreams() throws InterruptedException, ExecutionException {
        final int[] expected = expectedBits();
        final DeviceTensor shared = output();
        stream.synchronize();
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K));
                GemmLaunch<DeviceTensor> sharedLaunch = plan.bind(a, b, shared, null);
                ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final List<Callable<int[]>> tasks = new ArrayList<>();
            for (int i = 0; i < 8; i++) {
                tasks.add(() -> launchMany(plan, sharedLaunch));
            }
            for (final Future<int[]> result : threads.invokeAll(tasks)) {
                assertThat(result.get()).isEqualTo(expected);
            }
        }
        assertThat(Expected.bits(backend.get(shared))).isEqualTo(expected);
    }

    /** Launches a shared launch and one of its own on a stream of its own; answers the bits of its own. */
    private int[] launchMany(final GemmPlan<DeviceTensor> plan, final GemmLaunch<DeviceTensor> sharedLaunch) {
        try (Stream own = device.openStream();
                DeviceArena memory = device.openArena(own);
                Arena host = Arena.ofShared()) {
            final DeviceTensor out = memory.allocate(DType.BF16, M, N);
            try (GemmLaunch<DeviceTensor> launch = plan.bind(a, b, out, null)) {
                for (int i = 0; i < 200; i++) {
                    launch.launch(own);
                    sharedLaunch.launch(own);
                }
            }
            final HostTensor copy = HostTensor.allocate(host, out.spec());
            out.copyTo(copy, own);
            own.synchronize();
            return Expected.bits(copy);
        }
    }

    @Test
    void shouldNeverCloseUnderALaunch() throws InterruptedException, ExecutionException {
        final DeviceTensor out = output();
        try (GemmPlan<DeviceTensor> plan = backend.kernels().plan(GemmSpec.of(M, N, K));
                ExecutorService threads = Executors.newSingleThreadExecutor()) {
            for (int round = 0; round < 20; round++) {
                final GemmLaunch<DeviceTensor> launch = plan.bind(a, b, out, null);
                launch.launch(stream);
                final Future<String> last = threads.submit(() -> {
                    try {
                        while (true) {
                            launch.launch(stream);
                        }
                    } catch (IllegalStateException e) {
                        return String.valueOf(e.getMessage());
                    }
                });
                boolean closed = false;
                while (!closed) {
                    try {
                        launch.close();
                        closed = true;
                    } catch (IllegalStateException e) {
                        assertThat(e).hasMessageContaining("close: got a call of another thread inside");
                    }
                }
                assertThat(last.get()).endsWith("got a closed one, need an open one");
                stream.synchronize();
            }
        }
        assertThat(Expected.bits(backend.get(out))).isEqualTo(expectedBits());
    }
}
