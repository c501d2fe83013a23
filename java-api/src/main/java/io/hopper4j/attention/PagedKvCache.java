package io.hopper4j.attention;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Event;
import io.hopper4j.HostTensor;
import io.hopper4j.OutOfPagesException;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * A cache of latents in pages, for all layers of a model, and who holds which page. Sequences grow token by token and may be forked: a fork
 * shares all pages of its source, and the first of them to append to a page that is only partly full gets a copy of its own.
 *
 * <p>The book is kept on the host; device memory is never read. A decode step is
 *
 * <p>{@snippet :
 * for (PagedKvCache.Sequence s : batch) {
 *     cache.append(s, 1, stream);        // room for the new token
 * }
 * cache.upload(batch, stream);           // block table, lengths and positions of the new tokens of this batch, in its order
 * // write the new tokens of each layer (writeOperands), then launch or replay schedule and decode with batch.size() requests
 * }
 *
 * <p>All work is put into the streams given. Pages that one sequence frees may serve another at once, so the steps that use the cache must be
 * ordered: one stream, or streams that wait for each other. None of the methods may be called while the stream is being captured; replaying a
 * graph after {@link #upload} is what graphs are for.
 *
 * <p>Of one thread at a time. The memory belongs to the arenas given; the cache must be closed before they are.
 *
 * @param <T> host or device tensors
 */
public final class PagedKvCache<T extends Tensor> implements AutoCloseable {
    /** Batches that may be on their way to the device before {@link #upload} has to wait for the oldest. */
    private static final int IN_FLIGHT = 4;

    private final MlaDecodeSpec spec;
    private final Memory<T> memory;
    private final Staging[] staging = new Staging[IN_FLIGHT];
    private int nextStaging;

    /** How many sequences hold each page. */
    private final int[] holders;

    /** Free pages; the first {@code freeCount} count. */
    private final int[] free;

    private int freeCount;
    private boolean closed;

    /** Tensors and the copies that depend on where they are. */
    private record Memory<T extends Tensor>(
            List<T> layers, T blockTable, T lengths, T positions, Upload<T> upload, PageCopy copyPage) {}

    /** Copies the first rows of a host tensor to the same rows of another, in stream order. */
    @FunctionalInterface
    private interface Upload<T> {
        void copy(HostTensor from, T to, long rows, Stream on);
    }

    /** Copies a page of every layer, in stream order. */
    @FunctionalInterface
    private interface PageCopy {
        void copy(int from, int to, Stream on);
    }

    /** Host memory that a copy to the device reads, and when it has. */
    private static final class Staging {
        private final HostTensor blockTable;
        private final HostTensor lengths;
        private final HostTensor positions;
        private @Nullable Event copied;

        Staging(final HostTensor blockTable, final HostTensor lengths, final HostTensor positions) {
            this.blockTable = blockTable;
            this.lengths = lengths;
            this.positions = positions;
        }

        /** Waits until it may be written again, which it mostly may. */
        void reclaim() {
            if (copied != null) {
                copied.synchronize();
                copied.close();
                copied = null;
            }
        }
    }

    /** Allocates host memory that the copies to the device start from. */
    @FunctionalInterface
    private interface StagingMemory {
        HostTensor allocate(long... dims);
    }

    private PagedKvCache(final MlaDecodeSpec spec, final Memory<T> memory, final StagingMemory host) {
        this.spec = spec;
        this.memory = memory;
        for (int i = 0; i < IN_FLIGHT; i++) {
            staging[i] = new Staging(
                    host.allocate(spec.maxBatch(), tableWidth(spec)),
                    host.allocate(spec.maxBatch()),
                    host.allocate(spec.maxBatch() * spec.sQ()));
        }
        final int pages = Math.toIntExact(spec.pages());
        holders = new int[pages];
        free = IntStream.range(0, pages).map(i -> pages - 1 - i).toArray();
        freeCount = pages;
    }

    /**
     * {@return a cache in device memory, which the caller closes}
     *
     * @param memory owns the cache, the block table and the lengths
     * @param pinned owns the page-locked memory that the block table and the lengths are copied from; a confined or shared arena
     * @param spec page size, pages, and the largest batch and length
     * @param layers of the model, at least 1; each has its own cache, all share the block table
     * @throws IllegalArgumentException if there is no layer, or more pages than a block table can name
     * @throws io.hopper4j.OutOfDeviceMemoryException if the card has not that much memory left
     */
    public static PagedKvCache<DeviceTensor> onDevice(
            final DeviceArena memory, final Arena pinned, final MlaDecodeSpec spec, final int layers) {
        final DeviceTensor storage = memory.allocate(storageSpec(spec, layers));
        return new PagedKvCache<>(
                spec,
                new Memory<>(
                        IntStream.range(0, layers)
                                .mapToObj(layer -> storage.select(0, layer))
                                .toList(),
                        memory.allocate(DType.I32, spec.maxBatch(), tableWidth(spec)),
                        memory.allocate(DType.I32, spec.maxBatch()),
                        memory.allocate(DType.I32, spec.maxBatch() * spec.sQ()),
                        (from, to, rows, on) -> to.slice(0, 0, rows).copyFrom(from.slice(0, 0, rows), on),
                        (from, to, on) -> storage.select(1, to).copyFrom(storage.select(1, from), on)),
                dims -> memory.device().allocatePinned(pinned, DType.I32, dims));
    }

    /**
     * {@return a cache in host memory, for the reference, which the caller closes; copies are done at once}
     *
     * @param memory owns all memory
     * @param spec page size, pages, and the largest batch and length
     * @param layers of the model, at least 1; each has its own cache, all share the block table
     * @throws IllegalArgumentException if there is no layer, or more pages than a block table can name
     */
    public static PagedKvCache<HostTensor> onHost(final Arena memory, final MlaDecodeSpec spec, final int layers) {
        final HostTensor storage = HostTensor.allocate(memory, storageSpec(spec, layers));
        final List<HostTensor> caches = IntStream.range(0, layers)
                .mapToObj(layer -> storage.select(0, layer))
                .toList();
        return new PagedKvCache<>(
                spec,
                new Memory<>(
                        caches,
                        HostTensor.allocate(memory, DType.I32, spec.maxBatch(), tableWidth(spec)),
                        HostTensor.allocate(memory, DType.I32, spec.maxBatch()),
                        HostTensor.allocate(memory, DType.I32, spec.maxBatch() * spec.sQ()),
                        (from, to, rows, on) -> copy(from.slice(0, 0, rows), to.slice(0, 0, rows)),
                        (from, to, on) -> caches.forEach(cache -> copy(cache.select(0, from), cache.select(0, to)))),
                dims -> HostTensor.allocate(memory, DType.I32, dims));
    }

    private static TensorSpec storageSpec(final MlaDecodeSpec spec, final int layers) {
        Arguments.require(layers >= 1, "kv_cache: layers", layers, "at least 1");
        Arguments.require(spec.pages() <= Integer.MAX_VALUE - 8, "kv_cache: pages", spec.pages(), "at most 2147483639");
        final MlaCacheFormat format = spec.cacheFormat();
        return TensorSpec.packed(format.dtype(), layers, spec.pages(), spec.pageSize(), format.tokenSize());
    }

    private static long tableWidth(final MlaDecodeSpec spec) {
        return Math.max(1, spec.tableWidth());
    }

    private static void copy(final HostTensor from, final HostTensor to) {
        MemorySegment.copy(from.segment(), 0, to.segment(), 0, from.segment().byteSize());
    }

    // ---- tensors ----

    /** {@return what the cache was made for} */
    public MlaDecodeSpec spec() {
        return spec;
    }

    /**
     * {@return the cache of a layer, {@code [pages, pageSize, n]} of the spec's {@link MlaCacheFormat}}
     *
     * @param layer from 0
     * @throws IndexOutOfBoundsException if there is no such layer
     */
    public T cache(final int layer) {
        return memory.layers().get(layer);
    }

    /** {@return the block table, I32 {@code [maxBatch, ceil(maxLength / pageSize)]}, whose rows {@link #upload} writes} */
    public T blockTable() {
        return memory.blockTable();
    }

    /** {@return the lengths, I32 {@code [maxBatch]}, which {@link #upload} writes} */
    public T lengths() {
        return memory.lengths();
    }

    /**
     * {@return the positions of a decode step's new tokens, I32 {@code [maxBatch * sQ]}, request by request, which {@link #upload} writes: those of the
     * tokens that were appended to a sequence since it was last uploaded, then -1. Where those are more than {@code sQ}, a prompt's, all are -1: they are
     * written by a launch with positions of its own}
     */
    public T positions() {
        return memory.positions();
    }

    /**
     * {@return the tensors that write a layer's new tokens of a decode step: its cache, the block table and the positions that {@link #upload} wrote}
     *
     * @param layer from 0
     * @param in BF16 {@code [maxBatch * sQ, 576]}, the layer's latent projection of the step's tokens, request by request
     * @param weight {@code [512]}, of the layer's norm
     * @param rope {@link RopeTable} of {@code maxLength} positions
     * @throws IndexOutOfBoundsException if there is no such layer
     */
    public MlaCacheWriteOperands<T> writeOperands(final int layer, final T in, final T weight, final T rope) {
        return new MlaCacheWriteOperands<>(in, weight, rope, positions(), null, blockTable(), cache(layer));
    }

    /** {@return how many pages no sequence holds} */
    public long freePages() {
        return freeCount;
    }

    // ---- sequences ----

    /** The cached tokens of one request. Belongs to the cache that made it. */
    public static final class Sequence {
        private final PagedKvCache<?> owner;
        private int[] pages;
        private int pageCount;
        private int length;
        /** The length when it was last uploaded. */
        private int uploaded;

        private boolean freed;

        private Sequence(final PagedKvCache<?> owner, final int[] pages, final int pageCount, final int length) {
            this.owner = owner;
            this.pages = pages;
            this.pageCount = pageCount;
            this.length = length;
        }

        /** {@return how many tokens it has} */
        public int length() {
            return length;
        }

        private void add(final int page) {
            if (pageCount == pages.length) {
                pages = Arrays.copyOf(pages, Math.max(4, 2 * pageCount));
            }
            pages[pageCount++] = page;
        }

        @Override
        public String toString() {
            return "sequence of " + length + " tokens" + (freed ? ", freed" : "");
        }
    }

    /**
     * {@return a new sequence without tokens, which {@link #free} ends}
     *
     * @throws IllegalStateException if the cache is closed
     */
    public Sequence allocate() {
        requireOpen();
        return new Sequence(this, new int[4], 0, 0);
    }

    /**
     * Makes room for more tokens at the end of a sequence. What they hold is undefined until they are written. Where the last page is partly full
     * and shared, the sequence gets a copy of it.
     *
     * @param sequence one of this cache
     * @param tokens how many
     * @param on the stream of the copy, if there is one to make
     * @throws OutOfPagesException if there are not enough free pages; nothing is changed then
     * @throws IllegalArgumentException if {@code tokens} is negative, or the sequence would be longer than the spec allows or is another cache's
     * @throws IllegalStateException if the cache is closed or the sequence freed
     */
    public void append(final Sequence sequence, final int tokens, final Stream on) {
        check(sequence);
        Arguments.require(
                tokens >= 0 && tokens <= spec.maxLength() - sequence.length,
                "kv_cache: tokens",
                tokens + " more than " + sequence.length,
                "0.." + (spec.maxLength() - sequence.length) + ", as maxLength is " + spec.maxLength());
        final int length = sequence.length + tokens;
        final int last = sequence.pageCount - 1;
        final boolean copies =
                tokens > 0 && sequence.length % spec.pageSize() != 0 && holders[sequence.pages[last]] > 1;
        final int added = Math.ceilDiv(length, spec.pageSize()) - sequence.pageCount;
        final int asked = added + (copies ? 1 : 0);
        if (asked > freeCount) {
            throw new OutOfPagesException(asked, freeCount);
        }
        if (copies) {
            final int shared = sequence.pages[last];
            memory.copyPage().copy(shared, free[freeCount - 1], on); // before anything is changed: it may fail
            holders[shared]--;
            sequence.pages[last] = take();
        }
        for (int i = 0; i < added; i++) {
            sequence.add(take());
        }
        sequence.length = length;
    }

    private int take() {
        final int page = free[--freeCount];
        holders[page] = 1;
        return page;
    }

    /**
     * {@return a new sequence with the same tokens, sharing all pages; no page is taken}
     *
     * @param sequence one of this cache
     * @throws IllegalArgumentException if the sequence is another cache's
     * @throws IllegalStateException if the cache is closed or the sequence freed
     */
    public Sequence fork(final Sequence sequence) {
        check(sequence);
        for (int i = 0; i < sequence.pageCount; i++) {
            holders[sequence.pages[i]]++;
        }
        final Sequence copy = new Sequence(
                this, Arrays.copyOf(sequence.pages, sequence.pages.length), sequence.pageCount, sequence.length);
        copy.uploaded = sequence.uploaded;
        return copy;
    }

    /**
     * Ends a sequence. Its pages are free once no fork holds them.
     *
     * @param sequence one of this cache
     * @throws IllegalArgumentException if the sequence is another cache's
     * @throws IllegalStateException if the cache is closed or the sequence was freed before
     */
    public void free(final Sequence sequence) {
        check(sequence);
        for (int i = 0; i < sequence.pageCount; i++) {
            final int page = sequence.pages[i];
            if (--holders[page] == 0) {
                free[freeCount++] = page;
            }
        }
        sequence.freed = true;
    }

    /**
     * {@return where a token lies: {@code page * pageSize + slot}, its row in {@link #cache} seen as {@code [pages * pageSize, 576]}}
     *
     * @param sequence one of this cache
     * @param position of the token, from 0 to the length - 1
     * @throws IllegalArgumentException if there is no such token, or the sequence is another cache's
     * @throws IllegalStateException if the cache is closed or the sequence freed
     */
    public long slot(final Sequence sequence, final int position) {
        check(sequence);
        Arguments.require(
                position >= 0 && position < sequence.length,
                "kv_cache: position",
                position,
                "0.." + (sequence.length - 1));
        return (long) sequence.pages[position / spec.pageSize()] * spec.pageSize() + position % spec.pageSize();
    }

    /**
     * Writes block table, lengths and positions of the new tokens of a batch, in stream order. Waits on the host only where the device is several batches behind.
     *
     * @param batch sequences of this cache, request 0 first
     * @param on the stream of the decode
     * @throws IllegalArgumentException if there are more than {@code maxBatch}, or one is another cache's
     * @throws IllegalStateException if the cache is closed or a sequence freed
     */
    public void upload(final List<Sequence> batch, final Stream on) {
        requireOpen();
        Arguments.require(
                batch.size() <= spec.maxBatch(),
                "kv_cache: batch",
                batch.size() + " sequences",
                "at most maxBatch = " + spec.maxBatch());
        batch.forEach(this::check);
        if (batch.isEmpty()) {
            return;
        }
        final Staging from = staging[nextStaging];
        from.reclaim();
        final MemorySegment table = from.blockTable.segment();
        final MemorySegment lengths = from.lengths.segment();
        final MemorySegment positions = from.positions.segment();
        final long width = tableWidth(spec);
        for (int r = 0; r < batch.size(); r++) {
            final Sequence sequence = batch.get(r);
            MemorySegment.copy(
                    sequence.pages, 0, table, ValueLayout.JAVA_INT, r * width * Integer.BYTES, sequence.pageCount);
            lengths.setAtIndex(ValueLayout.JAVA_INT, r, sequence.length);
            final int appended = sequence.length - sequence.uploaded;
            for (int i = 0; i < spec.sQ(); i++) {
                final boolean used = i < appended && appended <= spec.sQ();
                positions.setAtIndex(ValueLayout.JAVA_INT, (long) r * spec.sQ() + i, used ? sequence.uploaded + i : -1);
            }
            sequence.uploaded = sequence.length;
        }
        memory.upload().copy(from.blockTable, memory.blockTable(), batch.size(), on);
        memory.upload().copy(from.lengths, memory.lengths(), batch.size(), on);
        memory.upload().copy(from.positions, memory.positions(), (long) batch.size() * spec.sQ(), on);
        from.copied = on.record();
        nextStaging = (nextStaging + 1) % IN_FLIGHT;
    }

    private void check(final Sequence sequence) {
        requireOpen();
        Arguments.require(sequence.owner == this, "kv_cache: sequence", "one of another cache", "one of this");
        if (sequence.freed) {
            throw new IllegalStateException("kv_cache: sequence: got a freed one, need one that is not");
        }
    }

    private void requireOpen() {
        if (closed) {
            throw new IllegalStateException("kv_cache: got a closed one, need an open one");
        }
    }

    /** Waits for the copies on their way, so that the arenas may be closed. Closing a closed cache does nothing. */
    @Override
    public void close() {
        if (!closed) {
            closed = true;
            for (final Staging used : staging) {
                used.reclaim();
            }
        }
    }
}
