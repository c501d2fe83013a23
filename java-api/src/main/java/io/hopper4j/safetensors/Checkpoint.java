package io.hopper4j.safetensors;

import io.hopper4j.HostTensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * The weights of a model in one safetensors file or in several with an index, opened together.
 *
 * <pre>{@code
 * try (Checkpoint weights = Checkpoint.open(Path.of("DeepSeek-V3"))) {
 *     HostTensor w = weights.tensor("model.layers.3.mlp.experts.0.down_proj.weight");
 *     …
 * }
 * }</pre>
 *
 * <h2>Format</h2>
 * An index, {@code model.safetensors.index.json}, has a {@code weight_map} from the name of each tensor to the file that holds it, beside the index.
 * The index and the files may be symbolic links, as in the caches of model hubs; files are looked for beside the link. Opening reads and checks the
 * header of every file and holds the index to it: a file that is missing, a tensor that is not in its file, and a tensor that lies in another file
 * than the index says, or in one more, are {@link SafeTensorsException}s that name file and tensor. Sizes in the index's {@code metadata} are not
 * looked at.
 *
 * <p>Lifetime and threads are those of {@link SafeTensors}.
 */
public final class Checkpoint implements AutoCloseable {
    private static final String INDEX_SUFFIX = ".safetensors.index.json";
    private static final String FILE_SUFFIX = ".safetensors";

    private final Path source;
    private final Map<String, SafeTensors> fileOf;
    private final List<SafeTensors> files;

    private Checkpoint(final Path source, final Map<String, SafeTensors> fileOf, final List<SafeTensors> files) {
        this.source = source;
        this.fileOf = fileOf;
        this.files = files;
    }

    /**
     * Opens a checkpoint.
     *
     * @param path a folder with one index, or without an index and with one safetensors file; an index; or a safetensors file
     * @return the open checkpoint, which the caller closes
     * @throws SafeTensorsException if a file or the index is malformed, or they contradict each other
     * @throws IOException if a file cannot be opened, read or mapped
     */
    public static Checkpoint open(final Path path) throws IOException {
        final Path source = Files.isDirectory(path) ? inFolder(path) : path;
        if (source.toString().endsWith(".json")) {
            return openIndex(source);
        }
        final SafeTensors file = SafeTensors.open(source);
        final Map<String, SafeTensors> fileOf = new LinkedHashMap<>();
        file.names().forEach(name -> fileOf.put(name, file));
        return new Checkpoint(source, fileOf, List.of(file));
    }

    private static Path inFolder(final Path folder) throws IOException {
        for (final String suffix : List.of(INDEX_SUFFIX, FILE_SUFFIX)) {
            final List<Path> found;
            try (Stream<Path> entries = Files.list(folder)) {
                found = entries.filter(entry -> entry.toString().endsWith(suffix))
                        .sorted()
                        .toList();
            }
            if (found.size() == 1) {
                return found.getFirst();
            }
            if (!found.isEmpty()) {
                final String names = String.join(
                        ", ",
                        found.stream().map(file -> "" + file.getFileName()).toList());
                throw new SafeTensorsException(
                        folder, "folder", found.size() + " files *" + suffix + ": " + names, "one; name it");
            }
        }
        throw new SafeTensorsException(
                folder, "folder", "no file *" + FILE_SUFFIX, "*" + INDEX_SUFFIX + " or one *" + FILE_SUFFIX);
    }

    private static Checkpoint openIndex(final Path index) throws IOException {
        final Map<String, String> shards = new IndexParser(index, Files.readAllBytes(index)).parse();
        final Map<String, SafeTensors> opened = new TreeMap<>();
        try {
            final Map<String, SafeTensors> fileOf = new LinkedHashMap<>();
            for (final Map.Entry<String, String> entry : shards.entrySet()) {
                final String name = entry.getKey();
                final String shard = entry.getValue();
                SafeTensors file = opened.get(shard);
                if (file == null) {
                    file = openShard(index, name, shard);
                    opened.put(shard, file);
                }
                if (!file.names().contains(name)) {
                    throw bad(index, name, shard + ", which does not hold it", "the file that holds it");
                }
                fileOf.put(name, file);
            }
            for (final Map.Entry<String, SafeTensors> file : opened.entrySet()) {
                requirePlaced(index, shards, file.getKey(), file.getValue().names());
            }
            return new Checkpoint(index, fileOf, List.copyOf(opened.values()));
        } catch (final IOException | RuntimeException e) {
            opened.values().forEach(SafeTensors::close);
            throw e;
        }
    }

    private static SafeTensors openShard(final Path index, final String name, final String shard) throws IOException {
        final Path file;
        try {
            final Path relative = Path.of(shard);
            if (shard.isEmpty()
                    || relative.isAbsolute()
                    || relative.startsWith("..")
                    || !relative.equals(relative.normalize())) {
                throw bad(index, name, JsonText.quoted(shard), "a file beside the index");
            }
            file = index.resolveSibling(relative);
        } catch (final InvalidPathException e) {
            final SafeTensorsException thrown = bad(index, name, JsonText.quoted(shard), "the name of a file");
            thrown.initCause(e);
            throw thrown;
        }
        try {
            return SafeTensors.open(file);
        } catch (final NoSuchFileException e) {
            final String missing = Files.isSymbolicLink(file)
                    ? file + ", a link to " + Files.readSymbolicLink(file) + ", which is missing"
                    : file + ", which is missing";
            final SafeTensorsException thrown = bad(index, name, missing, "a file that exists");
            thrown.initCause(e);
            throw thrown;
        }
    }

    /** Every tensor of a file is where the index says. */
    private static void requirePlaced(
            final Path index, final Map<String, String> shards, final String shard, final Set<String> names)
            throws SafeTensorsException {
        for (final String name : names) {
            final String place = shards.get(name);
            if (!shard.equals(place)) {
                throw bad(
                        index,
                        name,
                        place == null
                                ? "no entry, but it lies in " + shard
                                : place + ", but it lies in " + shard + " too",
                        "each tensor in the one file that the index says");
            }
        }
    }

    private static SafeTensorsException bad(
            final Path index, final String name, final String got, final String allowed) {
        return new SafeTensorsException(index, "tensor " + JsonText.quoted(name), got, allowed);
    }

    /** {@return the names of all tensors in the order of the index, unmodifiable} */
    public Set<String> names() {
        return Collections.unmodifiableSet(fileOf.keySet());
    }

    /** {@return the number of files} */
    public int fileCount() {
        return files.size();
    }

    /**
     * {@return what the header of its file says of a tensor}
     *
     * @param name one of {@link #names}
     * @throws IllegalArgumentException if the checkpoint has no such tensor
     */
    public SafeTensors.Entry entry(final String name) {
        return file(name).entry(name);
    }

    /**
     * {@return a tensor: a read-only view of its file, packed row-major, which lives until {@link #close}}
     *
     * @param name one of {@link #names}
     * @throws IllegalArgumentException if the checkpoint has no such tensor
     * @throws SafeTensorsException if its element type is none of {@link io.hopper4j.DType}
     * @throws IllegalStateException if the checkpoint is closed
     */
    public HostTensor tensor(final String name) throws SafeTensorsException {
        return file(name).tensor(name);
    }

    /**
     * {@return what the first file that says something under a key in its own metadata says}
     *
     * @param key the key, such as {@code "format"}
     */
    public Optional<String> metadata(final String key) {
        return files.stream()
                .filter(file -> file.metadata().containsKey(key))
                .findFirst()
                .map(file -> file.metadata().get(key));
    }

    private SafeTensors file(final String name) {
        final SafeTensors file = fileOf.get(name);
        if (file == null) {
            throw new IllegalArgumentException("safetensors: %s: name: got %s, need one of its %d tensors"
                    .formatted(source, JsonText.quoted(name), fileOf.size()));
        }
        return file;
    }

    /**
     * Ends all mappings. All tensors become unusable. Closing again does nothing.
     *
     * @throws IllegalStateException if another thread is inside an access at this moment; that file then stays open, and close may be tried again
     */
    @Override
    public void close() {
        IllegalStateException failure = null;
        for (final SafeTensors file : files) {
            try {
                file.close();
            } catch (final IllegalStateException e) {
                failure = e;
            }
        }
        if (failure != null) {
            throw failure;
        }
    }
}
