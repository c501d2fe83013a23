package io.hopper4j.contract;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.OutOfPagesException;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.attention.PagedKvCache;
import io.hopper4j.attention.PagedKvCache.Sequence;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Who holds which page, and that sequences keep their tokens whatever the others do. */
abstract class PagedKvCacheContractTest<T extends Tensor> {
    private static final int LAYERS = 2;

    private final Backend<T> backend;

    PagedKvCacheContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    private static MlaDecodeSpec spec(final int pageSize, final long batch, final long maxLength, final long pages) {
        return MlaDecodeSpec.of(2, pageSize, batch, maxLength, pages);
    }

    /** A token is one number, over all its values; layer 1 has it negated. */
    private void write(final PagedKvCache<T> cache, final Sequence sequence, final int position, final float value) {
        final long slot = cache.slot(sequence, position);
        final long size = cache.spec().pageSize();
        for (int layer = 0; layer < LAYERS; layer++) {
            final float[] values = new float[TOKEN_DIM];
            Arrays.fill(values, layer == 0 ? value : -value);
            final T page = backend.slice(cache.cache(layer), 0, slot / size, slot / size + 1);
            backend.overwrite(
                    backend.slice(page, 1, slot % size, slot % size + 1),
                    backend.hostTensor(TensorSpec.packed(DType.BF16, 1, 1, TOKEN_DIM), values));
        }
    }

    /** What an attention kernel would find: the tokens of a batch, read through block table and lengths on the device. */
    private List<List<Float>> read(final PagedKvCache<T> cache, final int batch) {
        final HostTensor table = backend.get(cache.blockTable());
        final HostTensor lengths = backend.get(cache.lengths());
        final HostTensor first = backend.get(cache.cache(0));
        final HostTensor second = backend.get(cache.cache(1));
        final int size = cache.spec().pageSize();
        final List<List<Float>> all = new ArrayList<>();
        for (int r = 0; r < batch; r++) {
            final List<Float> tokens = new ArrayList<>();
            for (int j = 0; j < lengths.getFloat(r); j++) {
                final long page = (long) table.getFloat(r, j / size);
                final float value = first.getFloat(page, j % size, 0);
                assertThat(first.getFloat(page, j % size, TOKEN_DIM - 1)).isEqualTo(value);
                assertThat(second.getFloat(page, j % size, 300)).isEqualTo(-value);
                tokens.add(value);
            }
            all.add(tokens);
        }
        return all;
    }

    /** A sequence and what it must hold. */
    private record Known(Sequence sequence, List<Float> tokens) {}

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4})
    void shouldKeepTheTokensOfEverySequence(final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final int pageSize = 1 << random.nextInt(4);
        final List<Known> alive = new ArrayList<>();
        try (PagedKvCache<T> cache = backend.openKvCache(spec(pageSize, 6, 40, 160 / pageSize), LAYERS)) {
            for (int step = 0; step < 120; step++) {
                final int choice = random.nextInt(10);
                if (alive.isEmpty() || (choice == 0 && alive.size() < 6)) {
                    alive.add(new Known(cache.allocate(), new ArrayList<>()));
                } else if (choice <= 2 && alive.size() < 6) {
                    final Known source = alive.get(random.nextInt(alive.size()));
                    alive.add(new Known(cache.fork(source.sequence), new ArrayList<>(source.tokens)));
                } else if (choice == 3) {
                    cache.free(alive.remove(random.nextInt(alive.size())).sequence);
                } else {
                    grow(cache, alive.get(random.nextInt(alive.size())), random);
                }
                if (step % 10 == 9) {
                    cache.upload(alive.stream().map(Known::sequence).toList(), backend.stream());
                    assertThat(read(cache, alive.size()))
                            .as("seed %s, step %s, page size %s", seed, step, pageSize)
                            .isEqualTo(alive.stream().map(Known::tokens).toList());
                }
            }
            alive.forEach(known -> cache.free(known.sequence));
            assertThat(cache.freePages()).as("all pages come back").isEqualTo(160 / pageSize);
        }
    }

    private void grow(final PagedKvCache<T> cache, final Known known, final SplittableRandom random) {
        final int tokens = Math.min(random.nextInt(7), 40 - known.tokens.size());
        final long free = cache.freePages();
        try {
            cache.append(known.sequence, tokens, backend.stream());
        } catch (final OutOfPagesException e) {
            assertThat(e.asked()).isGreaterThan(free);
            assertThat(e.free()).isEqualTo(free);
            assertThat(cache.freePages()).isEqualTo(free);
            assertThat(known.sequence.length()).isEqualTo(known.tokens.size());
            return;
        }
        for (int i = 0; i < tokens; i++) {
            final float value = random.nextInt(1, 256);
            known.tokens.add(value);
            write(cache, known.sequence, known.tokens.size() - 1, value);
        }
        assertThat(known.sequence.length()).isEqualTo(known.tokens.size());
    }

    @Test
    void shouldShareThePagesOfAForkUntilOneWrites() {
        try (PagedKvCache<T> cache = backend.openKvCache(spec(4, 3, 40, 10), LAYERS)) {
            final Sequence prompt = cache.allocate();
            cache.append(prompt, 10, backend.stream());
            assertThat(cache.freePages()).isEqualTo(7);
            final Sequence one = cache.fork(prompt);
            final Sequence two = cache.fork(prompt);
            assertThat(cache.freePages()).as("forks take no pages").isEqualTo(7);
            assertThat(cache.slot(one, 9)).isEqualTo(cache.slot(prompt, 9));

            cache.append(one, 1, backend.stream());
            assertThat(cache.freePages()).as("a copy of the shared last page").isEqualTo(6);
            assertThat(cache.slot(one, 7)).isEqualTo(cache.slot(prompt, 7));
            assertThat(cache.slot(one, 9)).isNotEqualTo(cache.slot(prompt, 9));
            cache.free(prompt);
            cache.append(two, 2, backend.stream());
            assertThat(cache.freePages()).as("alone on its last page").isEqualTo(6);
            cache.append(two, 1, backend.stream());
            assertThat(cache.freePages()).as("a full page needs no copy").isEqualTo(5);
            final Sequence three = cache.fork(two);
            cache.append(three, 0, backend.stream());
            assertThat(cache.freePages()).as("nothing appended, nothing copied").isEqualTo(5);
            cache.free(one);
            cache.free(two);
            assertThat(cache.freePages()).isEqualTo(6);
            cache.free(three);
            assertThat(cache.freePages()).isEqualTo(10);
        }
    }

    @Test
    void shouldChangeNothingWhenOutOfPages() {
        try (PagedKvCache<T> cache = backend.openKvCache(spec(4, 3, 40, 3), LAYERS)) {
            final Sequence first = cache.allocate();
            cache.append(first, 6, backend.stream());
            for (int i = 0; i < 6; i++) {
                write(cache, first, i, i + 1);
            }
            final Sequence second = cache.fork(first);
            assertThatExceptionOfType(OutOfPagesException.class)
                    .isThrownBy(() -> cache.append(second, 3, backend.stream()))
                    .withMessage("kv_cache: pages: got 2 asked for, need at most 1, those free")
                    .satisfies(e -> {
                        assertThat(e.asked()).isEqualTo(2);
                        assertThat(e.free()).isEqualTo(1);
                    });
            assertThat(second.length()).isEqualTo(6);
            assertThat(cache.freePages()).isEqualTo(1);
            assertThat(cache.slot(second, 5)).isEqualTo(cache.slot(first, 5));
            cache.append(second, 2, backend.stream());
            write(cache, second, 6, 70);
            write(cache, second, 7, 80);
            cache.upload(List.of(second, first), backend.stream());
            assertThat(read(cache, 2))
                    .isEqualTo(List.of(List.of(1f, 2f, 3f, 4f, 5f, 6f, 70f, 80f), List.of(1f, 2f, 3f, 4f, 5f, 6f)));
        }
    }

    @Test
    void shouldUploadManyBatchesWithoutWaiting() {
        try (PagedKvCache<T> cache = backend.openKvCache(spec(1, 2, 200, 200), LAYERS);
                MlaDecodePlan<T> plan = backend.kernels().plan(cache.spec())) {
            final T q = backend.filled(TensorSpec.packed(DType.BF16, 2, 1, 2, TOKEN_DIM), 0);
            final T schedule = backend.allocate(TensorSpec.packed(DType.U8, plan.scheduleBytes()));
            final Sequence sequence = cache.allocate();
            final int steps = 50;
            // Each step decodes into its own place: with queries of zeros, the log-sum-exp is that of the number of
            // tokens.
            final List<T> results = new ArrayList<>();
            final T workspace = backend.allocate(TensorSpec.packed(DType.U8, plan.workspaceBytes()));
            cache.append(sequence, steps, backend.stream());
            backend.overwrite(cache.cache(0), HostTensor.allocate(backend.host, DType.BF16, 200, 1, TOKEN_DIM));
            for (int step = 1; step <= steps; step++) {
                final Sequence prefix = cache.allocate();
                cache.append(prefix, step, backend.stream());
                final T lse = backend.filled(TensorSpec.packed(DType.F32, 2, 2, 1), Float.NaN);
                cache.upload(step % 2 == 0 ? List.of(sequence, prefix) : List.of(prefix), backend.stream());
                final int batch = step % 2 == 0 ? 2 : 1;
                final MlaDecodeOperands<T> operands = MlaDecodeOperands.<T>builder()
                        .q(q)
                        .cache(cache.cache(0))
                        .blockTable(cache.blockTable())
                        .lengths(cache.lengths())
                        .schedule(schedule)
                        .out(backend.filled(TensorSpec.packed(DType.BF16, 2, 1, 2, 512), Float.NaN))
                        .lse(lse)
                        .workspace(plan.workspaceBytes() == 0 ? null : workspace)
                        .build();
                try (MlaScheduleLaunch<T> first = plan.bindSchedule(cache.lengths(), null, schedule);
                        MlaDecodeLaunch<T> then = plan.bind(operands)) {
                    first.launch(backend.stream(), batch);
                    then.launch(backend.stream(), batch);
                }
                results.add(lse);
                cache.free(prefix);
            }
            for (int step = 1; step <= steps; step++) {
                final HostTensor lse = backend.get(results.get(step - 1));
                assertThat(lse.getFloat(step % 2 == 0 ? 1 : 0, 1, 0))
                        .as("step %s", step)
                        .isCloseTo((float) Math.log(step), Offset.offset(1e-5f));
            }
        }
    }

    @Test
    void shouldDecodeACapturedLoopOf256StepsWhileLengthsGrow() {
        final int steps = 256;
        final int[] lengths = {100, 0, 37};
        final int[] last = Arrays.stream(lengths).map(n -> n + steps).toArray();
        final MlaData data = new MlaData(backend.host, MlaDecodeSpec.of(4, 16, 1, 1, 1), last, null, false, 77);
        final T out = backend.filled(TensorSpec.packed(DType.BF16, 3, 1, 4, MlaDecodeSpec.VALUE_DIM), Float.NaN);
        final T lse = backend.filled(TensorSpec.packed(DType.F32, 3, 4, 1), Float.NaN);
        try (PagedKvCache<T> cache = backend.openKvCache(data.spec, 1);
                MlaDecodePlan<T> plan = backend.kernels().plan(data.spec)) {
            final List<Sequence> batch = List.of(cache.allocate(), cache.allocate(), cache.allocate());
            final T schedule = backend.allocate(TensorSpec.packed(DType.U8, plan.scheduleBytes()));
            final MlaDecodeOperands<T> operands = MlaDecodeOperands.<T>builder()
                    .q(backend.put(data.q))
                    .cache(cache.cache(0))
                    .blockTable(cache.blockTable())
                    .lengths(cache.lengths())
                    .schedule(schedule)
                    .out(out)
                    .lse(lse)
                    .workspace(
                            plan.workspaceBytes() == 0
                                    ? null
                                    : backend.allocate(TensorSpec.packed(DType.U8, plan.workspaceBytes())))
                    .build();
            for (int r = 0; r < 3; r++) {
                extend(cache, batch.get(r), data, r, lengths[r]);
            }
            try (MlaScheduleLaunch<T> first = plan.bindSchedule(cache.lengths(), null, schedule);
                    MlaDecodeLaunch<T> then = plan.bind(operands);
                    Graph step = backend.stream().capture(on -> {
                        first.launch(on);
                        then.launch(on);
                    })) {
                for (int i = 1; i <= steps; i++) {
                    for (int r = 0; r < 3; r++) {
                        extend(cache, batch.get(r), data, r, 1);
                        lengths[r]++;
                    }
                    cache.upload(batch, backend.stream());
                    step.launch(backend.stream());
                    if (i % 32 == 0) {
                        data.assertDecoded(backend.get(out), backend.get(lse), lengths, 3);
                    }
                }
            }
        }
    }

    /** Appends tokens of a request of the data to its sequence. */
    private void extend(
            final PagedKvCache<T> cache,
            final Sequence sequence,
            final MlaData data,
            final int request,
            final int tokens) {
        final int before = sequence.length();
        cache.append(sequence, tokens, backend.stream());
        final long size = cache.spec().pageSize();
        for (int j = before; j < before + tokens; j++) {
            final long slot = cache.slot(sequence, j);
            final T page = backend.slice(cache.cache(0), 0, slot / size, slot / size + 1);
            backend.overwrite(
                    backend.slice(page, 1, slot % size, slot % size + 1),
                    data.slot(request, j).reshape(1, 1, TOKEN_DIM));
        }
    }

    @Test
    void shouldRefuseMisuse() {
        try (PagedKvCache<T> cache = backend.openKvCache(spec(4, 2, 10, 8), LAYERS);
                PagedKvCache<T> other = backend.openKvCache(spec(4, 2, 10, 8), LAYERS)) {
            final Sequence sequence = cache.allocate();
            cache.append(sequence, 7, backend.stream());
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> cache.append(sequence, 4, backend.stream()))
                    .withMessage("kv_cache: tokens: got 4 more than 7, need 0..3, as maxLength is 10");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> cache.append(sequence, -1, backend.stream()))
                    .withMessage("kv_cache: tokens: got -1 more than 7, need 0..3, as maxLength is 10");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> other.append(sequence, 1, backend.stream()))
                    .withMessage("kv_cache: sequence: got one of another cache, need one of this");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> cache.slot(sequence, 7))
                    .withMessage("kv_cache: position: got 7, need 0..6");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> cache.upload(List.of(sequence, sequence, sequence), backend.stream()))
                    .withMessage("kv_cache: batch: got 3 sequences, need at most maxBatch = 2");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> backend.openKvCache(spec(4, 2, 10, 8), 0))
                    .withMessage("kv_cache: layers: got 0, need at least 1");
            cache.free(sequence);
            assertThatIllegalStateException()
                    .isThrownBy(() -> cache.free(sequence))
                    .withMessage("kv_cache: sequence: got a freed one, need one that is not");
            assertThatIllegalStateException().isThrownBy(() -> cache.fork(sequence));
            assertThatIllegalStateException().isThrownBy(() -> cache.upload(List.of(sequence), backend.stream()));
            assertThat(cache.freePages()).isEqualTo(8);
        }
        final PagedKvCache<T> closed = backend.openKvCache(spec(4, 2, 10, 8), LAYERS);
        closed.close();
        closed.close();
        assertThatIllegalStateException()
                .isThrownBy(closed::allocate)
                .withMessage("kv_cache: got a closed one, need an open one");
    }
}
