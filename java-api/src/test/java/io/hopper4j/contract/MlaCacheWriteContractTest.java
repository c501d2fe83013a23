package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.PagedKvCache;
import io.hopper4j.attention.PagedKvCache.Sequence;
import io.hopper4j.attention.RopeTable;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Tokens of a latent cache, against the formulas of the spec, read from the bytes of the cache. */
abstract class MlaCacheWriteContractTest<T extends Tensor> {
    private static final int LENGTH = 90;
    private static final int BATCH = 3;
    private static final int PAGES = 12;
    private static final int PAGE_SIZE = 16;
    private static final float UNTOUCHED = 99;

    private final Backend<T> backend;

    MlaCacheWriteContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    record Case(MlaCacheFormat format, ScaleKind kind, DType weight, DType position, boolean requests, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        for (final MlaCacheFormat format : MlaCacheFormat.values()) {
            for (final ScaleKind kind : ScaleKind.values()) {
                cases.add(new Case(format, kind, DType.BF16, DType.I32, true, cases.size()));
                cases.add(new Case(format, kind, DType.F32, DType.I64, false, cases.size()));
            }
        }
        return cases.stream();
    }

    /** What tokens are made from; a token in place {@code p} of the arrays has one slot, and no two have the same. */
    private static final class Inputs {
        final HostTensor in;
        final HostTensor weight;
        final HostTensor rope;
        final HostTensor table;
        final float[] positions;
        final float[] requests;

        Inputs(
                final HostTensor in,
                final HostTensor weight,
                final HostTensor rope,
                final HostTensor table,
                final float[] positions,
                final float[] requests) {
            this.in = in;
            this.weight = weight;
            this.rope = rope;
            this.table = table;
            this.positions = positions;
            this.requests = requests;
        }
    }

    private static MlaCacheWriteSpec spec(final MlaCacheFormat format, final int tokens) {
        return MlaCacheWriteSpec.of(
                        MlaDecodeSpec.of(1, PAGE_SIZE, BATCH, LENGTH, PAGES).withCacheFormat(format))
                .withMaxTokens(tokens);
    }

    private Inputs inputs(final MlaCacheWriteSpec spec, final long seed, final boolean withRequests) {
        final SplittableRandom random = new SplittableRandom(seed);
        final int tokens = (int) spec.maxTokens();
        final float[] weight = new float[512];
        for (int i = 0; i < weight.length; i++) {
            weight[i] = (float) random.nextDouble(0.3, 2);
        }
        final float[] table = new float[BATCH * 8];
        Arrays.fill(table, 2147480000f);
        final int width = Math.ceilDiv(LENGTH, PAGE_SIZE);
        for (int r = 0; r < BATCH; r++) {
            for (int i = 0; i < width; i++) {
                table[r * 8 + i] = (r * width + i) * 7 % 18 < PAGES ? (r * width + i) * 7 % 18 : 2147480000f;
            }
        }
        final float[] positions = new float[tokens];
        final float[] requests = new float[tokens];
        final boolean[] taken = new boolean[BATCH * LENGTH];
        for (int t = 0; t < tokens; t++) {
            int request;
            int position;
            do {
                request = withRequests ? random.nextInt(BATCH) : t / spec.requestTokens();
                position = random.nextInt(LENGTH);
            } while (taken[request * LENGTH + position] || table[request * 8 + position / PAGE_SIZE] >= PAGES);
            taken[request * LENGTH + position] = true;
            positions[t] = t % 5 == 3 ? -1 : position;
            requests[t] = request;
        }
        return new Inputs(
                Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, tokens, 576), seed),
                backend.hostTensor(TensorSpec.packed(spec.weightDType(), 512), weight),
                RopeTable.yarn(backend.host, LENGTH, 10_000, 40, 32, 32, 1),
                backend.hostTensor(TensorSpec.packed(DType.I32, BATCH, 8), table),
                positions,
                requests);
    }

    private T filledCache(final MlaCacheFormat format) {
        return backend.filled(
                TensorSpec.packed(
                        format.dtype(),
                        PAGES,
                        PAGE_SIZE,
                        format.tokenSize() + 16L / format.dtype().size()),
                UNTOUCHED);
    }

    private T vector(final DType type, final float... values) {
        return backend.put(backend.hostTensor(TensorSpec.packed(type, values.length), values));
    }

    private MlaCacheWriteOperands<T> operands(
            final MlaCacheWriteSpec spec, final Inputs x, final boolean withRequests, final T cache) {
        return new MlaCacheWriteOperands<>(
                backend.put(x.in),
                backend.put(x.weight),
                backend.put(x.rope),
                vector(spec.positionDType(), x.positions),
                withRequests ? vector(DType.I32, x.requests) : null,
                backend.slice(backend.put(x.table), 1, 0, 6),
                backend.slice(cache, 2, 0, spec.format().tokenSize()));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldWriteTokens(final Case c) {
        final MlaCacheWriteSpec spec =
                spec(c.format, c.requests ? 40 : BATCH).withScaleKind(c.kind).withTypes(c.weight, c.position);
        final Inputs x = inputs(spec, c.seed, c.requests);
        final T cache = filledCache(c.format);
        try (MlaCacheWritePlan<T> plan = backend.kernels().plan(spec);
                MlaCacheWriteLaunch<T> launch = plan.bind(operands(spec, x, c.requests, cache))) {
            launch.launch(backend.stream());
            backend.stream().synchronize();
        }
        final HostTensor got = backend.get(cache);
        final boolean[] written = new boolean[PAGES * PAGE_SIZE];
        for (int t = 0; t < spec.maxTokens(); t++) {
            if (x.positions[t] >= 0) {
                final int page = (int) x.table.getFloat((long) x.requests[t], (long) x.positions[t] / PAGE_SIZE);
                final int slot = (int) x.positions[t] % PAGE_SIZE;
                written[page * PAGE_SIZE + slot] = true;
                check(spec, x, t, got.select(0, page).select(0, slot));
            }
        }
        for (int slot = 0; slot < written.length; slot++) {
            final HostTensor token = got.select(0, slot / PAGE_SIZE).select(0, slot % PAGE_SIZE);
            final int from = written[slot] ? c.format.tokenSize() : 0;
            assertThat(token.slice(0, from, token.shape().size(0)).toFloats())
                    .as("slot %d from %d", slot, from)
                    .containsOnly(UNTOUCHED);
        }
    }

    /** Compares one token of the cache with what the formulas give. */
    private void check(final MlaCacheWriteSpec spec, final Inputs x, final int t, final HostTensor token) {
        final float[] in = x.in.select(0, t).toFloats();
        final float[] weight = x.weight.toFloats();
        final double squares =
                IntStream.range(0, 512).mapToDouble(c -> in[c] * (double) in[c]).sum();
        final double[] latent = IntStream.range(0, 512)
                .mapToDouble(c -> in[c] / Math.sqrt(squares / 512 + 1e-6f) * weight[c])
                .toArray();
        final float[] angles = x.rope.select(0, (long) x.positions[t]).toFloats();
        final MemorySegment bytes = token.segment();
        final boolean isBf16 = spec.format() == MlaCacheFormat.BF16;
        final float[] rope = bf16(bytes, isBf16 ? 1024 : 528, 64);
        for (int i = 0; i < 32; i++) {
            final double even = in[512 + 2 * i];
            final double odd = in[513 + 2 * i];
            near(rope[2 * i], even * angles[i] - odd * angles[32 + i], Math.abs(even) + Math.abs(odd));
            near(rope[2 * i + 1], even * angles[32 + i] + odd * angles[i], Math.abs(even) + Math.abs(odd));
        }
        if (isBf16) {
            final float[] values = bf16(bytes, 0, 512);
            for (int c = 0; c < 512; c++) {
                near(values[c], latent[c], Math.abs(latent[c]));
            }
            return;
        }
        final int size = spec.format() == MlaCacheFormat.FP8_BLOCKS ? 128 : 512;
        final QuantizeTolerance tolerance = new QuantizeTolerance(spec.scaleKind());
        final float[] values = HostTensor.wrap(bytes.asSlice(0, 512), TensorSpec.packed(DType.F8_E4M3, 512))
                .toFloats();
        for (int first = 0; first < 512; first += size) {
            tolerance.add(
                    Arrays.copyOfRange(values, first, first + size),
                    bytes.get(ValueLayout.JAVA_FLOAT_UNALIGNED, 512 + first / size * 4),
                    Arrays.copyOfRange(latent, first, first + size));
        }
        assertThat(tolerance.withinBounds())
                .as("values %s, scales %s of their bounds", tolerance.worstValueRatio(), tolerance.worstScaleRatio())
                .isTrue();
        if (size == 512) {
            assertThat(bytes.asSlice(516, 12).toArray(ValueLayout.JAVA_BYTE)).containsOnly(0);
        }
    }

    private static float[] bf16(final MemorySegment bytes, final long offset, final int count) {
        return HostTensor.wrap(bytes.asSlice(offset, 2L * count), TensorSpec.packed(DType.BF16, count))
                .toFloats();
    }

    /** Half a unit of BF16, and a few of F32 of what was added up. */
    private static void near(final double got, final double exact, final double magnitude) {
        final double bound = 0x1p-8 * Math.abs(exact) + 0x1p-20 * magnitude;
        assertThat(got).isBetween(exact - bound, exact + bound);
    }

    @Test
    void shouldNameTheFirstBadValueAndWriteTheOthers() {
        final MlaCacheWriteSpec spec = spec(MlaCacheFormat.BF16, 40);
        for (final String fault : List.of("positions[9]: got 90, need 0..89", "requests[4]: got 3, need 0..2")) {
            final Inputs x = inputs(spec, 8, true);
            x.positions[9] = LENGTH;
            x.positions[30] = -7;
            if (fault.startsWith("requests")) {
                x.requests[4] = BATCH;
            }
            final T cache = filledCache(MlaCacheFormat.BF16);
            try (MlaCacheWritePlan<T> plan = backend.kernels().plan(spec);
                    MlaCacheWriteLaunch<T> launch = plan.bind(operands(spec, x, true, cache))) {
                assertThatIllegalArgumentException()
                        .isThrownBy(() -> {
                            launch.launch(backend.stream());
                            backend.stream().synchronize();
                        })
                        .withMessage("mla_cache_write: " + fault);
                final long page = (long) x.table.getFloat((long) x.requests[39], (long) x.positions[39] / PAGE_SIZE);
                check(spec, x, 39, backend.get(cache).select(0, page).select(0, (long) x.positions[39] % PAGE_SIZE));
            }
        }
    }

    /** Two decode steps with two new tokens a request, then one; positions and pages come from the cache's book. */
    @Test
    void shouldWriteWhatAPagedCacheAppended() {
        final MlaDecodeSpec decode = MlaDecodeSpec.of(1, 4, 2, 40, 20).withSQ(2);
        final MlaCacheWriteSpec spec = MlaCacheWriteSpec.of(decode);
        final HostTensor weight = Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, 1, 512), 3)
                .select(0, 0);
        final HostTensor rope = RopeTable.plain(backend.host, 40, 10_000);
        final T in = backend.allocate(TensorSpec.packed(DType.BF16, 4, 576));
        try (PagedKvCache<T> cache = backend.openKvCache(decode, 2);
                MlaCacheWritePlan<T> plan = backend.kernels().plan(spec);
                MlaCacheWriteLaunch<T> launch =
                        plan.bind(cache.writeOperands(1, in, backend.put(weight), backend.put(rope)))) {
            final Sequence first = cache.allocate();
            final Sequence second = cache.allocate();
            cache.append(first, 3, backend.stream()); // a prompt's tokens
            cache.upload(List.of(first), backend.stream());
            assertThat(backend.get(cache.positions()).slice(0, 0, 2).toFloats()).containsExactly(-1, -1);
            for (int step = 0; step < 2; step++) {
                cache.append(first, 2, backend.stream());
                cache.append(second, 1, backend.stream());
                cache.upload(List.of(first, second), backend.stream());
                final int at = 3 + 2 * step;
                assertThat(backend.get(cache.positions()).toFloats()).containsExactly(at, at + 1, step, -1);
                final HostTensor x = Data.gaussian(backend.host, TensorSpec.packed(DType.BF16, 4, 576), step);
                backend.overwrite(in, x);
                launch.launch(backend.stream(), 4);
                final Inputs inputs =
                        new Inputs(x, weight, rope, rope, new float[] {at, at + 1, step, -1}, new float[0]);
                final HostTensor tokens = backend.get(cache.cache(1));
                final long[] slots = {cache.slot(first, at), cache.slot(first, at + 1), cache.slot(second, step)};
                for (int t = 0; t < slots.length; t++) {
                    check(spec, inputs, t, tokens.select(0, slots[t] / 4).select(0, slots[t] % 4));
                }
            }
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final MlaCacheWriteSpec spec = spec(MlaCacheFormat.FP8_TOKEN, 4);
        final Inputs x = inputs(spec, 1, true);
        final MlaCacheWriteOperands<T> fitting = operands(spec, x, true, filledCache(MlaCacheFormat.FP8_TOKEN));
        try (MlaCacheWritePlan<T> plan = backend.kernels().plan(spec)) {
            refused(
                    plan,
                    with(fitting, vector(DType.I64, 1, 2, 3, 4), fitting.cache()),
                    "mla_cache_write: positions: got dtype I64, need I32");
            refused(
                    plan,
                    with(fitting, vector(DType.I32, 1, 2, 3), fitting.cache()),
                    "mla_cache_write: positions: got shape [3], need [4]");
            final T bf16 = operands(spec(MlaCacheFormat.BF16, 4), x, true, filledCache(MlaCacheFormat.BF16))
                    .cache();
            refused(plan, with(fitting, fitting.positions(), bf16), "mla_cache_write: cache: got dtype BF16, need U8");
            plan.bind(fitting).close();
        }
        assertThat(backend.kernels().support(spec.withTypes(DType.F16, DType.F32)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("mla_cache_write: weight", "dtype F16", "BF16 or F32"),
                        new Support.Reason("mla_cache_write: positions", "dtype F32", "I32 or I64"))));
    }

    private MlaCacheWriteOperands<T> with(final MlaCacheWriteOperands<T> x, final T positions, final T cache) {
        final @Nullable T requests = x.requests();
        return new MlaCacheWriteOperands<>(x.in(), x.weight(), x.rope(), positions, requests, x.blockTable(), cache);
    }

    private void refused(final MlaCacheWritePlan<T> plan, final MlaCacheWriteOperands<T> x, final String message) {
        assertThatIllegalArgumentException().isThrownBy(() -> plan.bind(x)).withMessage(message);
    }
}
