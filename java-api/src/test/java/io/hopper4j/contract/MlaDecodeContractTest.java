package io.hopper4j.contract;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.attention.MlaTolerance;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssertAlternative;
import org.assertj.core.data.Offset;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/** MLA decode over paged caches, within {@link MlaTolerance} of the formula of {@link MlaDecodeSpec}. */
abstract class MlaDecodeContractTest<T extends Tensor> {
    private static final long SEED = 20261125;
    private static final int[] EDGES = {0, 1, 63, 64, 65, 129, 1000};

    private static final List<MlaCacheFormat> FORMATS = List.of(MlaCacheFormat.values());

    private final Backend<T> backend;

    MlaDecodeContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** The seed is part of a case's name, so a failure can be repeated. */
    record Case(
            int heads,
            int sQ,
            int pageSize,
            boolean causal,
            int window,
            boolean sink,
            boolean ragged,
            int sms,
            MlaCacheFormat format,
            List<Integer> lengths,
            long seed) {
        MlaDecodeSpec spec() {
            return MlaDecodeSpec.of(heads, pageSize, 1, 1, 1)
                    .withSQ(sQ)
                    .withCausal(causal)
                    .withWindow(window)
                    .withSmBudget(sms)
                    .withCacheFormat(format);
        }
    }

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        final List<Integer> edges = Arrays.stream(EDGES).boxed().toList();
        final int[] pages = {1, 16, 64, 128};
        final int[] windows = {0, 0, 100, 64};
        int turn = 0;
        for (final int heads : new int[] {1, 3, 8, 16, 64, 128}) {
            for (final int sQ : new int[] {1, 2, 4}) {
                cases.add(new Case(
                        heads,
                        sQ,
                        pages[turn % 4],
                        turn % 3 != 2,
                        windows[turn / 2 % 4],
                        turn % 5 == 1,
                        turn % 2 == 1,
                        0,
                        MlaCacheFormat.BF16,
                        edges,
                        random.nextLong()));
                turn++;
            }
        }
        for (final MlaCacheFormat format : MlaCacheFormat.values()) {
            // One long request, which lies in many parts, and many short ones.
            cases.add(new Case(16, 1, 64, true, 0, false, false, 0, format, List.of(6000), random.nextLong()));
            cases.add(new Case(16, 1, 64, true, 0, true, false, 3, format, List.of(3000, 10, 900), random.nextLong()));
            final List<Integer> short3 = Collections.nCopies(200, 3);
            cases.add(new Case(1, 1, 16, true, 0, false, false, 0, format, short3, random.nextLong()));
            cases.add(new Case(128, 2, 64, true, 0, false, true, 0, format, edges, random.nextLong()));
            cases.add(new Case(8, 2, 1, true, 64, false, false, 0, format, edges, random.nextLong()));
        }
        for (int i = 0; i < 18; i++) {
            final List<Integer> lengths =
                    random.ints(random.nextInt(1, 12), 0, 500).boxed().toList();
            cases.add(new Case(
                    random.nextInt(1, 40),
                    random.nextInt(1, 6),
                    1 << random.nextInt(0, 9),
                    random.nextBoolean(),
                    random.nextBoolean() ? 0 : random.nextInt(1, 300),
                    random.nextBoolean(),
                    random.nextBoolean(),
                    random.nextBoolean() ? 0 : random.nextInt(1, 20),
                    FORMATS.get(i % FORMATS.size()),
                    lengths,
                    random.nextLong()));
        }
        return cases.stream();
    }

    // ---- one decode with all that belongs to it ----

    /** Tensors of a decode on the backend. */
    private final class Bench {
        final MlaData data;
        final MlaDecodePlan<T> plan;
        final T lengths;
        final @Nullable T tokens;
        final T schedule;
        final T out;
        final T lse;
        final MlaDecodeOperands<T> operands;

        Bench(final MlaData data) {
            this.data = data;
            plan = backend.kernels().plan(data.spec);
            lengths = backend.put(data.lengthTensor(backend.host));
            tokens = put(data.tokenTensor(backend.host));
            schedule = bytes(plan.scheduleBytes());
            out = backend.filled(outSpec(data.spec), Float.NaN);
            lse = backend.filled(lseSpec(data.spec), Float.NaN);
            operands = MlaDecodeOperands.<T>builder()
                    .q(backend.put(data.q))
                    .cache(backend.put(data.cache))
                    .blockTable(backend.put(data.blockTable))
                    .lengths(lengths)
                    .qTokens(tokens)
                    .sink(put(data.sinkTensor(backend.host)))
                    .schedule(schedule)
                    .out(out)
                    .lse(lse)
                    .workspace(plan.workspaceBytes() == 0 ? null : bytes(plan.workspaceBytes()))
                    .build();
        }

        Bench(final MlaDecodeSpec spec, final int... lengths) {
            this(new MlaData(backend.host, spec, lengths, null, false, SEED));
        }

        MlaScheduleLaunch<T> bindSchedule() {
            return plan.bindSchedule(lengths, tokens, schedule);
        }

        /** Schedule and decode of the first requests. */
        void run(final int batch) {
            try (MlaScheduleLaunch<T> first = bindSchedule();
                    MlaDecodeLaunch<T> then = plan.bind(operands)) {
                first.launch(backend.stream(), batch);
                then.launch(backend.stream(), batch);
            }
        }

        void run() {
            run(data.lengths.length);
        }

        void assertDecoded(final int[] lengthsThen, final int batch) {
            data.assertDecoded(backend.get(out), backend.get(lse), lengthsThen, batch);
        }
    }

    private @Nullable T put(final @Nullable HostTensor tensor) {
        return tensor == null ? null : backend.put(tensor);
    }

    private T bytes(final long count) {
        return backend.allocate(TensorSpec.packed(DType.U8, count));
    }

    private static TensorSpec outSpec(final MlaDecodeSpec spec) {
        return TensorSpec.packed(DType.BF16, spec.maxBatch(), spec.sQ(), spec.heads(), VALUE_DIM);
    }

    private static TensorSpec lseSpec(final MlaDecodeSpec spec) {
        return TensorSpec.packed(DType.F32, spec.maxBatch(), spec.heads(), spec.sQ());
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldAttendWithinBounds(final Case x) {
        final int[] lengths = x.lengths.stream().mapToInt(Integer::intValue).toArray();
        final int[] tokens = new int[lengths.length];
        Arrays.setAll(tokens, r -> (r + 1) % (x.sQ + 1));
        final MlaData data = new MlaData(backend.host, x.spec(), lengths, x.ragged ? tokens : null, x.sink, x.seed);
        final Bench bench = new Bench(data);
        try (bench.plan) {
            bench.run();
            bench.assertDecoded(lengths, lengths.length);
        }
    }

    @Test
    void shouldTakeRowsFartherApart() {
        final Bench bench = new Bench(MlaDecodeSpec.of(3, 16, 1, 1, 1).withSQ(2), 5, 130, 64);
        final T q = padded(bench.data.q, 16);
        final T cache = padded(bench.data.cache, 8);
        final T table = padded(bench.data.blockTable, 3);
        try (bench.plan;
                MlaScheduleLaunch<T> schedule = bench.bindSchedule();
                MlaDecodeLaunch<T> decode = bench.plan.bind(bench.operands.toBuilder()
                        .q(q)
                        .cache(cache)
                        .blockTable(table)
                        .build())) {
            schedule.launch(backend.stream());
            decode.launch(backend.stream());
            bench.assertDecoded(bench.data.lengths, 3);
        }
    }

    /** A tensor whose innermost rows are farther apart, with what must not be read between. */
    private T padded(final HostTensor elements, final int padding) {
        final int last = elements.spec().rank() - 1;
        final long[] dims = elements.shape().toArray();
        final int cols = Math.toIntExact(dims[last]);
        dims[last] += padding;
        final int stride = cols + padding;
        final float[] packed = elements.toFloats();
        final float[] values = new float[packed.length / cols * stride];
        final float between = elements.dtype() == DType.I32 ? -9 : Float.NaN;
        for (int i = 0; i < values.length; i++) {
            values[i] = i % stride < cols ? packed[i / stride * cols + i % stride] : between;
        }
        final T wide = backend.put(backend.hostTensor(TensorSpec.packed(elements.dtype(), dims), values));
        return backend.slice(wide, last, 0, cols);
    }

    @ParameterizedTest
    @EnumSource(MlaCacheFormat.class)
    void shouldFollowLengthsThatGrowForManyReplays(final MlaCacheFormat format) {
        final int steps = 256;
        final int[] lengths = {300, 0, 55, 8};
        final MlaDecodeSpec spec = MlaDecodeSpec.of(4, 16, 1, 1, 1).withCacheFormat(format);
        final Bench bench = new Bench(spec, 300 + steps, 400, 55 + steps, 8 + steps);
        backend.overwrite(bench.lengths, MlaData.integers(backend.host, lengths));
        try (bench.plan) {
            final MlaScheduleLaunch<T> schedule = bench.bindSchedule();
            final MlaDecodeLaunch<T> decode = bench.plan.bind(bench.operands);
            try (Graph step = backend.stream().capture(on -> {
                schedule.launch(on);
                decode.launch(on);
            })) {
                schedule.close();
                decode.close();
                assertThat(backend.get(bench.lse).toFloats())
                        .as("captured, not run")
                        .containsOnly(Float.NaN);
                for (int i = 1; i <= steps; i++) {
                    for (int r = 0; r < lengths.length; r++) {
                        lengths[r] = Math.min(bench.data.lengths[r], lengths[r] + (r == 1 ? 40 : 1));
                    }
                    backend.overwrite(bench.lengths, MlaData.integers(backend.host, lengths));
                    step.launch(backend.stream());
                    if (i == 1 || i % 32 == 0) {
                        bench.assertDecoded(lengths, 4);
                    }
                }
            }
        }
    }

    @Test
    void shouldUseFewerRequestsWhenLaunchedSo() {
        final int[] lengths = {100, 0, 300, 7, 64};
        for (final int batch : new int[] {0, 1, 3, 5}) {
            final Bench bench = new Bench(MlaDecodeSpec.of(8, 64, 1, 1, 1), lengths);
            try (bench.plan) {
                bench.run(batch);
                bench.assertDecoded(lengths, batch);
            }
        }
        final Bench bench = new Bench(MlaDecodeSpec.of(8, 64, 1, 1, 1), lengths);
        try (bench.plan;
                MlaScheduleLaunch<T> schedule = bench.bindSchedule();
                MlaDecodeLaunch<T> decode = bench.plan.bind(bench.operands)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> schedule.launch(backend.stream(), 6))
                    .withMessage("mla_schedule: rows: got 6, need 0..5, the rows bound");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> decode.launch(backend.stream(), -1))
                    .withMessage("mla_decode: rows: got -1, need 0..5, the rows bound");
        }
    }

    @Test
    void shouldGiveTheSameBitsWhenLaunchedTwiceAndFollowRebind() {
        final Bench bench = new Bench(MlaDecodeSpec.of(16, 64, 1, 1, 1), 2000, 3, 130);
        final Bench other = new Bench(new MlaData(
                backend.host, MlaDecodeSpec.of(16, 64, 1, 1, 1), new int[] {2000, 3, 130}, null, false, SEED + 1));
        try (bench.plan;
                other.plan;
                MlaScheduleLaunch<T> schedule = bench.bindSchedule();
                MlaDecodeLaunch<T> decode = bench.plan.bind(bench.operands)) {
            schedule.launch(backend.stream());
            decode.launch(backend.stream());
            final int[] once = Expected.bits(backend.get(bench.out));
            decode.launch(backend.stream());
            assertThat(Expected.bits(backend.get(bench.out))).isEqualTo(once);

            assertThatIllegalArgumentException()
                    .isThrownBy(() -> decode.rebind(
                            other.operands.toBuilder().q(bench.out).build()))
                    .withMessage("mla_decode: q: got shape [3,1,16,512], need [3,1,16,576]");
            decode.launch(backend.stream());
            assertThat(Expected.bits(backend.get(bench.out)))
                    .as("a failed rebind changes nothing")
                    .isEqualTo(once);

            schedule.rebind(other.lengths, null, other.schedule);
            decode.rebind(other.operands);
            schedule.launch(backend.stream());
            decode.launch(backend.stream());
            other.assertDecoded(other.data.lengths, 3);
            assertThat(Expected.bits(backend.get(bench.out)))
                    .as("no longer bound")
                    .isEqualTo(once);
        }
    }

    @Test
    void shouldShareOneScheduleBetweenLayers() {
        final int[] lengths = {500, 1, 0, 129};
        final Bench first = new Bench(MlaDecodeSpec.of(8, 16, 1, 1, 1), lengths);
        try (first.plan;
                MlaScheduleLaunch<T> schedule = first.bindSchedule();
                MlaDecodeLaunch<T> decode = first.plan.bind(first.operands)) {
            schedule.launch(backend.stream());
            decode.launch(backend.stream());
            for (int layer = 1; layer < 4; layer++) {
                final Bench next = new Bench(new MlaData(
                        backend.host, MlaDecodeSpec.of(8, 16, 1, 1, 1), lengths, null, false, SEED + layer));
                final MlaDecodeOperands<T> operands = next.operands.toBuilder()
                        .lengths(first.lengths)
                        .schedule(first.schedule)
                        .workspace(first.operands.workspace())
                        .build();
                next.plan.close();
                try (MlaDecodeLaunch<T> launch = first.plan.bind(operands)) {
                    launch.launch(backend.stream());
                }
                next.assertDecoded(lengths, 4);
            }
            first.assertDecoded(lengths, 4);
        }
    }

    @Test
    void shouldReadPagesOutsideTheCacheAsZerosAndNameTheFirst() {
        final Bench bench = new Bench(MlaDecodeSpec.of(4, 64, 1, 1, 1), 128, 64);
        final HostTensor table = bench.data.blockTable;
        final float valid = table.getFloat(0, 0);
        table.setFloat(2147480000f, 0, 1);
        table.setFloat(-1, 1, 0);
        backend.overwrite(bench.operands.blockTable(), table);
        final HostTensor zeros = HostTensor.allocate(backend.host, DType.BF16, 64, TOKEN_DIM);
        try (bench.plan) {
            bench.run();
            assertThatIllegalArgumentException()
                    .isThrownBy(backend.stream()::synchronize)
                    .withMessage(
                            "mla_decode: block_table[0]: got 2147480064, need 0.." + (bench.data.spec.pages() - 1));
            backend.stream().synchronize(); // told once
            final HostTensor out = backend.get(bench.out);
            final HostTensor lse = backend.get(bench.lse);
            assertThat(out.select(0, 1).toFloats()).as("zeros alone").containsOnly(0f);
            assertThat(lse.getFloat(1, 0, 0)).isCloseTo((float) Math.log(64), Offset.offset(2e-6f));
            // The same with a page of zeros inside the cache: the spare page that no request has.
            final float spare = spare(bench.data);
            bench.data.cache.select(0, (long) spare).setFloats(zeros.toFloats());
            table.setFloat(spare, 0, 1);
            table.setFloat(spare, 1, 0);
            backend.overwrite(bench.operands.cache(), bench.data.cache);
            backend.overwrite(bench.operands.blockTable(), table);
            assertThat(spare).isNotEqualTo(valid);
            bench.run();
            assertThat(Expected.bits(backend.get(bench.out))).isEqualTo(Expected.bits(out));
            assertThat(Expected.bits(backend.get(bench.lse))).isEqualTo(Expected.bits(lse));
        }
    }

    private static float spare(final MlaData data) {
        for (long page = 0; page < data.spec.pages(); page++) {
            if (Float.isNaN(data.cache.getFloat(page, 0, 0))) {
                return page;
            }
        }
        throw new AssertionError("no spare page");
    }

    @Test
    void shouldCutLengthsAndQueryTokensAndNameTheFirst() {
        final int[] lengths = {70, 70, 70, 70};
        final MlaData data = new MlaData(
                backend.host, MlaDecodeSpec.of(2, 16, 1, 1, 1).withSQ(2), lengths, new int[] {2, 0, 2, 1}, false, SEED);
        final Bench bench = new Bench(data);
        backend.overwrite(bench.lengths, MlaData.integers(backend.host, 1000, 70, -3, 70));
        backend.overwrite(
                Objects.requireNonNull(bench.operands.qTokens()), MlaData.integers(backend.host, 9, -1, 2, 1));
        try (bench.plan) {
            bench.run();
            assertThatIllegalArgumentException()
                    .isThrownBy(backend.stream()::synchronize)
                    .withMessage("mla_schedule: lengths[0]: got 1000, need 0..70");
            bench.assertDecoded(new int[] {70, 70, 0, 70}, 4);
            // Bad values of requests not in use are nobody's business.
            backend.overwrite(bench.lengths, MlaData.integers(backend.host, 70, 70, -3, 70));
            bench.run(1);
            assertThatIllegalArgumentException()
                    .isThrownBy(backend.stream()::synchronize)
                    .withMessage("mla_schedule: q_tokens[0]: got 9, need 0..2");
            backend.overwrite(
                    Objects.requireNonNull(bench.operands.qTokens()), MlaData.integers(backend.host, 2, -1, 2, 1));
            bench.run(1);
            backend.stream().synchronize();
        }
    }

    @Test
    void shouldTakeAnEmptyBatch() {
        final Bench bench = new Bench(MlaDecodeSpec.of(2, 16, 1, 1, 1));
        try (bench.plan) {
            bench.run();
            assertThat(backend.get(bench.out).toFloats()).isEmpty();
        }
    }

    // ---- bad input ----

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final Bench bench = new Bench(MlaDecodeSpec.of(8, 16, 1, 1, 1).withSQ(2), 100, 40);
        final MlaDecodeOperands<T> x = bench.operands;
        try (bench.plan) {
            final MlaDecodePlan<T> plan = bench.plan;
            final long pages = bench.data.spec.pages();
            refused(plan, x.toBuilder().q(filled(DType.F32, 2, 2, 8, 576)))
                    .withMessage("mla_decode: q: got dtype F32, need BF16");
            refused(plan, x.toBuilder().q(filled(DType.BF16, 2, 2, 4, 576)))
                    .withMessage("mla_decode: q: got shape [2,2,4,576], need [2,2,8,576]");
            refused(plan, x.toBuilder().q(backend.slice(filled(DType.BF16, 2, 2, 8, 580), 3, 0, 576)))
                    .withMessage(
                            "mla_decode: q: got strides [9280,4640,580,1], need rows of 576 at one distance, a multiple of 8");
            refused(plan, x.toBuilder().q(backend.slice(filled(DType.BF16, 2, 2, 9, 576), 2, 0, 8)))
                    .withMessage(
                            "mla_decode: q: got strides [10368,5184,576,1], need rows of 576 at one distance, a multiple of 8");
            refused(plan, x.toBuilder().cache(filled(DType.BF16, pages, 32, 576)))
                    .withMessage("mla_decode: cache: got shape [" + pages + ",32,576], need [" + pages + ",16,576]");
            refused(plan, x.toBuilder().cache(backend.slice(filled(DType.BF16, pages, 16, 580), 2, 0, 576)))
                    .withMessage(
                            "mla_decode: cache: got strides [9280,580,1], need rows of 576 at one distance, a multiple of 8");
            refused(plan, x.toBuilder().blockTable(filled(DType.I32, 2, 6)))
                    .withMessage(
                            "mla_decode: blockTable: got shape [2,6], need [2,w] with w at least 7 = ceil(100/16)");
            refused(plan, x.toBuilder().blockTable(filled(DType.I64, 2, 7)))
                    .withMessage("mla_decode: blockTable: got dtype I64, need I32");
            refused(plan, x.toBuilder().lengths(filled(DType.I32, 3)))
                    .withMessage("mla_decode: lengths: got shape [3], need [2]");
            refused(plan, x.toBuilder().qTokens(filled(DType.F32, 2)))
                    .withMessage("mla_decode: qTokens: got dtype F32, need I32");
            refused(plan, x.toBuilder().sink(filled(DType.F32, 7)))
                    .withMessage("mla_decode: sink: got shape [7], need [8]");
            refused(plan, x.toBuilder().schedule(bytes(plan.scheduleBytes() - 1)))
                    .withMessage("mla_decode: schedule: got " + (plan.scheduleBytes() - 1) + " bytes, need at least "
                            + plan.scheduleBytes() + " bytes");
            refused(plan, x.toBuilder().out(filled(DType.BF16, 2, 8, 2, 512)))
                    .withMessage("mla_decode: out: got shape [2,8,2,512], need [2,2,8,512]");
            refused(plan, x.toBuilder().out(backend.slice(filled(DType.BF16, 2, 2, 8, 576), 3, 0, 512)))
                    .withMessage("mla_decode: out: got strides [9216,4608,576,1], need a contiguous tensor");
            refused(plan, x.toBuilder().lse(filled(DType.F32, 2, 2, 8)))
                    .withMessage("mla_decode: lse: got shape [2,2,8], need [2,8,2]");
            refused(plan, x.toBuilder().workspace(x.lse()))
                    .withMessage("mla_decode: workspace: got F32 [2,8,2], need contiguous U8");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bindSchedule(filled(DType.I32, 3), null, bench.schedule))
                    .withMessage("mla_schedule: lengths: got shape [3], need [2]");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bindSchedule(bench.lengths, null, x.lse()))
                    .withMessage("mla_schedule: schedule: got F32 [2,8,2], need contiguous U8");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> MlaDecodeOperands.<T>builder().q(x.q()).build())
                    .withMessage("mla_decode: cache: got null, need a tensor");
            // The next correct call works.
            bench.run();
            bench.assertDecoded(bench.data.lengths, 2);
        }
    }

    private T filled(final DType dtype, final long... dims) {
        return backend.filled(TensorSpec.packed(dtype, dims), 0);
    }

    private ThrowableAssertAlternative<IllegalArgumentException> refused(
            final MlaDecodePlan<T> plan, final MlaDecodeOperands.Builder<T> operands) {
        return assertThatIllegalArgumentException().isThrownBy(() -> plan.bind(operands.build()));
    }

    @Test
    void shouldSayWhatIsUnsupported() {
        final MlaDecodeSpec spec = MlaDecodeSpec.of(129, 48, 65536, 1L << 30, 1L << 31)
                .withSQ(1025)
                .withWindow(Integer.MAX_VALUE);
        final List<Support.Reason> expected = List.of(
                new Support.Reason("mla_decode: heads", "129", "1..128"),
                new Support.Reason("mla_decode: sQ", "1025", "1..1024"),
                new Support.Reason("mla_decode: pageSize", "48", "a power of two up to 1024"),
                new Support.Reason("mla_decode: window", "2147483647", "at most 1073741823"),
                new Support.Reason("mla_decode: maxBatch", "65536", "at most 65535"),
                new Support.Reason("mla_decode: maxLength", "1073741824", "at most 1073741823"),
                new Support.Reason("mla_decode: pages", "2147483648", "at most 2147483647"));
        assertThat(backend.kernels().support(spec)).isEqualTo(new Support.Unsupported(expected));
        assertThatExceptionOfType(UnsupportedKernelException.class)
                .isThrownBy(() -> backend.kernels().plan(spec))
                .satisfies(e -> assertThat(e.reasons()).isEqualTo(expected))
                .withMessageStartingWith("mla_decode: heads: got 129, need 1..128; ");
        assertThat(backend.kernels().support(MlaDecodeSpec.of(1, 1, 0, 0, 1)).isSupported())
                .isTrue();
    }

    @Test
    void shouldRefuseUseAfterCloseAndCloseBeforeUsers() {
        final Kernels<T> kernels = backend.kernels();
        final Bench bench = new Bench(MlaDecodeSpec.of(2, 16, 1, 1, 1), 20);
        final MlaScheduleLaunch<T> schedule = bench.bindSchedule();
        final MlaDecodeLaunch<T> decode = bench.plan.bind(bench.operands);
        assertThatIllegalStateException()
                .isThrownBy(kernels::close)
                .withMessageContaining("close: got open [mla_decode plan")
                .withMessageContaining("need them closed before");
        assertThatIllegalStateException()
                .isThrownBy(bench.plan::close)
                .withMessageContaining("close: got open [mla_schedule launch")
                .withMessageContaining("mla_decode launch");
        schedule.launch(backend.stream());
        decode.launch(backend.stream());
        bench.assertDecoded(bench.data.lengths, 1);

        schedule.close();
        schedule.close();
        decode.close();
        assertThatIllegalStateException()
                .isThrownBy(() -> schedule.launch(backend.stream()))
                .withMessageStartingWith("mla_schedule launch")
                .withMessageEndingWith(": got a closed one, need an open one");
        assertThatIllegalStateException()
                .isThrownBy(() -> decode.launch(backend.stream()))
                .withMessageStartingWith("mla_decode launch")
                .withMessageEndingWith(": got a closed one, need an open one");
        assertThatIllegalStateException().isThrownBy(() -> decode.rebind(bench.operands));
        assertThatIllegalStateException().isThrownBy(() -> schedule.rebind(bench.lengths, null, bench.schedule));
        bench.plan.close();
        assertThatIllegalStateException()
                .isThrownBy(() -> bench.plan.bind(bench.operands))
                .withMessageStartingWith("mla_decode plan")
                .withMessageEndingWith(": got a closed one, need an open one");
        assertThatIllegalStateException().isThrownBy(bench::bindSchedule);
    }
}
