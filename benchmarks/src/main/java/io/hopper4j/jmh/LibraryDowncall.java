package io.hopper4j.jmh;

import io.hopper4j.Device;
import io.hopper4j.bindings.hopper4j_h;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;

/** What one call into the library costs when the library does nothing in it; {@link GpuCalls#downcallInC} is the same from C. */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class LibraryDowncall {
    /** Made by JMH. */
    public LibraryDowncall() {}

    /** Loads the library. */
    @Setup
    public void load() {
        Device.library();
    }

    /** {@return the ABI version, from the library} */
    @Benchmark
    public int downcall() {
        return hopper4j_h.h4j_abi_version();
    }
}
