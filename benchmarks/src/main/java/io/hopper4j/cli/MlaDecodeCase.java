package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.attention.MlaTolerance;
import io.hopper4j.reference.AttentionRow;
import io.hopper4j.reference.PagedLatentAttention;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;

/**
 * One decode against a sample of the reference. Pages lie in random order, slots that no request uses hold NaN, and the block table holds wild page
 * numbers behind each length.
 *
 * @param spec the operation, with room for at least {@code lengths.size()} requests
 * @param lengths cached tokens of the requests in use
 * @param ragged whether requests use different numbers of query tokens
 * @param sink whether there is a sink
 * @param seed of the operands
 */
record MlaDecodeCase(MlaDecodeSpec spec, List<Integer> lengths, boolean ragged, boolean sink, long seed)
        implements VerifyCase {
    private static final int SAMPLED_REQUESTS = 8;
    private static final int SAMPLED_ROWS = 12;
    private static final float WILD_PAGE = 2147480000f;

    /** Bits of 4096 normal numbers that cached tokens choose from, which is faster than making each. */
    private static final int CHOICES = 4096;

    MlaDecodeCase {
        lengths = List.copyOf(lengths);
    }

    /**
     * {@return a case whose spec has room for what the lengths need}
     *
     * @param spec heads, query tokens, page size and masks
     * @param spareRequests how many more requests there is room for
     */
    static MlaDecodeCase of(
            final MlaDecodeSpec spec,
            final List<Integer> lengths,
            final int spareRequests,
            final boolean ragged,
            final boolean sink,
            final long seed) {
        final long pages = lengths.stream()
                .mapToLong(n -> Math.ceilDiv(n, spec.pageSize()))
                .sum();
        final long longest =
                lengths.stream().mapToLong(Integer::longValue).max().orElse(0);
        final MlaDecodeSpec sized =
                spec.withRoom((long) lengths.size() + spareRequests, Math.max(1, longest), pages + 1);
        return new MlaDecodeCase(sized, lengths, ragged, sink, seed);
    }

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "b=%s h=%d sq=%d page=%d len<=%d%s%s%s%s%s"
                .formatted(
                        HostData.rows(lengths.size(), spec.maxBatch()),
                        spec.heads(),
                        spec.sQ(),
                        spec.pageSize(),
                        spec.maxLength(),
                        spec.causal() ? "" : " full",
                        spec.window() == 0 ? "" : " window=" + spec.window(),
                        ragged ? " ragged" : "",
                        sink ? " sink" : "",
                        spec.cacheFormat() == MlaCacheFormat.BF16 ? "" : " " + spec.cacheFormat());
    }

    @Override
    public Row run(final Gpu gpu) {
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                MlaDecodePlan<DeviceTensor> plan = gpu.kernels().plan(spec)) {
            final MlaDecodeOperands<HostTensor> x = operands(host, new SplitMix64(seed));
            final DeviceTensor lengthsThere = upload(gpu, arena, x.lengths());
            final DeviceTensor tokensThere = x.qTokens() == null ? null : upload(gpu, arena, x.qTokens());
            final DeviceTensor schedule = arena.allocate(DType.U8, plan.scheduleBytes());
            final DeviceTensor out = upload(gpu, arena, x.out());
            final DeviceTensor lse = upload(gpu, arena, x.lse());
            final MlaDecodeOperands<DeviceTensor> there = MlaDecodeOperands.<DeviceTensor>builder()
                    .q(upload(gpu, arena, x.q()))
                    .cache(upload(gpu, arena, x.cache()))
                    .blockTable(upload(gpu, arena, x.blockTable()))
                    .lengths(lengthsThere)
                    .qTokens(tokensThere)
                    .sink(x.sink() == null ? null : upload(gpu, arena, x.sink()))
                    .schedule(schedule)
                    .out(out)
                    .lse(lse)
                    .workspace(gpu.workspace(arena, plan))
                    .build();
            try (MlaScheduleLaunch<DeviceTensor> first = plan.bindSchedule(lengthsThere, tokensThere, schedule);
                    MlaDecodeLaunch<DeviceTensor> then = plan.bind(there)) {
                first.launch(gpu.stream(), lengths.size());
                then.launch(gpu.stream(), lengths.size());
                gpu.download(out, x.out());
                gpu.download(lse, x.lse());
                final MlaTolerance.Result error = compare(x, new SplitMix64(seed + 1));
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(then, lengths.size()),
                        new Row.Measure("error/bound", error.worstRatio(), 1),
                        new Row.Measure("lse/bound", error.worstLseRatio(), 1),
                        new Row.Measure("1-cos", error.cosineDistance(), MlaTolerance.MAX_COSINE_DISTANCE),
                        new Row.Measure("stray", (double) strayWrites(x), 0));
            }
        }
    }

    private static DeviceTensor upload(final Gpu gpu, final DeviceArena arena, final HostTensor source) {
        final DeviceTensor copy = arena.allocate(source.spec());
        copy.copyFrom(source, gpu.stream());
        return copy;
    }

    private int tokens(final int request) {
        return ragged ? (request + 1) % (spec.sQ() + 1) : spec.sQ();
    }

    /** All tensors on the host; outputs hold NaN, schedule and workspace are not needed. */
    MlaDecodeOperands<HostTensor> operands(final Arena host, final SplitMix64 random) {
        final long b = spec.maxBatch();
        final HostTensor q = HostTensor.allocate(host, DType.BF16, b, spec.sQ(), spec.heads(), TOKEN_DIM);
        HostData.fillWithNormal(q.reshape(b * spec.sQ() * spec.heads(), TOKEN_DIM), random);
        final MlaCacheFormat format = spec.cacheFormat();
        final HostTensor cache =
                poisoned(host, TensorSpec.packed(format.dtype(), spec.pages(), spec.pageSize(), format.tokenSize()));
        final HostTensor table = HostTensor.allocate(host, DType.I32, b, spec.tableWidth());
        final HostTensor lengthTensor = HostTensor.allocate(host, DType.I32, b);
        final HostTensor tokenTensor = HostTensor.allocate(host, DType.I32, b);
        final HostTensor normal = HostTensor.allocate(host, DType.BF16, 1, CHOICES);
        HostData.fillWithNormal(normal, random);
        final short[] choices = new short[CHOICES];
        for (int i = 0; i < CHOICES; i++) {
            normal.setFloat(0.1f * normal.getFloat(0, i), 0, i);
            choices[i] = normal.segment().getAtIndex(ValueLayout.JAVA_SHORT, i);
        }
        final int[] order = shuffled(Math.toIntExact(spec.pages()), random);
        int next = 0;
        for (int r = 0; r < b; r++) {
            // Requests not in use have lengths too, which nobody may follow.
            final int length = r < lengths.size() ? lengths.get(r) : (int) spec.maxLength();
            lengthTensor.setFloat(length, r);
            tokenTensor.setFloat(tokens(r), r);
            for (int i = 0; i < spec.tableWidth(); i++) {
                table.setFloat(WILD_PAGE, r, i);
            }
            for (int first = 0; r < lengths.size() && first < length; first += spec.pageSize()) {
                table.setFloat(order[next], r, first / spec.pageSize());
                final HostTensor page = cache.select(0, order[next++]);
                final HostTensor used = page.slice(0, 0, Math.min(spec.pageSize(), length - first));
                if (format == MlaCacheFormat.BF16) {
                    fill(used.segment(), choices, random);
                } else {
                    for (long j = 0; j < used.shape().size(0); j++) {
                        fillFp8(used.select(0, j).segment(), choices, random);
                    }
                }
            }
        }
        final HostTensor sinks = HostTensor.allocate(host, DType.F32, 1, spec.heads());
        HostData.fillWithNormal(sinks, random);
        return MlaDecodeOperands.<HostTensor>builder()
                .q(q)
                .cache(cache)
                .blockTable(table)
                .lengths(lengthTensor)
                .qTokens(ragged ? tokenTensor : null)
                .sink(sink ? sinks.select(0, 0) : null)
                .schedule(HostTensor.allocate(host, DType.U8, 0))
                .out(poisoned(host, TensorSpec.packed(DType.BF16, b, spec.sQ(), spec.heads(), VALUE_DIM)))
                .lse(poisoned(host, TensorSpec.packed(DType.F32, b, spec.heads(), spec.sQ())))
                .build();
    }

    private static HostTensor poisoned(final Arena host, final TensorSpec tensor) {
        final HostTensor result = HostTensor.allocate(host, tensor);
        result.segment().fill((byte) 0xFF);
        return result;
    }

    private static void fill(final MemorySegment values, final short[] choices, final SplitMix64 random) {
        long bits = 0;
        for (long i = 0; i < values.byteSize() / Short.BYTES; i++) {
            bits = i % 5 == 0 ? random.next() : bits >>> 12;
            values.set(ValueLayout.JAVA_SHORT_UNALIGNED, i * Short.BYTES, choices[(int) (bits & (CHOICES - 1))]);
        }
    }

    /** Codes of standard deviation 64 and scales around 0.1 / 64. */
    private void fillFp8(final MemorySegment token, final short[] choices, final SplitMix64 random) {
        HostData.fillWithNormalCodes(token.asSlice(0, VALUE_DIM), random);
        final int scales = spec.cacheFormat() == MlaCacheFormat.FP8_BLOCKS ? 4 : 1;
        for (int i = 0; i < 4; i++) {
            final float scale = i < scales ? (float) ((0.5 + random.fraction()) * 0.1 / 64) : 0;
            token.set(ValueLayout.JAVA_FLOAT_UNALIGNED, VALUE_DIM + (long) i * Float.BYTES, scale);
        }
        fill(token.asSlice(VALUE_DIM + 4 * Float.BYTES), choices, random);
    }

    private static int[] shuffled(final int count, final SplitMix64 random) {
        final int[] order = new int[count];
        Arrays.setAll(order, i -> i);
        for (int i = count - 1; i > 0; i--) {
            final int j = (int) random.below(i + 1L);
            final int swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        return order;
    }

    /** {@return the error of some rows of some requests} */
    MlaTolerance.Result compare(final MlaDecodeOperands<HostTensor> x, final SplitMix64 random) {
        final MlaTolerance tolerance = new MlaTolerance();
        for (final long r : HostData.sample(random, lengths.size(), SAMPLED_REQUESTS)) {
            final PagedLatentAttention.Request request = PagedLatentAttention.request(spec, x, r);
            final long rows = (long) request.tokens() * spec.heads();
            for (final long row : HostData.sample(random, rows, SAMPLED_ROWS)) {
                final int token = (int) (row / spec.heads());
                final int head = (int) (row % spec.heads());
                final AttentionRow expected = request.row(token, head);
                final float[] got =
                        x.out().select(0, r).select(0, token).select(0, head).toFloats();
                for (int d = 0; d < VALUE_DIM; d++) {
                    tolerance.add(got[d], expected.value(d));
                }
                tolerance.addLogSumExp(x.lse().getFloat(r, head, token), expected.logSumExp());
            }
        }
        return tolerance.result();
    }

    /** How many rows that are not in use have been written: all of them held NaN. */
    private long strayWrites(final MlaDecodeOperands<HostTensor> x) {
        long written = 0;
        for (int r = 0; r < spec.maxBatch(); r++) {
            for (int token = r < lengths.size() ? tokens(r) : 0; token < spec.sQ(); token++) {
                for (int head = 0; head < spec.heads(); head++) {
                    final HostTensor row = x.out().select(0, r).select(0, token).select(0, head);
                    for (final float value : row.toFloats()) {
                        written += Float.isNaN(value) ? 0 : 1;
                    }
                    written += Float.isNaN(x.lse().getFloat(r, head, token)) ? 0 : 1;
                }
            }
        }
        return written;
    }
}
