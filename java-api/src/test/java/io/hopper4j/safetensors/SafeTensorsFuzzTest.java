package io.hopper4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.hopper4j.HostTensor;
import io.hopper4j.testing.Fuzz;
import io.hopper4j.testing.Tally;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** Mutated files: each is refused with an error that names file and place, or its tensors lie side by side in its data and can be read. */
final class SafeTensorsFuzzTest {
    private static final Path NAME = Path.of("mutated.safetensors");
    private static final int MAX_DATA = 64;
    /** What mutations write into a header, beside random bytes. */
    private static final String[] WORDS = {
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "\\udc00",
        "\"a\"",
        "\"dtype\":",
        "\"shape\":",
        "\"data_offsets\":",
        "\"__metadata__\":",
        "\"F32\"",
        "\"F8_E8M0\"",
        "0",
        "00",
        "-1",
        "1e3",
        "1.0",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "null",
        "true",
        " ",
        "\n",
        "\u00e9",
        "{}",
        "[]",
        "[0,0]",
        "4294967296"
    };

    /** The committed headers, each with as much data as it says. */
    private static List<byte[]> corpus() throws IOException {
        try (InputStream in =
                Objects.requireNonNull(SafeTensorsFuzzTest.class.getResourceAsStream("/safetensors/corpus.txt"))) {
            final List<byte[]> files = new ArrayList<>();
            for (final String header : new String(in.readAllBytes(), StandardCharsets.UTF_8).split("\n", -1)) {
                for (int data = 0; data <= MAX_DATA; data++) {
                    final byte[] file = file(header.getBytes(StandardCharsets.UTF_8), data);
                    if (isRead(file)) {
                        files.add(file);
                        break;
                    }
                }
            }
            return files;
        }
    }

    private static byte[] file(final byte[] header, final int data) {
        return ByteBuffer.allocate(8 + header.length + data)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(header.length)
                .put(header)
                .array();
    }

    private static boolean isRead(final byte[] bytes) {
        try (SafeTensors file = SafeTensors.of(MemorySegment.ofArray(bytes), NAME)) {
            return file.names() != null;
        } catch (final SafeTensorsException e) {
            return false;
        }
    }

    private static byte[] mutate(final byte[] bytes, final SplittableRandom random) {
        byte[] mutated = bytes;
        final int times = 1 + random.nextInt(4);
        for (int i = 0; i < times; i++) {
            mutated = once(mutated, random);
        }
        if (mutated.length >= 8 && random.nextInt(8) != 0) {
            // The header's length follows, or most mutants would end there.
            final int data = random.nextInt(4) == 0 ? random.nextInt(MAX_DATA) : bytes.length - (int) length(bytes) - 8;
            ByteBuffer.wrap(mutated).order(ByteOrder.LITTLE_ENDIAN).putLong(0, Math.max(0, mutated.length - 8 - data));
        }
        return mutated;
    }

    private static long length(final byte[] bytes) {
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong(0);
    }

    private static byte[] once(final byte[] bytes, final SplittableRandom random) {
        final int at = random.nextInt(bytes.length + 1);
        final int until = Math.min(bytes.length, at + random.nextInt(9));
        final byte[] word = switch (random.nextInt(4)) {
            case 0 -> new byte[0];
            case 1 -> new byte[] {(byte) random.nextInt()};
            default -> WORDS[random.nextInt(WORDS.length)].getBytes(StandardCharsets.UTF_8);
        };
        final ByteBuffer mutated = ByteBuffer.allocate(at + word.length + bytes.length - until);
        return mutated.put(bytes, 0, at)
                .put(word)
                .put(bytes, until, bytes.length - until)
                .array();
    }

    /** Entries tile the data, and what they describe can be read: said here in other words than the reader's. */
    private static void requireSound(final List<SafeTensors.Entry> entries, final long data) {
        long end = 0;
        for (final SafeTensors.Entry entry : entries.stream()
                .sorted(Comparator.comparingLong(SafeTensors.Entry::offset).thenComparingLong(SafeTensors.Entry::bytes))
                .toList()) {
            if (entry.offset() != end || entry.bytes() < 0) {
                throw new AssertionError(entry + " does not begin at " + end);
            }
            end += entry.bytes();
            if (entry.dtype().isPresent()) {
                double bytes = entry.dtype().get().size();
                for (final long size : entry.shape()) {
                    bytes *= size;
                }
                if (bytes != entry.bytes()) {
                    throw new AssertionError(entry + " has room for other than " + bytes + " bytes");
                }
            }
        }
        if (end != data) {
            throw new AssertionError("tensors of " + end + " bytes in " + data);
        }
    }

    /** {@return whether the file was read; then it is sound} */
    private static boolean check(final byte[] bytes) throws IOException {
        try (SafeTensors file = SafeTensors.of(MemorySegment.ofArray(bytes), NAME)) {
            final List<SafeTensors.Entry> entries = new ArrayList<>();
            for (final String name : file.names()) {
                entries.add(file.entry(name));
                if (file.entry(name).dtype().isPresent()) {
                    final HostTensor tensor = file.tensor(name);
                    tensor.toFloats();
                }
            }
            requireSound(entries, bytes.length - 8 - length(bytes));
            return true;
        } catch (final SafeTensorsException e) {
            if (!String.valueOf(e.getMessage()).startsWith("safetensors: " + NAME + ": ")
                    || e.place().isEmpty()
                    || e.got().isEmpty()
                    || e.allowed().isEmpty()) {
                throw new AssertionError("an error that does not say where", e);
            }
            return false;
        }
    }

    @Test
    void shouldReadOrRefuseAMillionFiles() throws IOException {
        final List<byte[]> corpus = corpus();
        assertThat(corpus).as("files of the corpus").hasSize(10);
        final long inputs = Fuzz.times(1_000_000);
        final Tally tally = new Tally("safetensors headers");
        for (long i = 0; i < inputs; i++) {
            final SplittableRandom random = Fuzz.random(i);
            final byte[] mutated = mutate(corpus.get(random.nextInt(corpus.size())), random);
            try {
                if (check(mutated)) {
                    tally.addRight();
                } else {
                    tally.addRefused("with file, place, what was got and what is allowed");
                }
            } catch (final RuntimeException | AssertionError | StackOverflowError e) {
                throw new AssertionError(
                        "hopper4j.fuzz.seed=" + (Fuzz.seed() + i) + ": "
                                + Arrays.toString(mutated)
                                + " as text: " + new String(mutated, StandardCharsets.ISO_8859_1),
                        e);
            }
        }
        tally.print();
        assertThat(tally.right())
                .as("files that are read in spite of the mutation")
                .isBetween(inputs / 1000, inputs / 2);
    }

    /** What would get through if the reader did not look: two tensors on the same bytes, a gap, a shape that does not fit. */
    @Test
    void shouldCatchPlantedFaults() {
        final SafeTensors.Entry first = new SafeTensors.Entry("a", "U8", List.of(4L), 0, 4);
        final SafeTensors.Entry overlapping = new SafeTensors.Entry("b", "U8", List.of(4L), 2, 4);
        final SafeTensors.Entry behindAGap = new SafeTensors.Entry("b", "U8", List.of(4L), 5, 4);
        final SafeTensors.Entry lying = new SafeTensors.Entry("b", "F32", List.of(2L), 4, 4);
        for (final SafeTensors.Entry planted : List.of(overlapping, behindAGap, lying)) {
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> requireSound(List.of(first, planted), planted.offset() + planted.bytes()));
        }
        requireSound(List.of(first), 4);
    }

    /** Deep nesting, in an index where it is legal, does not exhaust the stack. */
    @Test
    void shouldBoundTheDepthOfAnIndex() {
        final String deep = "[".repeat(100_000);
        final byte[] json = ("{\"metadata\":" + deep).getBytes(StandardCharsets.UTF_8);
        assertThatExceptionOfType(SafeTensorsException.class)
                .isThrownBy(() -> new IndexParser(NAME, json).parse())
                .withMessageContaining("nested at most 32 deep");
    }

    @Test
    void shouldReadOrRefuseMutatedIndexes() {
        final byte[] index =
                "{\"metadata\":{\"total_size\":22,\"x\":[1.5e3,null,{\"y\":\"z\"}]},\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}"
                        .getBytes(StandardCharsets.UTF_8);
        for (long i = 0; i < Fuzz.times(100_000); i++) {
            final SplittableRandom random = Fuzz.random(i);
            byte[] mutated = index;
            for (int times = random.nextInt(4); times >= 0; times--) {
                mutated = once(mutated, random);
            }
            try {
                assertThat(new IndexParser(NAME, mutated)
                                .parse().keySet().stream().collect(Collectors.joining()))
                        .isNotNull();
            } catch (final SafeTensorsException e) {
                assertThat(e.getMessage()).startsWith("safetensors: " + NAME + ": byte ");
            }
        }
    }
}
