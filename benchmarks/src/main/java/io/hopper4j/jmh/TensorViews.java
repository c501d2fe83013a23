package io.hopper4j.jmh;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import java.lang.foreign.Arena;
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

/** Views of a tensor, which never copy. */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@NullUnmarked // JMH fills the fields before it calls anything
public class TensorViews {
    private Arena arena;
    private HostTensor tensor;

    /** Made by JMH. */
    public TensorViews() {}

    /** Allocates the tensor. */
    @Setup
    @SuppressWarnings("MustBeClosed") // close() does
    public void open() {
        arena = Arena.ofShared();
        tensor = HostTensor.allocate(arena, DType.BF16, 64, 16, 128);
    }

    /** Frees the tensor. */
    @TearDown
    public void close() {
        arena.close();
    }

    /** {@return a range of rows} */
    @Benchmark
    public HostTensor slice() {
        return tensor.slice(0, 16, 32);
    }

    /** {@return one row} */
    @Benchmark
    public HostTensor select() {
        return tensor.select(0, 16);
    }

    /** {@return the tensor with two dimensions exchanged} */
    @Benchmark
    public HostTensor transpose() {
        return tensor.transpose(0, 1);
    }

    /** {@return the tensor in another shape} */
    @Benchmark
    public HostTensor reshape() {
        return tensor.reshape(1024, 128);
    }

    /** {@return one element} */
    @Benchmark
    public float element() {
        return tensor.getFloat(31, 7, 63);
    }
}
