package io.hopper4j.jmh;

import io.hopper4j.safetensors.SafeTensors;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.NullUnmarked;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/** Opening a safetensors file: its header is read, its tensors are mapped, none is copied. */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@NullUnmarked // JMH fills the fields before it calls anything
public class SafetensorsOpening {
    private static final int EDGE = 64;

    /** Tensors in the file; a file of DeepSeek-V3's weights has about a thousand. */
    @Param({"10", "1000"})
    public int tensors;

    private Path file;

    /** Made by JMH. */
    public SafetensorsOpening() {}

    /**
     * Writes the file.
     *
     * @throws IOException if it cannot be written
     */
    @Setup
    public void write() throws IOException {
        final long bytes = 2L * EDGE * EDGE;
        final StringBuilder header = new StringBuilder("{");
        for (int i = 0; i < tensors; i++) {
            header.append(i == 0 ? "" : ",")
                    .append("\"model.layers.%d.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%d,%d]}"
                            .formatted(i, EDGE, EDGE, i * bytes, (i + 1) * bytes));
        }
        header.append('}');
        header.repeat(' ', Math.floorMod(-header.length(), 8));
        final byte[] text = header.toString().getBytes(StandardCharsets.UTF_8);
        file = Files.createTempFile("hopper4j", ".safetensors");
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
            channel.write(ByteBuffer.allocate(8)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putLong(text.length)
                    .flip());
            channel.write(ByteBuffer.wrap(text));
            channel.write(ByteBuffer.allocate(1), channel.position() + tensors * bytes - 1);
        }
    }

    /**
     * Removes the file.
     *
     * @throws IOException if it cannot be removed
     */
    @TearDown
    public void remove() throws IOException {
        Files.delete(file);
    }

    /**
     * {@return the number of tensors}
     *
     * @throws IOException if the file cannot be read
     */
    @Benchmark
    public int open() throws IOException {
        try (SafeTensors opened = SafeTensors.open(file)) {
            return opened.names().size();
        }
    }
}
