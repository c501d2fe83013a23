package io.hopper4j.jmh;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.cli.NativeBench;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.NullUnmarked;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * The host's side of one small product, from Java and by the same loop in C. A loop is short enough for the driver's queue to take it without waiting for the
 * device; the device is idle again before the next one.
 */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
@Warmup(iterations = 5, time = 1)
@Measurement(iterations = 5, time = 1)
@NullUnmarked // JMH fills the fields before it calls anything
public class GpuCalls {
    /** Below the depth of the driver's queue, which is 1024. */
    private static final int CALLS = 500;

    private static final long M = 64;
    private static final long N = 128;
    private static final long K = 128;

    private Kernels<DeviceTensor> kernels;
    private Stream stream;
    private DeviceArena arena;
    private Scaled<DeviceTensor> a;
    private Scaled<DeviceTensor> b;
    private DeviceTensor out;
    private DeviceTensor workspace;
    private GemmSpec spec;
    private GemmPlan<DeviceTensor> plan;
    private GemmLaunch<DeviceTensor> launch;
    private NativeBench.Host c;

    /** Made by JMH. */
    public GpuCalls() {}

    /** Binds the product on both sides. */
    @Setup
    public void open() {
        final Device device = Device.all().stream()
                .filter(d -> d.info().isHopper())
                .findFirst()
                .orElseThrow(() -> new IllegalStateException("GpuCalls: got no Hopper GPU, need one"));
        kernels = Kernels.cuda(device);
        stream = device.openStream();
        arena = device.openArena(stream);
        a = Scaled.activation(arena.allocate(DType.F8_E4M3, M, K), arena.allocate(Scaled.activationScaleSpec(M, K)));
        b = Scaled.weight(arena.allocate(DType.F8_E4M3, N, K), arena.allocate(Scaled.weightScaleSpec(N, K)));
        out = arena.allocate(DType.BF16, M, N);
        spec = GemmSpec.of(M, N, K);
        plan = kernels.plan(spec);
        workspace = plan.workspaceBytes() == 0 ? null : arena.allocate(DType.U8, plan.workspaceBytes());
        launch = plan.bind(a, b, out, workspace);
        c = NativeBench.beside(Device.library().path())
                .openHost(Device.library().path(), device.index(), M, N, K);
    }

    /** Lets the device finish what the last loop left it. */
    @Setup(Level.Invocation)
    public void idle() {
        stream.synchronize();
        c.synchronize();
    }

    /** Lets all go. */
    @TearDown
    public void close() {
        c.close();
        launch.close();
        plan.close();
        arena.close();
        stream.close();
        kernels.close();
    }

    /** A call that does nothing, from C; {@link LibraryDowncall} is the same from Java. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void downcallInC() {
        c.run(NativeBench.HostCall.DOWNCALL, CALLS);
    }

    /** Plan and close. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void plan() {
        for (int i = 0; i < CALLS; i++) {
            kernels.plan(spec).close();
        }
    }

    /** Plan and close, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void planInC() {
        c.run(NativeBench.HostCall.PLAN, CALLS);
    }

    /** Bind and close. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void bind() {
        for (int i = 0; i < CALLS; i++) {
            plan.bind(a, b, out, workspace).close();
        }
    }

    /** Bind and close, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void bindInC() {
        c.run(NativeBench.HostCall.BIND, CALLS);
    }

    /** Rebind. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void rebind() {
        for (int i = 0; i < CALLS; i++) {
            launch.rebind(a, b, null, out, workspace);
        }
    }

    /** Rebind, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void rebindInC() {
        c.run(NativeBench.HostCall.REBIND, CALLS);
    }

    /** Launch. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void launch() {
        for (int i = 0; i < CALLS; i++) {
            launch.launch(stream);
        }
    }

    /** Launch, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void launchInC() {
        c.run(NativeBench.HostCall.LAUNCH, CALLS);
    }

    /** Launch with no rows in use: the whole way but the driver's launch, whose time varies more than the rest takes. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void launchNoRows() {
        for (int i = 0; i < CALLS; i++) {
            launch.launch(stream, 0);
        }
    }

    /** Launch with no rows in use, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void launchNoRowsInC() {
        c.run(NativeBench.HostCall.NO_ROWS, CALLS);
    }

    /** Plan, bind and launch in one call. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void eager() {
        for (int i = 0; i < CALLS; i++) {
            kernels.gemm(a, b, out, stream);
        }
    }

    /** Plan, bind and launch in one call, from C. */
    @Benchmark
    @OperationsPerInvocation(CALLS)
    public void eagerInC() {
        c.run(NativeBench.HostCall.EAGER, CALLS);
    }
}
