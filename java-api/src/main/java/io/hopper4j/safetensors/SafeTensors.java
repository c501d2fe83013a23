package io.hopper4j.safetensors;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * A safetensors file mapped into memory. Its tensors are read-only views of the mapping: opening a file of any size reads only the header, and a
 * tensor's pages are read when they are first touched.
 *
 * <pre>{@code
 * try (SafeTensors weights = SafeTensors.open(Path.of("model.safetensors"))) {
 *     HostTensor w = weights.tensor("model.layers.0.mlp.down_proj.weight");
 *     …
 * }
 * }</pre>
 *
 * <h2>Format</h2>
 * Eight bytes hold the length n of the header as an unsigned little-endian integer, n bytes hold the header in JSON (see the format's
 * <a href="https://github.com/huggingface/safetensors#format">description</a>), the rest is tensor data. Opening checks all of it: the header's length, its
 * grammar, that the tensors' byte ranges cover the data without gap or overlap, and that shape and type give exactly that range. What is
 * malformed is a {@link SafeTensorsException} that names the place. Element types beyond those of {@link DType} may occur: such a tensor is listed,
 * and asking for its data is an error.
 *
 * <h2>Lifetime and threads</h2>
 * Any thread may read. {@link #close} ends the mapping and with it all tensors of the file: touching one later throws {@link IllegalStateException}.
 * A file must not be cut short while it is mapped; the operating system then fails the access, which the JVM reports as {@link InternalError}.
 */
public final class SafeTensors implements AutoCloseable {
    /** The longest header that the format allows. */
    private static final long MAX_HEADER_BYTES = 100_000_000;

    private static final int LENGTH_BYTES = 8;
    private static final ValueLayout.OfLong LITTLE_ENDIAN =
            ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final Map<String, DType> TYPES =
            Arrays.stream(DType.values()).collect(Collectors.toUnmodifiableMap(DType::safetensorsTag, type -> type));

    private final Path file;
    private final MemorySegment data;
    private final Map<String, Entry> entries;
    private final Map<String, String> metadata;
    private final @Nullable Arena owned;

    /**
     * What the header says of one tensor.
     *
     * @param name its name
     * @param tag its element type as the file writes it, such as {@code "BF16"}
     * @param shape its sizes, outermost first; empty for a scalar
     * @param offset where its data begins, in bytes after the header
     * @param bytes how many bytes of data it has
     */
    public record Entry(String name, String tag, List<Long> shape, long offset, long bytes) {
        /** Copies the shape. */
        public Entry {
            Objects.requireNonNull(name, "name");
            Objects.requireNonNull(tag, "tag");
            shape = List.copyOf(shape);
        }

        /** {@return the element type, or nothing where it is none of {@link DType}} */
        public Optional<DType> dtype() {
            return Optional.ofNullable(TYPES.get(tag));
        }
    }

    private SafeTensors(final Path file, final MemorySegment bytes, final @Nullable Arena owned)
            throws SafeTensorsException {
        this.file = file;
        this.owned = owned;
        final long dataStart = dataStart(file, bytes);
        final byte[] json =
                bytes.asSlice(LENGTH_BYTES, dataStart - LENGTH_BYTES).toArray(ValueLayout.JAVA_BYTE);
        final HeaderParser.Header header = new HeaderParser(file, json, LENGTH_BYTES).parse();
        this.data = bytes.asSlice(dataStart).asReadOnly();
        this.metadata = Map.copyOf(header.metadata());
        this.entries = new LinkedHashMap<>();
        header.tensors()
                .forEach((name, t) ->
                        entries.put(name, new Entry(name, t.dtype(), t.shape(), t.begin(), t.end() - t.begin())));
        checkRanges();
        for (final Entry entry : entries.values()) {
            checkSize(entry);
        }
    }

    /**
     * Maps a file and checks its header.
     *
     * @param file the file; of any size
     * @return the open file, which the caller closes
     * @throws SafeTensorsException if it is not a well-formed safetensors file
     * @throws IOException if it cannot be opened, read or mapped
     */
    @SuppressWarnings("MustBeClosedChecker") // the result closes the arena, or the failure below
    public static SafeTensors open(final Path file) throws IOException {
        final Arena arena = Arena.ofShared();
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            final MemorySegment bytes = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
            return new SafeTensors(file, bytes, arena);
        } catch (final IOException | RuntimeException e) {
            arena.close();
            throw e;
        }
    }

    /**
     * Reads the bytes of a file that are in memory already. Nothing is copied; {@link #close} leaves the bytes alone.
     *
     * @param bytes a whole file, which stays with the caller and must live as long as its tensors are used
     * @param name what to call it in error messages
     * @return the file
     * @throws SafeTensorsException if the bytes are not a well-formed safetensors file
     */
    public static SafeTensors of(final MemorySegment bytes, final Path name) throws SafeTensorsException {
        return new SafeTensors(name, bytes, null);
    }

    private static long dataStart(final Path file, final MemorySegment bytes) throws SafeTensorsException {
        final long size = bytes.byteSize();
        if (size < LENGTH_BYTES) {
            throw new SafeTensorsException(file, "byte 0", "a file of " + size + " bytes", "8 bytes of header length");
        }
        final long length = bytes.get(LITTLE_ENDIAN, 0);
        if (length < 0 || length > MAX_HEADER_BYTES) {
            final String got = "header length " + Long.toUnsignedString(length);
            throw new SafeTensorsException(file, "byte 0", got, "at most " + MAX_HEADER_BYTES);
        }
        if (length > size - LENGTH_BYTES) {
            final String got = "header length " + length;
            throw new SafeTensorsException(
                    file, "byte 0", got, "at most " + (size - LENGTH_BYTES) + ", what follows in the file");
        }
        return LENGTH_BYTES + length;
    }

    /** The ranges in order of their begin must follow one another from 0 to the end of the data. */
    private void checkRanges() throws SafeTensorsException {
        for (final Entry entry : entries.values()) {
            if (entry.bytes() < 0) {
                final long end = entry.offset() + entry.bytes();
                throw bad(entry, "data_offsets", "[" + entry.offset() + "," + end + "]", "begin <= end");
            }
        }
        long end = 0;
        final List<Entry> ordered = entries.values().stream()
                .sorted(Comparator.comparingLong(Entry::offset).thenComparingLong(Entry::bytes))
                .toList();
        for (final Entry entry : ordered) {
            if (entry.offset() != end) {
                final String fault = entry.offset() < end ? "an overlap" : "a gap";
                throw bad(entry, "data_offsets", "begin " + entry.offset() + ", " + fault, "begin " + end);
            }
            if (entry.bytes() > data.byteSize() - end) {
                final String got = "end " + (end + entry.bytes());
                throw bad(entry, "data_offsets", got, "at most " + data.byteSize() + ", the bytes of data in the file");
            }
            end += entry.bytes();
        }
        if (end != data.byteSize()) {
            throw new SafeTensorsException(
                    file,
                    "data byte " + end,
                    (data.byteSize() - end) + " bytes after the last tensor",
                    "tensors that cover all " + data.byteSize() + " bytes of data");
        }
    }

    private void checkSize(final Entry entry) throws SafeTensorsException {
        final Optional<DType> dtype = entry.dtype();
        if (dtype.isEmpty()) {
            return;
        }
        long bytes = dtype.get().size();
        try {
            for (final long size : entry.shape()) {
                bytes = Math.multiplyExact(bytes, Math.max(1, size));
            }
        } catch (final ArithmeticException e) {
            final SafeTensorsException thrown =
                    bad(entry, "shape", entry.shape().toString(), "less than 2^63 bytes");
            thrown.initCause(e);
            throw thrown;
        }
        if (entry.shape().contains(0L)) {
            bytes = 0;
        }
        if (bytes != entry.bytes()) {
            throw bad(
                    entry,
                    "data_offsets",
                    entry.bytes() + " bytes",
                    bytes + " bytes for " + entry.tag() + " " + entry.shape());
        }
    }

    private SafeTensorsException bad(final Entry entry, final String field, final String got, final String allowed) {
        final String place = "tensor " + JsonText.quoted(entry.name()) + ": " + field;
        return new SafeTensorsException(file, place, got, allowed);
    }

    /** {@return the names of all tensors in the order of the header, unmodifiable} */
    public Set<String> names() {
        return Collections.unmodifiableSet(entries.keySet());
    }

    /** {@return the file's own key-value text, empty where it has none} */
    public Map<String, String> metadata() {
        return metadata;
    }

    /**
     * {@return what the header says of a tensor}
     *
     * @param name one of {@link #names}
     * @throws IllegalArgumentException if the file has no such tensor
     */
    public Entry entry(final String name) {
        final Entry entry = entries.get(name);
        if (entry == null) {
            throw new IllegalArgumentException("safetensors: %s: name: got %s, need one of its %d tensors"
                    .formatted(file, JsonText.quoted(name), entries.size()));
        }
        return entry;
    }

    /**
     * {@return a tensor: a read-only view of the file, packed row-major, which lives until {@link #close}}
     *
     * @param name one of {@link #names}
     * @throws IllegalArgumentException if the file has no such tensor
     * @throws SafeTensorsException if its element type is none of {@link DType}
     * @throws IllegalStateException if the file is closed
     */
    public HostTensor tensor(final String name) throws SafeTensorsException {
        final Entry entry = entry(name);
        final Optional<DType> dtype = entry.dtype();
        if (dtype.isEmpty()) {
            final String known =
                    Arrays.stream(DType.values()).map(DType::safetensorsTag).collect(Collectors.joining(", "));
            throw bad(entry, "dtype", JsonText.quoted(entry.tag()), "one of " + known);
        }
        final long[] dims = entry.shape().stream().mapToLong(Long::longValue).toArray();
        return HostTensor.wrap(data.asSlice(entry.offset(), entry.bytes()), TensorSpec.packed(dtype.get(), dims));
    }

    /**
     * Ends the mapping. All tensors of the file become unusable. Closing again does nothing.
     *
     * @throws IllegalStateException if another thread is inside an access to the mapping at this moment; the file then stays open
     */
    @Override
    public void close() {
        if (owned != null && owned.scope().isAlive()) {
            owned.close();
        }
    }
}
