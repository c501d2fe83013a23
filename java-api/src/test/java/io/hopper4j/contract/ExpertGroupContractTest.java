package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.PeerTimeoutException;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.internal.MoeOperands;
import io.hopper4j.moe.CombineLaunch;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombinePlan;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchLaunch;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchPlan;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GroupBuffers;
import io.hopper4j.moe.MoeHalf;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import io.hopper4j.moe.Rendezvous;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/** What dispatch and combine promise. Ranks are threads of this process, unless {@link #run} is overridden. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
abstract class ExpertGroupContractTest<T extends Tensor> {
    private static final int SMALL_BUDGET = 8;

    /** Opens what a rank works with, on the rank's own thread. */
    abstract Backend<T> open(int rank);

    /** Numbers of ranks that this implementation is tried with. */
    abstract IntStream rankCounts();

    /** {@return ranks of what needs more than one, and no number of its own} */
    int several() {
        return 2;
    }

    /** {@return whether a rank is of this process} */
    boolean isHere(final int rank) {
        return true;
    }

    // ---- ranks as threads

    /** One rank's part of a test. */
    @FunctionalInterface
    interface Body<T extends Tensor> {
        void run(Rank<T> rank) throws Exception;
    }

    /** What a rank's part of a test has. */
    record Rank<T extends Tensor>(int number, Backend<T> backend, ExpertGroup<T> group, Runnable barrier) {
        /** Waits for all ranks, so that none of the test's own checks depends on another rank's haste. */
        void meet() {
            barrier.run();
        }
    }

    private static void await(final CyclicBarrier barrier) {
        try {
            barrier.await(2, TimeUnit.MINUTES);
        } catch (final InterruptedException | BrokenBarrierException | TimeoutException e) {
            throw new IllegalStateException("a rank has failed", e);
        }
    }

    /** Runs a part on every rank of a group. */
    void run(final ExpertGroupSpec spec, final Body<T> body) {
        final List<Rendezvous> ends = Rendezvous.inProcess(spec.ranks());
        final CyclicBarrier barrier = new CyclicBarrier(spec.ranks());
        final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();
        final List<Thread> threads = new ArrayList<>();
        for (final Rendezvous end : ends) {
            threads.add(Thread.ofPlatform().name("rank " + end.rank()).start(() -> {
                try (Backend<T> backend = open(end.rank());
                        ExpertGroup<T> group = backend.kernels().openGroup(spec, end)) {
                    final Rank<T> rank = new Rank<>(end.rank(), backend, group, () -> await(barrier));
                    body.run(rank);
                    rank.meet();
                } catch (final Throwable t) {
                    // The first failure is the cause; the others have waited for its rank in vain.
                    failure.compareAndSet(null, t);
                    barrier.reset();
                }
            }));
        }
        threads.forEach(ExpertGroupContractTest::join);
        final Throwable first = failure.get();
        if (first != null) {
            throw new AssertionError("a rank has failed: " + first.getMessage(), first);
        }
    }

    private static void join(final Thread thread) {
        try {
            thread.join();
        } catch (final InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
    }

    // ---- data: every rank makes the tokens of all, from the same seed

    /** Tokens of one rank: rows as they are given, and as they travel. Nobody compares these records. */
    @SuppressWarnings("ArrayRecordComponent")
    private record Tokens(
            int count,
            HostTensor given,
            @Nullable HostTensor givenScales,
            float[] rows,
            float[] scales,
            int[] experts,
            float[] weights) {}

    private static List<Tokens> tokens(final DispatchSpec call, final Arena arena, final long seed) {
        return tokens(call, arena, seed, seed);
    }

    private static List<Tokens> tokens(
            final DispatchSpec call, final Arena arena, final long seed, final long rowSeed) {
        final ExpertGroupSpec group = call.group();
        final SplittableRandom random = new SplittableRandom(seed);
        final List<Tokens> all = new ArrayList<>();
        for (int rank = 0; rank < group.ranks(); rank++) {
            // Rank 0 has as many as allowed, rank 1 none.
            final int count = switch (rank) {
                case 0 -> call.maxTokens();
                case 1 -> 0;
                default -> random.nextInt(call.maxTokens() + 1);
            };
            final int[] experts = new int[count * group.topK()];
            final float[] weights = new float[experts.length];
            for (int i = 0; i < experts.length; i++) {
                experts[i] = random.nextInt(8) == 0 ? -1 : random.nextInt(group.experts());
                weights[i] = (float) random.nextDouble(-1, 1);
            }
            final TensorSpec packed = TensorSpec.packed(DType.BF16, count, group.hidden());
            final HostTensor wide = Data.gaussian(arena, packed, rowSeed + rank);
            if (call.inDType() == DType.F8_E4M3) {
                final Scaled<HostTensor> x =
                        Data.quantized(arena, Scaling.ACTIVATION_1X128, count, group.hidden(), rowSeed + rank);
                all.add(new Tokens(
                        count,
                        x.values(),
                        x.scales(),
                        x.values().toFloats(),
                        x.scales().toFloats(),
                        experts,
                        weights));
            } else if (call.isCast()) {
                final Scaled<HostTensor> cast =
                        Expected.quantize(wide, Scaling.ACTIVATION_1X128, group.scaleKind(), arena);
                all.add(new Tokens(
                        count,
                        wide,
                        null,
                        cast.values().toFloats(),
                        cast.scales().toFloats(),
                        experts,
                        weights));
            } else {
                all.add(new Tokens(count, wide, null, wide.toFloats(), new float[0], experts, weights));
            }
        }
        return all;
    }

    private static int localExpert(final ExpertGroupSpec group, final int expert, final int rank) {
        final int per = Math.ceilDiv(group.experts(), group.ranks());
        return expert >= 0 && expert / per == rank ? expert % per : -1;
    }

    /** Whether an earlier k of the token names the same expert. */
    private static boolean isRepeated(final ExpertGroupSpec group, final Tokens tokens, final int entry) {
        final int first = entry / group.topK() * group.topK();
        return IntStream.range(first, entry).anyMatch(e -> tokens.experts()[e] == tokens.experts()[entry]);
    }

    /** A row that must come to a rank. */
    private record Coming(int source, int token) {}

    private static List<Coming> coming(
            final ExpertGroupSpec group, final List<Tokens> all, final int rank, final int... without) {
        final List<Coming> rows = new ArrayList<>();
        for (int source = 0; source < all.size(); source++) {
            final int s = source;
            if (IntStream.of(without).anyMatch(w -> w == s)) {
                continue;
            }
            for (int token = 0; token < all.get(source).count(); token++) {
                boolean here = false;
                for (int k = 0; k < group.topK(); k++) {
                    here |= localExpert(group, all.get(source).experts()[token * group.topK() + k], rank) >= 0;
                }
                if (here) {
                    rows.add(new Coming(source, token));
                }
            }
        }
        return rows;
    }

    // ---- a bound call of one rank

    /** The tensors of a call, filled with a rank's tokens. */
    private record Tensors<T extends Tensor>(
            T x,
            @Nullable T xScales,
            T experts,
            T weights,
            T handle,
            T received,
            @Nullable T out,
            @Nullable T outScales,
            @Nullable T expertRows) {
        DispatchOperands<T> operands() {
            final DispatchOperands<T> operands =
                    DispatchOperands.of(x, xScales, experts, weights, handle).withReceived(received);
            return out == null || expertRows == null ? operands : operands.withOut(out, outScales, expertRows);
        }
    }

    private Tensors<T> tensors(final Rank<T> rank, final DispatchPlan<T> plan, final Tokens tokens) {
        final DispatchSpec call = plan.spec();
        final ExpertGroupSpec group = call.group();
        final Backend<T> b = rank.backend();
        final int max = call.maxTokens();
        final long unit = 16 / call.inDType().size();
        final long ld = Math.ceilDiv(group.hidden(), unit) * unit;
        final HostTensor x = HostTensor.allocate(
                b.host, TensorSpec.strided(call.inDType(), new long[] {max, group.hidden()}, new long[] {ld, 1}));
        copyRows(tokens.given(), x);
        T xScales = null;
        if (tokens.givenScales() != null) {
            final HostTensor scales = HostTensor.allocate(b.host, Scaled.activationScaleSpec(max, group.hidden()));
            copyRows(tokens.givenScales(), scales);
            xScales = b.put(scales);
        }
        final HostTensor experts = ints(b, max, group.topK());
        final HostTensor weights = b.hostTensor(
                TensorSpec.packed(DType.F32, max, group.topK()), Arrays.copyOf(tokens.weights(), max * group.topK()));
        for (int i = 0; i < tokens.experts().length; i++) {
            experts.segment().setAtIndex(ValueLayout.JAVA_INT, i, tokens.experts()[i]);
        }
        T out = null;
        T outScales = null;
        T expertRows = null;
        final int local = group.localExperts(rank.number());
        if (call.mode() == MoeMode.LATENCY) {
            final long slots = plan.outRows();
            out = b.allocate(
                    TensorSpec.strided(group.rowDType(), new long[] {local, slots, group.hidden()}, new long[] {
                        slots * outLd(group), outLd(group), 1
                    }));
            outScales = group.isScaled() ? b.allocate(MoeOperands.latencyScales(group, rank.number())) : null;
            expertRows = b.put(ints(b, local));
        } else if (call.layout() == MoeLayout.EXPERT) {
            out = b.allocate(TensorSpec.strided(
                    group.rowDType(), new long[] {plan.outRows(), group.hidden()}, new long[] {outLd(group), 1}));
            outScales =
                    group.isScaled() ? b.allocate(Scaled.activationScaleSpec(plan.outRows(), group.hidden())) : null;
            expertRows = b.put(ints(b, local, 2));
        }
        return new Tensors<>(
                b.put(x),
                xScales,
                b.put(experts),
                b.put(weights),
                b.allocate(TensorSpec.packed(DType.U8, plan.handleBytes())),
                b.put(ints(b, group.ranks() + 1)),
                out,
                outScales,
                expertRows);
    }

    private static long outLd(final ExpertGroupSpec group) {
        final long unit = 16 / group.rowDType().size();
        return Math.ceilDiv(group.hidden(), unit) * unit;
    }

    private static HostTensor ints(final Backend<?> b, final long... dims) {
        return HostTensor.allocate(b.host, TensorSpec.packed(DType.I32, dims));
    }

    private static void copyRows(final HostTensor source, final HostTensor target) {
        final long rows = source.shape().size(0);
        target.slice(0, 0, rows).setFloats(source.toFloats());
    }

    private static int[] intsOf(final HostTensor tensor) {
        return tensor.segment().toArray(ValueLayout.JAVA_INT);
    }

    // ---- what must have come

    private void checkRow(
            final Rank<T> rank,
            final String where,
            final ExpertGroupSpec group,
            final Tokens source,
            final int token,
            final HostTensor row,
            final @Nullable HostTensor scales) {
        final float[] expected =
                Arrays.copyOfRange(source.rows(), token * group.hidden(), (token + 1) * group.hidden());
        assertThat(row.toFloats()).as("rank %d, %s", rank.number(), where).isEqualTo(expected);
        if (scales != null) {
            assertThat(scales.toFloats())
                    .as("rank %d, scales of %s", rank.number(), where)
                    .isEqualTo(
                            Arrays.copyOfRange(source.scales(), token * group.blocks(), (token + 1) * group.blocks()));
        }
    }

    private void checkRankLayout(
            final Rank<T> rank,
            final ExpertGroupSpec group,
            final Tensors<T> tensors,
            final List<Tokens> all,
            final int... without) {
        final Backend<T> b = rank.backend();
        final List<Coming> rows = coming(group, all, rank.number(), without);
        final int[] counts = new int[group.ranks() + 1];
        rows.forEach(row -> counts[row.source()]++);
        counts[group.ranks()] = rows.size();
        assertThat(intsOf(b.get(tensors.received())))
                .as("received by rank %d", rank.number())
                .isEqualTo(counts);

        final GroupBuffers<T> buffers = rank.group().buffers(0);
        final HostTensor values = b.get(buffers.rows());
        final HostTensor scales = buffers.scales() == null ? null : b.get(buffers.scales());
        final int[] experts = intsOf(b.get(buffers.experts()));
        final float[] weights = b.get(buffers.weights()).toFloats();
        for (int i = 0; i < rows.size(); i++) {
            final Coming row = rows.get(i);
            final Tokens source = all.get(row.source());
            checkRow(
                    rank,
                    "row " + i,
                    group,
                    source,
                    row.token(),
                    values.select(0, i),
                    scales == null ? null : scales.select(0, i));
            for (int k = 0; k < group.topK(); k++) {
                final int entry = row.token() * group.topK() + k;
                assertThat(experts[i * group.topK() + k])
                        .isEqualTo(localExpert(group, source.experts()[entry], rank.number()));
                assertThat(weights[i * group.topK() + k]).isEqualTo(source.weights()[entry]);
            }
        }
    }

    /** {@return the row of a rank's {@code out} of each token and k of each source; -1 where there is none} */
    private static int[][] placesAt(final int rank, final DispatchSpec call, final List<Tokens> all) {
        final ExpertGroupSpec group = call.group();
        final boolean latency = call.mode() == MoeMode.LATENCY;
        final int slots = group.ranks() * group.latencyTokens();
        final int[][] places = new int[group.ranks()][];
        for (int source = 0; source < group.ranks(); source++) {
            places[source] = new int[all.get(source).experts().length];
            Arrays.fill(places[source], -1);
        }
        int begin = 0;
        for (int expert = 0; expert < group.localExperts(rank); expert++) {
            int used = 0;
            for (int source = 0; source < group.ranks(); source++) {
                final Tokens tokens = all.get(source);
                for (int entry = 0; entry < tokens.experts().length; entry++) {
                    if (localExpert(group, tokens.experts()[entry], rank) == expert
                            && !(latency && isRepeated(group, tokens, entry))) {
                        places[source][entry] = (latency ? expert * slots : begin) + used;
                        used++;
                    }
                }
            }
            begin += Math.ceilDiv(used, call.alignment()) * call.alignment();
        }
        return places;
    }

    private static int[][][] places(final DispatchSpec call, final List<Tokens> all) {
        return IntStream.range(0, call.group().ranks())
                .mapToObj(rank -> placesAt(rank, call, all))
                .toArray(int[][][]::new);
    }

    private void checkExpertLayout(
            final Rank<T> rank,
            final DispatchSpec call,
            final Tensors<T> tensors,
            final List<Tokens> all,
            final int[][] places) {
        final ExpertGroupSpec group = call.group();
        final Backend<T> b = rank.backend();
        final boolean latency = call.mode() == MoeMode.LATENCY;
        final int[] ranges = intsOf(b.get(Objects.requireNonNull(tensors.expertRows())));
        final HostTensor out = b.get(Objects.requireNonNull(tensors.out()));
        final HostTensor scales = tensors.outScales() == null ? null : b.get(tensors.outScales());
        int begin = 0;
        for (int expert = 0; expert < group.localExperts(rank.number()); expert++) {
            int used = 0;
            for (int source = 0; source < group.ranks(); source++) {
                final Tokens tokens = all.get(source);
                for (int entry = 0; entry < tokens.experts().length; entry++) {
                    final int row = places[source][entry];
                    if (row < 0 || localExpert(group, tokens.experts()[entry], rank.number()) != expert) {
                        continue;
                    }
                    checkRow(
                            rank,
                            "expert " + expert + ", row " + used,
                            group,
                            tokens,
                            entry / group.topK(),
                            latency ? out.select(0, expert).select(0, used) : out.select(0, row),
                            scales == null
                                    ? null
                                    : latency ? scales.select(0, expert).select(0, used) : scales.select(0, row));
                    used++;
                }
            }
            if (latency) {
                assertThat(ranges[expert]).as("rows of expert %d", expert).isEqualTo(used);
            } else {
                assertThat(ranges[2 * expert]).as("begin of expert %d", expert).isEqualTo(begin);
                assertThat(ranges[2 * expert + 1])
                        .as("end of expert %d", expert)
                        .isEqualTo(begin + used);
                begin += Math.ceilDiv(used, call.alignment()) * call.alignment();
            }
        }
    }

    /** What a rank gives back for a row, made from its place alone, so that every rank can make it. */
    private static float returned(final int rank, final int row, final int column) {
        return ((rank * 31 + row * 7 + column * 13) % 64 - 31) / 32f;
    }

    private void fillReturned(final Rank<T> rank, final T rows) {
        final HostTensor values = rank.backend().get(rows);
        final HostTensor flat = values.shape().rank() == 3
                ? HostTensor.wrap(
                        values.segment(),
                        TensorSpec.packed(
                                DType.BF16,
                                values.shape().size(0) * values.shape().size(1),
                                values.shape().size(2)))
                : values;
        final float[] numbers = new float[Math.toIntExact(flat.spec().elements())];
        final int hidden = Math.toIntExact(flat.shape().size(1));
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = returned(rank.number(), i / hidden, i % hidden);
        }
        flat.setFloats(numbers);
        rank.backend().overwrite(rows, values);
    }

    /** Combines and compares with sums in double. */
    private void checkCombine(
            final Rank<T> rank,
            final DispatchSpec call,
            final Tensors<T> tensors,
            final List<Tokens> all,
            final int[][][] places,
            final int... without) {
        final ExpertGroupSpec group = call.group();
        final Backend<T> b = rank.backend();
        final Tokens mine = all.get(rank.number());
        final int hidden = group.hidden();
        T x = null;
        if (call.layout() == MoeLayout.RANK) {
            fillReturned(rank, rank.group().buffers(0).partials());
        } else {
            final TensorSpec out = Objects.requireNonNull(tensors.out()).spec();
            x = b.allocate(TensorSpec.packed(DType.BF16, out.shape().toArray()));
            fillReturned(rank, x);
        }
        final T residual = b.put(Data.gaussian(b.host, TensorSpec.packed(DType.BF16, call.maxTokens(), hidden), 5));
        final T out = b.allocate(TensorSpec.packed(DType.BF16, call.maxTokens(), hidden));
        rank.meet();
        final CombineSpec back = CombineSpec.of(call.withHalf(MoeHalf.WHOLE)).withResidual(true);
        if (call.half() == MoeHalf.WHOLE) {
            combine(rank, back, new CombineOperands<>(tensors.handle(), x, residual, out), mine.count());
        } else {
            combine(
                    rank,
                    back.withHalf(MoeHalf.START),
                    new CombineOperands<>(tensors.handle(), x, residual, out),
                    mine.count());
            combine(
                    rank,
                    back.withHalf(MoeHalf.FINISH),
                    new CombineOperands<>(tensors.handle(), x, residual, out),
                    mine.count());
        }
        final float[] got = b.get(out).toFloats();
        final float[] added = b.get(residual).toFloats();
        final int[] next = new int[group.ranks()];
        for (int to = 0; to < group.ranks(); to++) {
            for (final Coming row : coming(group, all, to, without)) {
                next[to] += row.source() < rank.number() ? 1 : 0;
            }
        }
        double error = 0;
        double size = 0;
        for (int token = 0; token < mine.count(); token++) {
            final double[] sum = new double[hidden];
            for (int i = 0; i < hidden; i++) {
                sum[i] = added[token * hidden + i];
            }
            double parts = 0;
            for (int to = 0; to < group.ranks(); to++) {
                final int r = to;
                if (IntStream.of(without).anyMatch(w -> w == r)) {
                    continue;
                }
                final double[] part = new double[hidden];
                boolean here = false;
                for (int k = 0; k < group.topK(); k++) {
                    final int entry = token * group.topK() + k;
                    if (localExpert(group, mine.experts()[entry], to) < 0) {
                        continue;
                    }
                    here = true;
                    final boolean counts = call.layout() == MoeLayout.EXPERT && places[to][rank.number()][entry] >= 0;
                    for (int i = 0; i < hidden && counts; i++) {
                        part[i] += mine.weights()[entry] * returned(to, places[to][rank.number()][entry], i);
                    }
                }
                if (here && call.layout() == MoeLayout.RANK) {
                    for (int i = 0; i < hidden; i++) {
                        part[i] = returned(to, next[to], i);
                    }
                    next[to]++;
                }
                for (int i = 0; i < hidden; i++) {
                    sum[i] += part[i];
                    parts += part[i] * part[i];
                }
            }
            double whole = 0;
            for (int i = 0; i < hidden; i++) {
                error += Math.pow(got[token * hidden + i] - sum[i], 2);
                whole += sum[i] * sum[i];
            }
            // Parts by expert are rounded too: what cancels leaves its rounding behind.
            size += whole + (call.layout() == MoeLayout.EXPERT ? parts : 0);
        }
        // Rounding to BF16 errs by 2^-8 of a value at most, by far less on the average of many.
        final double bound = mine.count() * hidden >= 4096 ? 5e-6 : 0x1p-16;
        assertThat(error).as("squared error of rank %d", rank.number()).isLessThanOrEqualTo(bound * size);
    }

    private void combine(
            final Rank<T> rank, final CombineSpec spec, final CombineOperands<T> operands, final int tokens) {
        try (CombinePlan<T> plan = rank.group().plan(spec);
                CombineLaunch<T> launch = plan.bind(operands)) {
            launch.launch(rank.backend().stream(), tokens);
            rank.backend().stream().synchronize();
            rank.group().check();
        }
    }

    private void dispatch(
            final Rank<T> rank, final DispatchPlan<T> plan, final DispatchOperands<T> operands, final int tokens) {
        try (DispatchLaunch<T> launch = plan.bind(operands)) {
            launch.launch(rank.backend().stream(), tokens);
            rank.backend().stream().synchronize();
            rank.group().check();
        }
    }

    // ---- the contract

    private static ExpertGroupSpec spec(final int ranks) {
        // The last rank has fewer experts, or none.
        return ExpertGroupSpec.of(ranks, 3 * ranks - 1, 4, ranks > 8 ? 64 : 136, ranks > 8 ? 3 : 40)
                .withSmBudget(SMALL_BUDGET)
                .withDeadline(Duration.ofMinutes(2));
    }

    private void there(final DispatchSpec call, final long seed) {
        // Of each round, made by the first rank that needs them.
        final Map<Integer, int[][][]> places = new ConcurrentHashMap<>();
        run(call.group(), rank -> {
            for (int round = 0; round < (call.group().ranks() > 8 ? 1 : 3); round++) {
                final List<Tokens> all = tokens(call, rank.backend().host, seed + 100L * round);
                final Tokens mine = all.get(rank.number());
                final int[][][] rows = call.layout() == MoeLayout.RANK
                        ? new int[0][][]
                        : places.computeIfAbsent(round, _ -> places(call, all));
                try (DispatchPlan<T> plan = rank.group().plan(call);
                        DispatchPlan<T> second = rank.group().plan(call.withHalf(MoeHalf.FINISH))) {
                    final Tensors<T> tensors = tensors(rank, plan, mine);
                    dispatch(rank, plan, tensors.operands(), mine.count());
                    if (call.half() == MoeHalf.START) {
                        dispatch(rank, second, tensors.operands(), mine.count());
                    }
                    if (call.layout() == MoeLayout.RANK) {
                        checkRankLayout(rank, call.group(), tensors, all);
                    } else {
                        checkExpertLayout(rank, call, tensors, all, rows[rank.number()]);
                    }
                    rank.meet();
                    checkCombine(rank, call, tensors, all, rows);
                    rank.meet();
                }
            }
        });
    }

    @ParameterizedTest
    @MethodSource("rankCounts")
    void sendsEachTokenOnceToEachRankAndBack(final int ranks) {
        there(DispatchSpec.of(spec(ranks), DType.F8_E4M3), 1);
    }

    @ParameterizedTest
    @MethodSource("rankCounts")
    void placesRowsByExpertAndSumsThem(final int ranks) {
        there(
                DispatchSpec.of(spec(ranks), DType.F8_E4M3)
                        .withLayout(MoeLayout.EXPERT)
                        .withAlignment(16),
                2);
    }

    @ParameterizedTest
    @MethodSource("rankCounts")
    void placesAFewTokensByExpertAndSumsThem(final int ranks) {
        final ExpertGroupSpec group = spec(ranks).withLatencyTokens(ranks > 8 ? 2 : 9);
        there(DispatchSpec.latency(group, DType.BF16), 3);
    }

    @ParameterizedTest
    @EnumSource(MoeLayout.class)
    void sendsBf16RowsAsTheyAre(final MoeLayout layout) {
        there(DispatchSpec.of(spec(several()).withRows(DType.BF16), DType.BF16).withLayout(layout), 4);
    }

    @ParameterizedTest
    @EnumSource(MoeLayout.class)
    void castsRowsToFp8(final MoeLayout layout) {
        there(
                DispatchSpec.of(spec(several()).withScaleKind(ScaleKind.POWER_OF_TWO), DType.BF16)
                        .withLayout(layout),
                5);
    }

    @ParameterizedTest
    @EnumSource(MoeLayout.class)
    void doesHalvesOneAfterTheOther(final MoeLayout layout) {
        there(DispatchSpec.of(spec(several()), DType.F8_E4M3).withLayout(layout).withHalf(MoeHalf.START), 6);
    }

    @Test
    void doesHalvesOfAFewTokens() {
        there(
                DispatchSpec.latency(spec(several()).withLatencyTokens(8), DType.BF16)
                        .withHalf(MoeHalf.START),
                7);
    }

    @Test
    void sendsFp8RowsOfAFewTokensAsTheyAre() {
        there(DispatchSpec.latency(spec(several()).withLatencyTokens(8), DType.F8_E4M3), 8);
    }

    @Test
    void keepsTheRoutingOfAHandle() {
        final DispatchSpec call = DispatchSpec.of(spec(several()), DType.BF16);
        run(call.group(), rank -> {
            final List<Tokens> first = tokens(call, rank.backend().host, 9);
            // Other rows for the tokens of the first call.
            final List<Tokens> second = tokens(call, rank.backend().host, 9, 10);
            try (DispatchPlan<T> plan = rank.group().plan(call);
                    DispatchPlan<T> again = rank.group().plan(call.withReuse(true))) {
                final Tokens mine = first.get(rank.number());
                final Tensors<T> tensors = tensors(rank, plan, mine);
                dispatch(rank, plan, tensors.operands(), mine.count());
                rank.meet();
                final Tensors<T> others = tensors(rank, plan, second.get(rank.number()));
                dispatch(
                        rank,
                        again,
                        DispatchOperands.of(others.x(), null, tensors.experts(), tensors.weights(), tensors.handle())
                                .withReceived(tensors.received()),
                        mine.count());
                checkRankLayout(rank, call.group(), tensors, second);
                rank.meet();
            }
        });
    }

    @Test
    void leavesMaskedRanksOut() {
        final int ranks = Math.max(3, several());
        final DispatchSpec call = DispatchSpec.of(spec(ranks), DType.F8_E4M3);
        final int left = 1;
        run(call.group(), rank -> {
            rank.group()
                    .setActive(IntStream.range(0, ranks).filter(r -> r != left).toArray());
            final List<Tokens> all = tokens(call, rank.backend().host, 11);
            final Tokens mine = all.get(rank.number());
            try (DispatchPlan<T> plan = rank.group().plan(call)) {
                final Tensors<T> tensors = tensors(rank, plan, mine);
                dispatch(rank, plan, tensors.operands(), mine.count());
                if (rank.number() != left) {
                    checkRankLayout(rank, call.group(), tensors, all, left);
                }
                rank.meet();
                rank.group().setActive(IntStream.range(0, ranks).toArray());
                dispatch(rank, plan, tensors.operands(), mine.count());
                checkRankLayout(rank, call.group(), tensors, all);
                rank.meet();
            }
        });
    }

    @Test
    void tellsOfARankThatDoesNotCome() {
        final int last = several() - 1;
        final DispatchSpec call = DispatchSpec.of(spec(several()).withDeadline(Duration.ofMillis(300)), DType.F8_E4M3);
        final DispatchSpec without = DispatchSpec.of(spec(last), DType.F8_E4M3);
        run(call.group(), rank -> {
            final List<Tokens> all = tokens(call, rank.backend().host, 12);
            final Tokens mine = all.get(rank.number());
            try (DispatchPlan<T> plan = rank.group().plan(call)) {
                final Tensors<T> tensors = tensors(rank, plan, mine);
                rank.meet();
                if (rank.number() != last) {
                    final long begin = System.nanoTime();
                    assertThatThrownBy(() -> dispatch(rank, plan, tensors.operands(), mine.count()))
                            .isInstanceOfSatisfying(
                                    PeerTimeoutException.class,
                                    e -> assertThat(e.rank()).isEqualTo(last));
                    assertThat(Duration.ofNanos(System.nanoTime() - begin)).isLessThan(Duration.ofSeconds(20));
                    assertThatThrownBy(() -> dispatch(rank, plan, tensors.operands(), mine.count()))
                            .as("the group is lost")
                            .isInstanceOf(PeerTimeoutException.class);
                }
            }
            rank.meet();
        });
        there(without, 13);
    }

    @Test
    void namesWhatItRefuses() {
        final ExpertGroupSpec group = spec(1);
        final DispatchSpec call = DispatchSpec.of(group, DType.F8_E4M3);
        run(group, rank -> {
            final Tokens mine = tokens(call, rank.backend().host, 14).getFirst();
            try (DispatchPlan<T> plan = rank.group().plan(call)) {
                final Tensors<T> tensors = tensors(rank, plan, mine);
                assertThatThrownBy(() -> dispatch(rank, plan, tensors.operands(), call.maxTokens() + 1))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("moe_dispatch: rows: got 41, need 0..40");
                assertThatThrownBy(() -> plan.bind(DispatchOperands.of(
                                tensors.x(), null, tensors.experts(), tensors.weights(), tensors.handle())))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("moe_dispatch: xScales: got null, need a tensor");
                assertThatThrownBy(() -> rank.group().plan(DispatchSpec.of(spec(2), DType.F8_E4M3)))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("moe_dispatch: group: got");
                assertThatThrownBy(() -> rank.group().setActive(3))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("group: active: got rank 3, need 0..0");
            }
        });
    }

    @Test
    void tellsOfExpertNumbersThatDoNotExist() {
        for (final DispatchSpec call : List.of(
                DispatchSpec.of(spec(several()), DType.F8_E4M3),
                DispatchSpec.of(spec(several()), DType.F8_E4M3).withLayout(MoeLayout.EXPERT),
                DispatchSpec.latency(spec(several()).withLatencyTokens(8), DType.BF16))) {
            // Where ranks share a device, whichever of them waits first is told.
            final List<String> told = java.util.Collections.synchronizedList(new ArrayList<>());
            run(call.group(), rank -> {
                final Tokens mine = tokens(call, rank.backend().host, 15).get(rank.number());
                if (rank.number() == 0) {
                    mine.experts()[5] = 700;
                    mine.experts()[9] = -2;
                }
                try (DispatchPlan<T> plan = rank.group().plan(call)) {
                    dispatch(rank, plan, tensors(rank, plan, mine).operands(), mine.count());
                } catch (final IllegalArgumentException e) {
                    told.add(e.getMessage());
                }
            });
            if (isHere(0)) {
                assertThat(told)
                        .containsExactly("moe_dispatch: experts[5]: got 700, need -1.."
                                + (call.group().experts() - 1));
            } else {
                assertThat(told).isEmpty();
            }
        }
    }

    @Test
    void namesTheSpecFieldInWhichRanksDiffer() {
        final List<Rendezvous> ends = Rendezvous.inProcess(2);
        final List<Thread> threads = new ArrayList<>();
        final List<Throwable> failures = java.util.Collections.synchronizedList(new ArrayList<>());
        for (final Rendezvous end : ends) {
            final ExpertGroupSpec spec =
                    ExpertGroupSpec.of(2, 8 + end.rank(), 2, 128, 4).withSmBudget(SMALL_BUDGET);
            threads.add(Thread.ofPlatform().start(() -> {
                try (Backend<T> backend = open(end.rank())) {
                    assertThatThrownBy(() -> backend.kernels().openGroup(spec, end))
                            .isInstanceOf(IllegalArgumentException.class)
                            .hasMessageContaining(
                                    "group: experts: got " + (9 - end.rank()) + " at rank " + (1 - end.rank()))
                            .hasMessageContaining("need " + (8 + end.rank()) + " as at rank " + end.rank());
                } catch (final Throwable t) {
                    failures.add(t);
                }
            }));
        }
        threads.forEach(ExpertGroupContractTest::join);
        assertThat(failures).isEmpty();
    }
}
