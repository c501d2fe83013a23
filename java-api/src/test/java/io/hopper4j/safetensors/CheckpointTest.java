package io.hopper4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.hopper4j.HostTensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.assertj.core.api.ThrowableAssertAlternative;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Weights in several files, as model hubs lay them, right and damaged. */
final class CheckpointTest {
    @TempDir
    private Path folder;

    /** A file of F32 tensors of one element each. */
    private static byte[] shard(final Map<String, Float> tensors) {
        final StringBuilder header = new StringBuilder("{");
        final ByteBuffer data = ByteBuffer.allocate(4 * tensors.size()).order(ByteOrder.LITTLE_ENDIAN);
        tensors.forEach((name, value) -> {
            header.append(header.length() == 1 ? "" : ",")
                    .append("\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}"
                            .formatted(name, data.position(), data.position() + 4));
            data.putFloat(value);
        });
        return file(header.append('}').toString().getBytes(StandardCharsets.UTF_8), data.array());
    }

    private static byte[] file(final byte[] json, final byte[] data) {
        return ByteBuffer.allocate(8 + json.length + data.length)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json)
                .put(data)
                .array();
    }

    private Path shard(final String name, final Map<String, Float> tensors) throws IOException {
        return Files.write(folder.resolve(name), shard(tensors));
    }

    private Path index(final String... tensorsAndFiles) throws IOException {
        final Map<String, String> map = new LinkedHashMap<>();
        for (int i = 0; i < tensorsAndFiles.length; i += 2) {
            map.put(tensorsAndFiles[i], tensorsAndFiles[i + 1]);
        }
        final StringBuilder json = new StringBuilder(
                "{\"metadata\": {\"total_size\": 12, \"more\": [1.5e3, null, {}]}, \"weight_map\": {");
        map.forEach((name, file) -> json.append("\"%s\": \"%s\",".formatted(name, file)));
        json.setLength(json.length() - 1);
        return Files.writeString(folder.resolve("model.safetensors.index.json"), json + "}}");
    }

    private ThrowableAssertAlternative<SafeTensorsException> refused() {
        return assertThatExceptionOfType(SafeTensorsException.class).isThrownBy(() -> {
            try (Checkpoint checkpoint = Checkpoint.open(folder)) {
                assertThat(checkpoint).as("an open checkpoint").isNull();
            }
        });
    }

    private void twoShards() throws IOException {
        shard("1.safetensors", Map.of("a", 1f));
        shard("2.safetensors", Map.of("b", 2f));
        index("a", "1.safetensors", "b", "2.safetensors");
    }

    @Test
    void shouldReadShardsThroughTheirIndex() throws IOException {
        twoShards();
        final HostTensor b;
        try (Checkpoint weights = Checkpoint.open(folder)) {
            assertThat(weights.names()).containsExactly("a", "b");
            assertThat(weights.fileCount()).isEqualTo(2);
            b = weights.tensor("b");
            assertThat(weights.tensor("a").toFloats()).containsExactly(1f);
            assertThat(b.toFloats()).containsExactly(2f);
            assertThat(weights.entry("b").tag()).isEqualTo("F32");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> weights.tensor("c"))
                    .withMessageEndingWith("name: got \"c\", need one of its 2 tensors");
        }
        assertThatIllegalStateException().isThrownBy(() -> b.getFloat(0));
    }

    @Test
    void shouldReadOneFileWithoutAnIndex() throws IOException {
        final Path file = shard("model.safetensors", Map.of("a", 3f));
        for (final Path path : new Path[] {folder, file}) {
            try (Checkpoint weights = Checkpoint.open(path)) {
                assertThat(weights.tensor("a").toFloats()).containsExactly(3f);
                assertThat(weights.fileCount()).isEqualTo(1);
            }
        }
    }

    /** A hub's cache: blobs named by their hash, and a folder of links a revision. */
    @Test
    void shouldFollowTheLinksOfAHubCache() throws IOException {
        twoShards();
        final Path blobs = Files.createDirectories(folder.resolve("cache/blobs"));
        final Path snapshot = Files.createDirectories(folder.resolve("cache/snapshots/0123abcd"));
        int blob = 0;
        for (final String name : new String[] {"1.safetensors", "2.safetensors", "model.safetensors.index.json"}) {
            final Path target = Files.move(folder.resolve(name), blobs.resolve("hash" + blob++));
            Files.createSymbolicLink(snapshot.resolve(name), snapshot.relativize(target));
        }
        try (Checkpoint weights = Checkpoint.open(snapshot)) {
            assertThat(weights.tensor("b").toFloats()).containsExactly(2f);
        }
        Files.delete(blobs.resolve("hash1"));
        assertThatExceptionOfType(SafeTensorsException.class)
                .isThrownBy(() -> Checkpoint.open(snapshot))
                .withMessageContaining("tensor \"b\": got ")
                .withMessageContaining("2.safetensors, a link to ../../blobs/hash1, which is missing");
    }

    @Test
    void shouldNameAMissingShardAndItsTensor() throws IOException {
        twoShards();
        Files.delete(folder.resolve("2.safetensors"));
        refused()
                .withMessage("safetensors: %s: tensor \"b\": got %s, which is missing, need a file that exists"
                        .formatted(folder.resolve("model.safetensors.index.json"), folder.resolve("2.safetensors")))
                .withCauseInstanceOf(NoSuchFileException.class);
    }

    @Test
    void shouldNameATensorThatItsShardDoesNotHold() throws IOException {
        twoShards();
        index("a", "1.safetensors", "b", "1.safetensors");
        refused()
                .withMessageEndingWith(
                        "tensor \"b\": got 1.safetensors, which does not hold it, need the file that holds it");
    }

    @Test
    void shouldNameATensorThatLiesInTwoShards() throws IOException {
        twoShards();
        shard("2.safetensors", Map.of("a", 9f, "b", 2f));
        refused().withMessageContaining("tensor \"a\": got 1.safetensors, but it lies in 2.safetensors too");
    }

    @Test
    void shouldNameATensorThatTheIndexLeavesOut() throws IOException {
        twoShards();
        shard("2.safetensors", Map.of("b", 2f, "c", 3f));
        refused().withMessageContaining("tensor \"c\": got no entry, but it lies in 2.safetensors");
    }

    @Test
    void shouldNameATensorTwiceInTheIndex() throws IOException {
        twoShards();
        Files.writeString(
                folder.resolve("model.safetensors.index.json"),
                "{\"weight_map\": {\"a\": \"1.safetensors\", \"a\": \"2.safetensors\"}}");
        refused().withMessageContaining("\"a\" a second time");
    }

    @Test
    void shouldNameFileAndTensorOfALie() throws IOException {
        twoShards();
        for (final String lie : new String[] {
            "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
            "{\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}"
        }) {
            Files.write(folder.resolve("2.safetensors"), file(lie.getBytes(StandardCharsets.UTF_8), new byte[4]));
            refused()
                    .withMessageStartingWith(
                            "safetensors: " + folder.resolve("2.safetensors") + ": tensor \"b\": data_offsets: got ");
        }
    }

    @Test
    void shouldRefuseNamesThatAreNotUtf8() throws IOException {
        twoShards();
        final byte[] header = "{\"b\u00ff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
                .getBytes(StandardCharsets.ISO_8859_1);
        Files.write(folder.resolve("2.safetensors"), file(header, new byte[4]));
        refused()
                .withMessage("safetensors: %s: byte 10: got bytes that are not UTF-8, need UTF-8"
                        .formatted(folder.resolve("2.safetensors")));
    }

    @Test
    void shouldNotLeaveTheFolder() throws IOException {
        for (final String file :
                new String[] {"../1.safetensors", "/1.safetensors", "", "x/../1.safetensors", "./1.safetensors"}) {
            index("a", file);
            refused().withMessageEndingWith("tensor \"a\": got \"%s\", need a file beside the index".formatted(file));
        }
    }

    @Test
    void shouldRefuseAnIndexThatIsNone() throws IOException {
        final Path index = folder.resolve("model.safetensors.index.json");
        Files.writeString(index, "{\"metadata\": {}}");
        refused()
                .withMessage("safetensors: %s: byte 0: got no \"weight_map\", need one: the file of each tensor"
                        .formatted(index));
        Files.writeString(index, "{\"weight_map\": {}} x");
        refused().withMessageContaining("got 'x'");
        Files.delete(index);
        refused()
                .withMessage(
                        "safetensors: %s: folder: got no file *.safetensors, need *.safetensors.index.json or one *.safetensors"
                                .formatted(folder));
        shard("1.safetensors", Map.of("a", 1f));
        shard("2.safetensors", Map.of("b", 2f));
        refused().withMessageContaining("got 2 files *.safetensors: 1.safetensors, 2.safetensors, need one; name it");
    }

    @Test
    void shouldOpenTenThousandTensors() throws IOException {
        final Map<String, Float> tensors = new LinkedHashMap<>();
        final String[] map = new String[20_000];
        for (int i = 0; i < 10_000; i++) {
            final String name = "model.layers.%d.mlp.experts.%d.down_proj.weight".formatted(i / 256, i % 256);
            tensors.put(name, (float) i);
            map[2 * i] = name;
            map[2 * i + 1] = "1.safetensors";
        }
        shard("1.safetensors", tensors);
        index(map);
        try (Checkpoint weights = Checkpoint.open(folder)) {
            assertThat(weights.names()).hasSize(10_000).containsExactlyElementsOf(tensors.keySet());
            assertThat(weights.tensor(map[2 * 9_999]).toFloats()).containsExactly(9_999f);
        }
    }
}
