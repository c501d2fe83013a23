package io.hopper4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Shape;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

final class SafeTensorsTest {
    private static final Path NAME = Path.of("model.safetensors");

    @TempDir
    private Path folder;

    /** A file: the header's length, the header, data. */
    private static byte[] file(final String header, final byte... data) {
        final byte[] json = header.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + json.length + data.length)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json)
                .put(data)
                .array();
    }

    private static SafeTensors parse(final String header, final byte... data) throws SafeTensorsException {
        return SafeTensors.of(MemorySegment.ofArray(file(header, data)), NAME);
    }

    private static SafeTensorsException failure(final byte[] bytes) {
        final SafeTensorsException e = catchThrowableOfType(
                SafeTensorsException.class, () -> SafeTensors.of(MemorySegment.ofArray(bytes), NAME));
        assertThat(e).isNotNull();
        return e;
    }

    private Path write(final byte[] bytes) throws IOException {
        return Files.write(folder.resolve("model.safetensors"), bytes);
    }

    @Test
    void readsTensorsNamesAndMetadata() throws IOException {
        final byte[] data = ByteBuffer.allocate(20)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putFloat(1.5f)
                .putFloat(-2f)
                .putFloat(0.25f)
                .putFloat(8f)
                .putShort((short) 0x3F80)
                .putShort((short) 0xC000)
                .array();
        final Path path = write(file("""
                {"__metadata__": {"format": "pt", "note": "caf\\u00e9 \\ud83d\\ude00 ü"},
                 "b": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]},
                 "a.weight": {"data_offsets": [0, 16], "shape": [2, 2], "dtype": "F32"}}  \s""", data));
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThat(file.names()).containsExactly("b", "a.weight");
            assertThat(file.metadata()).isEqualTo(Map.of("format", "pt", "note", "café 😀 ü"));
            final HostTensor a = file.tensor("a.weight");
            assertThat(a.dtype()).isEqualTo(DType.F32);
            assertThat(a.shape()).isEqualTo(Shape.of(2, 2));
            assertThat(a.toFloats()).containsExactly(1.5f, -2f, 0.25f, 8f);
            assertThat(file.tensor("b").toFloats()).containsExactly(1f, -2f);
            assertThat(file.entry("b")).isEqualTo(new SafeTensors.Entry("b", "BF16", List.of(2L), 16, 4));
        }
    }

    @ParameterizedTest
    @CsvSource({"F32,4", "F16,2", "BF16,2", "F8_E4M3,1", "F8_E5M2,1", "F8_E8M0,1", "I64,8", "I32,4", "U8,1"})
    void knowsEveryTag(final String tag, final int bytes) throws IOException {
        final String header =
                "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}".formatted(tag, 3 * bytes);
        try (SafeTensors file = parse(header, new byte[3 * bytes])) {
            assertThat(file.tensor("t").dtype().safetensorsTag()).isEqualTo(tag);
            assertThat(file.tensor("t").toFloats()).hasSize(3);
        }
    }

    @Test
    void givesReadOnlyViewsThatEndWithTheFile() throws IOException {
        final Path path = write(file("{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", new byte[4]));
        final HostTensor tensor;
        try (SafeTensors file = SafeTensors.open(path)) {
            tensor = file.tensor("t");
            assertThatIllegalArgumentException().isThrownBy(() -> tensor.setFloat(1, 0));
        }
        assertThatIllegalStateException().isThrownBy(() -> tensor.getFloat(0));
    }

    @Test
    void readsFromAnyThread() throws Exception {
        final Path path = write(file("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", (byte) 7));
        try (SafeTensors file = SafeTensors.open(path)) {
            final HostTensor tensor = file.tensor("t");
            final float[] seen = new float[1];
            final Thread other = Thread.ofPlatform().start(() -> seen[0] = tensor.getFloat(0));
            other.join();
            assertThat(seen[0]).isEqualTo(7f);
        }
    }

    @Test
    void acceptsScalarsEmptyTensorsAndEmptyFiles() throws IOException {
        try (SafeTensors file = parse("""
                {"scalar":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"none":{"dtype":"F32","shape":[5,0],"data_offsets":[2,2]},
                 "vast":{"dtype":"U8","shape":[4294967296,0],"data_offsets":[0,0]}}""", (byte) 0, (byte) 0x3C)) {
            assertThat(file.tensor("scalar").getFloat()).isEqualTo(1f);
            assertThat(file.tensor("none").shape()).isEqualTo(Shape.of(5, 0));
            assertThat(file.tensor("vast").toFloats()).isEmpty();
        }
        try (SafeTensors file = parse("{}")) {
            assertThat(file.names()).isEmpty();
            assertThat(file.metadata()).isEmpty();
        }
    }

    @Test
    void listsAnUnknownTypeAndRefusesItsData() throws IOException {
        try (SafeTensors file = parse("{\"x\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", (byte) 0)) {
            assertThat(file.entry("x").dtype()).isEmpty();
            assertThatThrownBy(() -> file.tensor("x"))
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessage(
                            "safetensors: model.safetensors: tensor \"x\": dtype: got \"F4\", need one of F32, F16, BF16, F8_E4M3, "
                                    + "F8_E5M2, F8_E8M0, I32, I64, U8");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> file.tensor("y"))
                    .withMessage("safetensors: model.safetensors: name: got \"y\", need one of its 1 tensors");
        }
    }

    @Test
    void namesFilePlaceFoundAndAllowed() {
        final SafeTensorsException e =
                failure(file("{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", new byte[4]));
        assertThat(e.file()).isEqualTo("model.safetensors");
        assertThat(e.place()).isEqualTo("tensor \"t\": data_offsets");
        assertThat(e.got()).isEqualTo("4 bytes");
        assertThat(e.allowed()).isEqualTo("8 bytes for F32 [2]");
        assertThat(e)
                .hasMessage(
                        "safetensors: model.safetensors: tensor \"t\": data_offsets: got 4 bytes, need 8 bytes for F32 [2]");
    }

    @Test
    void refusesABadLength() {
        assertThat(failure(new byte[0])).hasMessageContaining("byte 0: got a file of 0 bytes");
        assertThat(failure(new byte[7])).hasMessageContaining("byte 0: got a file of 7 bytes");
        final byte[] beyond = file("{}");
        beyond[0] = 3;
        assertThat(failure(beyond)).hasMessageContaining("byte 0: got header length 3, need at most 2");
        final byte[] huge = file("{}");
        huge[7] = (byte) 0xFF;
        assertThat(failure(huge))
                .hasMessageContaining("got header length 18374686479671623682, need at most 100000000");
        final byte[] overLimit = file("{}");
        ByteBuffer.wrap(overLimit).order(ByteOrder.LITTLE_ENDIAN).putLong(0, 100_000_001);
        assertThat(failure(overLimit)).hasMessageContaining("got header length 100000001, need at most 100000000");
        assertThat(failure(file(""))).hasMessageContaining("byte 8: got the end of the header, need '{'");
    }

    /** Each header beside a part of the message, data being 8 bytes; ' stands for ". */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "[]                                                                   | byte 8: got '[', need '{' as the first byte",
                "` {}`                                                                | byte 8: got byte 0x20, need '{' as the first byte",
                "{                                                                    | byte 9: got the end of the header, need '\"'",
                "{} x                                                                 | got 'x', need only spaces after the header's last '}'",
                "{'t'}                                                                | byte 12: got '}', need ':'",
                "{'t':3}                                                              | byte 13: got '3', need '{'",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[0,8]},}               | got '}', need '\"'",
                "{'t':{'dtype':'U8','shape':[8]}}                                     | got tensor \"t\" without all its fields",
                "{'t':{}}                                                             | got tensor \"t\" without all its fields",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[0,8],'x':1}}          | got \"x\", need \"dtype\", \"shape\" or \"data_offsets\"",
                "{'t':{'dtype':'U8','dtype':'U8','shape':[8],'data_offsets':[0,8]}}   | got \"dtype\" a second time",
                "{'t':{'dtype':8,'shape':[8],'data_offsets':[0,8]}}                   | got '8', need '\"'",
                "{'t':{'dtype':'U8','shape':8,'data_offsets':[0,8]}}                  | got '8', need '['",
                "{'t':{'dtype':'U8','shape':[-8],'data_offsets':[0,8]}}               | got '-', need an integer of digits only",
                "{'t':{'dtype':'U8','shape':[8.0],'data_offsets':[0,8]}}              | got '8', need an integer of digits only",
                "{'t':{'dtype':'U8','shape':[8e0],'data_offsets':[0,8]}}              | got '8', need an integer of digits only",
                "{'t':{'dtype':'U8','shape':[08],'data_offsets':[0,8]}}               | got '0', need an integer of digits only",
                "{'t':{'dtype':'U8','shape':[[8]],'data_offsets':[0,8]}}              | got '[', need an integer of digits only",
                "{'t':{'dtype':'U8','shape':[9223372036854775808],'data_offsets':[0,8]}} | got an integer above 2^63 - 1",
                "{'t':{'dtype':'U8','shape':[99999999999999999999],'data_offsets':[0,8]}} | got an integer above 2^63 - 1",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[0]}}                  | got 1 data_offsets, need 2: begin and end",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[0,4,8]}}              | got 3 data_offsets, need 2: begin and end",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[8,0]}}                | tensor \"t\": data_offsets: got [8,0], need begin <= end",
                "{'t':{'dtype':'U8','shape':[9],'data_offsets':[0,9]}}                | got end 9, need at most 8, the bytes of data",
                "{'t':{'dtype':'U8','shape':[9223372036854775807],'data_offsets':[0,9223372036854775807]}} | got end 9223372036854775807, need at most 8",
                "{'t':{'dtype':'I64','shape':[4611686018427387904],'data_offsets':[0,8]}} | need less than 2^63 bytes",
                "{'t':{'dtype':'U8','shape':[4294967296,4294967296],'data_offsets':[0,8]}} | need less than 2^63 bytes",
                "{'t':{'dtype':'U8','shape':[0,4294967296,4294967296],'data_offsets':[0,0]}} | data byte 0: got 8 bytes after the last tensor",
                "{'t':{'dtype':'U8','shape':[7],'data_offsets':[0,7]}}                | data byte 7: got 1 bytes after the last tensor",
                "{}                                                                   | data byte 0: got 8 bytes after the last tensor",
                "{'t':{'dtype':'U8','shape':[7],'data_offsets':[1,8]}}                | tensor \"t\": data_offsets: got begin 1, a gap, need begin 0",
                "{'s':{'dtype':'U8','shape':[5],'data_offsets':[0,5]},'t':{'dtype':'U8','shape':[4],'data_offsets':[4,8]}} | got begin 4, an overlap, need begin 5",
                "{'t':{'dtype':'U8','shape':[8],'data_offsets':[0,8]},'t':{'dtype':'U8','shape':[8],'data_offsets':[0,8]}} | got \"t\" a second time",
                "{'__metadata__':{},'__metadata__':{}}                                | got \"__metadata__\" a second time",
                "{'__metadata__':{'a':'1','a':'2'}}                                   | got \"a\" a second time",
                "{'__metadata__':{'a':1}}                                             | got '1', need '\"'",
                "{'__metadata__':{'a':{'b':'c'}}}                                     | got '{', need '\"'",
                "{'a\\x':{}}                                                          | got 'x', need one of",
                "{'a\\u12g4':{}}                                                      | got 'g', need a hexadecimal digit",
                "{'a\\ud800':{}}                                                      | got a lone surrogate",
                "{'a\\udc00\\ud800':{}}                                               | got a lone surrogate",
                "{'a\\ud800\\u0041':{}}                                               | got a lone surrogate",
                "{'abc                                                                | got the end of the header, need '\"' to end the string"
            })
    void refusesAMalformedHeader(final String header, final String message) {
        final byte[] bytes = file(header.replace('\'', '"'), new byte[8]);
        assertThat(failure(bytes))
                .hasMessageStartingWith("safetensors: model.safetensors: ")
                .hasMessageContaining(message);
    }

    @ParameterizedTest
    @ValueSource(ints = {0x01, 0x0A, 0x80, 0xC0, 0xFF})
    void refusesControlCharactersAndBytesThatAreNotUtf8(final int b) {
        final byte[] bytes = file("{\"__metadata__\":{\"a\":\"?\"}}");
        bytes[8 + 22] = (byte) b;
        assertThat(failure(bytes).place()).isEqualTo("byte 30");
    }

    @Test
    void refusesDeepNestingWithoutRecursion() {
        assertThat(failure(file("{\"t\":" + "[".repeat(1_000_000)))).hasMessageContaining("need '{'");
    }

    /** Whatever bytes are in the file, the outcome is a file or the documented exception, never an access outside. */
    @Test
    void survivesDamagedFiles() throws IOException {
        final byte[] good = file("""
                {"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},\
                "b":{"dtype":"U8","shape":[4],"data_offsets":[16,20]}}""", new byte[20]);
        final SplittableRandom random = new SplittableRandom(9);
        int refused = 0;
        for (int i = 0; i < 20_000; i++) {
            final byte[] bytes =
                    random.nextInt(4) == 0 ? Arrays.copyOf(good, random.nextInt(good.length)) : good.clone();
            for (int changes = random.nextInt(3); changes > 0 && bytes.length > 0; changes--) {
                bytes[random.nextInt(bytes.length)] = (byte) random.nextInt(256);
            }
            try (SafeTensors file = SafeTensors.of(MemorySegment.ofArray(bytes), NAME)) {
                for (final String name : file.names()) {
                    if (file.entry(name).dtype().isPresent()) {
                        assertThat(file.tensor(name).toFloats().length).isLessThanOrEqualTo(20);
                    }
                }
            } catch (final SafeTensorsException e) {
                assertThat(e).hasMessageContaining("model.safetensors");
                refused++;
            }
        }
        assertThat(refused).isBetween(1_000, 19_000);
    }

    @Test
    void readsBeyondTwoGigabytes() throws IOException {
        final Path path = folder.resolve("sparse.safetensors");
        final long gap = 3L << 30;
        final byte[] head = file("""
                {"hole":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]},"last":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}""".formatted(gap, gap, gap, gap + 8));
        try (RandomAccessFile out = new RandomAccessFile(path.toFile(), "rw")) {
            out.write(head);
            out.setLength(head.length + gap + 8);
            out.seek(head.length + gap + 4);
            out.write(ByteBuffer.allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putFloat(42f)
                    .array());
        }
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThat(file.tensor("last").toFloats()).containsExactly(0f, 42f);
            assertThat(file.tensor("hole").getFloat(gap - 1)).isZero();
        }
    }

    @Test
    void letsTheFileGoWhenOpeningFails() throws IOException {
        final Path path = write(new byte[] {1, 2, 3});
        assertThatThrownBy(() -> SafeTensors.open(path))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessageContaining(path.toString());
        assertThatThrownBy(() -> SafeTensors.open(folder.resolve("absent"))).isInstanceOf(NoSuchFileException.class);
        assertThatThrownBy(() -> SafeTensors.open(folder)).isInstanceOf(IOException.class);
    }
}
