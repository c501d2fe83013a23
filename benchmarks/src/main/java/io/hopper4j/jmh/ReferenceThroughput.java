package io.hopper4j.jmh;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import io.hopper4j.reference.BlockScaledProduct;
import java.lang.foreign.Arena;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.NullUnmarked;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/** The plain Java reference: 256 x 2048 values quantised or dequantised, and a product of 64 x 256 x 2048 (67 MFLOP). */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@NullUnmarked // JMH fills the fields before it calls anything
public class ReferenceThroughput {
    private static final int M = 64;
    private static final int N = 256;
    private static final int K = 2048;

    private Arena arena;
    private HostTensor source;
    private Scaled<HostTensor> weight;
    private Scaled<HostTensor> activation;
    private HostTensor out;
    private HostTensor values;

    /** Made by JMH. */
    public ReferenceThroughput() {}

    /** Draws the operands. */
    @Setup
    @SuppressWarnings("MustBeClosed") // close() does
    public void open() {
        arena = Arena.ofShared();
        source = HostTensor.allocate(arena, DType.BF16, N, K);
        final Random random = new Random(1);
        final float[] drawn = new float[N * K];
        for (int i = 0; i < drawn.length; i++) {
            drawn[i] = (float) random.nextGaussian();
        }
        source.setFloats(drawn);
        weight = new Scaled<>(
                HostTensor.allocate(arena, DType.F8_E4M3, N, K),
                HostTensor.allocate(arena, Scaled.weightScaleSpec(N, K)),
                Scaling.WEIGHT_128X128);
        activation = new Scaled<>(
                HostTensor.allocate(arena, DType.F8_E4M3, M, K),
                HostTensor.allocate(arena, Scaled.activationScaleSpec(M, K)),
                Scaling.ACTIVATION_1X128);
        BlockQuantization.quantize(source, weight, ScaleKind.F32);
        BlockQuantization.quantize(source.slice(0, 0, M), activation, ScaleKind.F32);
        out = HostTensor.allocate(arena, DType.BF16, M, N);
        values = HostTensor.allocate(arena, DType.BF16, N, K);
    }

    /** Frees the operands. */
    @TearDown
    public void close() {
        arena.close();
    }

    /** Quantises. */
    @Benchmark
    public void quantize() {
        BlockQuantization.quantize(source, weight, ScaleKind.F32);
    }

    /** Dequantises. */
    @Benchmark
    public void dequantize() {
        BlockQuantization.dequantize(weight, values);
    }

    /** Multiplies. */
    @Benchmark
    public void multiply() {
        BlockScaledProduct.multiply(activation, weight, null, out);
    }
}
