package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.hopper4j.testing.Fuzz;
import io.hopper4j.testing.Tally;
import java.lang.foreign.Arena;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

/**
 * Random shapes, strides, views, elements and quantised matrices, good and bad, against a model that knows nothing but where each element lies.
 * A bad call is refused with the documented exception, which names the argument; a good one gives what the model says.
 */
final class ViewsFuzzTest {
    private static final int ELEMENTS = 96;
    private static final BigInteger LONGS = BigInteger.ONE.shiftLeft(63);
    private static final long[] ODD = {
        -1, Long.MIN_VALUE, Long.MAX_VALUE, 1L << 31, (1L << 31) - 1, 1L << 32, 1L << 61, 1L << 62, 3037000500L
    };

    private static final List<DType> TYPES = List.of(DType.values());

    private final Tally tally = new Tally("views");

    /** Storage that tensors share: what was last written to each element. */
    @SuppressWarnings("ArrayRecordComponent") // nobody compares these records, nor the next
    private record Storage(DType dtype, float[] values) {}

    /** A tensor and where the model thinks that its elements lie. */
    @SuppressWarnings("ArrayRecordComponent")
    private record Modelled(HostTensor tensor, Storage storage, long first, long[] dims, long[] steps) {
        int rank() {
            return dims.length;
        }

        boolean isEmpty() {
            return Arrays.stream(dims).anyMatch(dim -> dim == 0);
        }

        /** Places of all elements, row by row. */
        List<Integer> places() {
            List<Integer> places = isEmpty() ? List.of() : List.of((int) first);
            for (int d = 0; d < rank(); d++) {
                final List<Integer> next = new ArrayList<>();
                for (final int place : places) {
                    for (long i = 0; i < dims[d]; i++) {
                        next.add((int) (place + i * steps[d]));
                    }
                }
                places = next;
            }
            return places;
        }

        boolean isContiguous() {
            final List<Integer> places = places();
            for (int i = 0; i < places.size(); i++) {
                if (places.get(i) != first + i) {
                    return false;
                }
            }
            return true;
        }
    }

    /** What a call is expected to do. */
    @FunctionalInterface
    private interface Step {
        @Nullable
        Object run();
    }

    /** The call is refused, and the message begins with the name of the argument. */
    private void refuse(final String kind, final Step call, final String... names) {
        refuse(kind, IllegalArgumentException.class, call, names);
    }

    private void refuse(
            final String kind, final Class<? extends RuntimeException> type, final Step call, final String... names) {
        final Object got;
        try {
            got = call.run();
        } catch (final RuntimeException e) {
            final String message = String.valueOf(e.getMessage());
            if (e.getClass() != type || Arrays.stream(names).noneMatch(message::startsWith)) {
                throw new AssertionError(kind + ": need " + type.getSimpleName() + " of " + Arrays.toString(names), e);
            }
            tally.addRefused(kind);
            return;
        }
        throw new AssertionError(kind + ": got " + got + ", need it refused with " + Arrays.toString(names));
    }

    private static long oddOr(final SplittableRandom random, final long bound) {
        return random.nextInt(4) == 0
                ? ODD[random.nextInt(ODD.length)]
                : random.nextLong(-1, Math.min(bound, 1L << 40) + 2);
    }

    // ---- shapes, strides, specs ----

    private void shapes(final SplittableRandom random) {
        final long[] dims = random.longs(random.nextInt(5), 0, 9).toArray();
        if (dims.length > 0 && random.nextBoolean()) {
            dims[random.nextInt(dims.length)] = ODD[random.nextInt(ODD.length)];
        }
        if (Arrays.stream(dims).anyMatch(dim -> dim < 0) || product(dims, true).compareTo(LONGS) >= 0) {
            refuse("shape", () -> Shape.of(dims), "shape: got ");
            return;
        }
        final Shape shape = Shape.of(dims);
        right(shape.rank(), dims.length);
        right(shape.elements(), product(dims, false).longValueExact());
        right(shape.toString(), Arrays.toString(dims).replace(" ", ""));
        final int dim = (int) oddOr(random, dims.length);
        if (dim < 0 || dim >= dims.length) {
            refuse("shape dim", () -> shape.size(dim), "shape: dim: got " + dim + ", need ");
        } else {
            right(shape.size(dim), dims[dim]);
        }
        specs(random, shape, dims);
    }

    /** The product of sizes; where {@code without} is set, without those that are 0, which is what must fit a long. */
    private static BigInteger product(final long[] dims, final boolean without) {
        return Arrays.stream(dims)
                .filter(dim -> dim != 0 || !without)
                .mapToObj(BigInteger::valueOf)
                .reduce(BigInteger.ONE, BigInteger::multiply);
    }

    private void specs(final SplittableRandom random, final Shape shape, final long[] dims) {
        final DType dtype = TYPES.get(random.nextInt(TYPES.size()));
        final long[] steps = random.longs(random.nextInt(8) == 0 ? random.nextInt(5) : dims.length, 0, 40)
                .toArray();
        if (steps.length > 0 && random.nextInt(3) == 0) {
            steps[random.nextInt(steps.length)] = ODD[random.nextInt(ODD.length)];
        }
        if (Arrays.stream(steps).anyMatch(step -> step < 0)) {
            refuse("strides", () -> Strides.of(steps), "strides: got ");
            return;
        }
        if (steps.length != dims.length) {
            refuse("rank", () -> TensorSpec.strided(dtype, dims, steps), "tensor: strides: got ");
            return;
        }
        BigInteger span = BigInteger.ONE;
        for (int d = 0; d < dims.length; d++) {
            span = span.add(BigInteger.valueOf(dims[d] - 1).multiply(BigInteger.valueOf(steps[d])));
        }
        if (shape.elements() == 0) {
            span = BigInteger.ZERO;
        }
        if (span.multiply(BigInteger.valueOf(dtype.size())).compareTo(LONGS) >= 0) {
            refuse("span", () -> new TensorSpec(dtype, shape, Strides.of(steps)), "tensor: span: ", "tensor: bytes: ");
            return;
        }
        final TensorSpec spec = TensorSpec.strided(dtype, dims, steps);
        right(spec.byteSpan(), span.longValueExact() * dtype.size());
        right(spec.strides(), Strides.of(steps));
        offsets(random, spec);
        if (spec.byteSpan() > 1 << 16) {
            return;
        }
        try (Arena arena = Arena.ofConfined()) {
            final long room = random.nextLong(spec.byteSpan() + 1 + random.nextInt(64));
            if (room < spec.byteSpan()) {
                refuse("segment", () -> HostTensor.wrap(arena.allocate(room), spec), "tensor: segment: got " + room);
            } else {
                right(HostTensor.wrap(arena.allocate(room), spec).segment().byteSize(), spec.byteSpan());
            }
        }
    }

    private void offsets(final SplittableRandom random, final TensorSpec spec) {
        final long[] index = new long[random.nextInt(8) == 0 ? random.nextInt(5) : spec.rank()];
        boolean inside = index.length == spec.rank();
        long offset = 0;
        for (int d = 0; d < index.length; d++) {
            index[d] = oddOr(random, d < spec.rank() ? spec.shape().size(d) : 3);
            inside = inside && index[d] >= 0 && index[d] < spec.shape().size(d);
            offset += inside ? index[d] * spec.strides().step(d) : 0;
        }
        if (inside) {
            right(spec.offsetOf(index), offset);
        } else {
            refuse("index", () -> spec.offsetOf(index), "index: got ");
        }
    }

    private void right(final Object got, final Object need) {
        if (!got.equals(need)) {
            throw new AssertionError("got " + got + ", need " + need);
        }
        tally.addRight();
    }

    // ---- views ----

    /** The view has the model's layout and elements. */
    private Modelled view(
            final Modelled source, final HostTensor view, final long first, final long[] dims, final long[] steps) {
        final Modelled made = new Modelled(view, source.storage(), first, dims, steps);
        check(made);
        return made;
    }

    private void check(final Modelled made) {
        final List<Integer> places = made.places();
        final float[] need = new float[places.size()];
        for (int i = 0; i < need.length; i++) {
            need[i] = made.storage().values()[places.get(i)];
        }
        if (!Arrays.equals(made.tensor().toFloats(), need)
                || !made.tensor().shape().equals(Shape.of(made.dims()))
                || !made.tensor().strides().equals(Strides.of(made.steps()))
                || made.tensor().spec().isContiguous() != made.isContiguous()) {
            throw new AssertionError("got " + made.tensor() + " of "
                    + Arrays.toString(made.tensor().toFloats())
                    + ", need " + Arrays.toString(made.dims()) + " strides " + Arrays.toString(made.steps()) + " of "
                    + Arrays.toString(need));
        }
        tally.addRight();
    }

    private @Nullable Modelled slice(final Modelled source, final SplittableRandom random) {
        final int dim = (int) oddOr(random, source.rank());
        final long size = dim >= 0 && dim < source.rank() ? source.dims()[dim] : 4;
        final long from = oddOr(random, size);
        final long to = oddOr(random, size);
        if (dim < 0 || dim >= source.rank()) {
            refuse("slice dim", () -> source.tensor().slice(dim, from, to), "slice: dim: got " + dim + ", need ");
            return null;
        }
        if (from < 0 || to < from || to > size) {
            refuse(
                    "slice range",
                    () -> source.tensor().slice(dim, from, to),
                    "slice: range: got " + from + ".." + to + " of dim " + dim);
            return null;
        }
        final long[] dims = source.dims().clone();
        dims[dim] = to - from;
        return view(
                source,
                source.tensor().slice(dim, from, to),
                source.first() + from * source.steps()[dim],
                dims,
                source.steps());
    }

    private @Nullable Modelled select(final Modelled source, final SplittableRandom random) {
        final int dim = (int) oddOr(random, source.rank());
        final long index = oddOr(random, dim >= 0 && dim < source.rank() ? source.dims()[dim] : 4);
        if (dim < 0 || dim >= source.rank()) {
            refuse("select dim", () -> source.tensor().select(dim, index), "select: dim: got " + dim + ", need ");
            return null;
        }
        if (index < 0 || index >= source.dims()[dim]) {
            refuse(
                    "select index",
                    () -> source.tensor().select(dim, index),
                    "select: index: got " + index + " of dim " + dim);
            return null;
        }
        return view(
                source,
                source.tensor().select(dim, index),
                source.first() + index * source.steps()[dim],
                without(source.dims(), dim),
                without(source.steps(), dim));
    }

    private static long[] without(final long[] values, final int place) {
        final long[] rest = new long[values.length - 1];
        for (int i = 0; i < rest.length; i++) {
            rest[i] = values[i < place ? i : i + 1];
        }
        return rest;
    }

    private @Nullable Modelled transpose(final Modelled source, final SplittableRandom random) {
        final int dim0 = (int) oddOr(random, source.rank());
        final int dim1 = (int) oddOr(random, source.rank());
        final int bad = dim0 < 0 || dim0 >= source.rank() ? dim0 : dim1;
        if (bad < 0 || bad >= source.rank()) {
            refuse(
                    "transpose dim",
                    () -> source.tensor().transpose(dim0, dim1),
                    "transpose: dim: got " + bad + ", need ");
            return null;
        }
        return view(
                source,
                source.tensor().transpose(dim0, dim1),
                source.first(),
                exchanged(source.dims(), dim0, dim1),
                exchanged(source.steps(), dim0, dim1));
    }

    private static long[] exchanged(final long[] values, final int one, final int other) {
        final long[] copy = values.clone();
        copy[one] = values[other];
        copy[other] = values[one];
        return copy;
    }

    private @Nullable Modelled reshape(final Modelled source, final SplittableRandom random) {
        final long elements = product(source.dims(), false).longValueExact();
        final List<Long> sizes = new ArrayList<>();
        long left = elements;
        while (left > 1 && sizes.size() < 4) {
            long factor = random.nextLong(1, left + 1);
            while (left % factor != 0) {
                factor--;
            }
            sizes.add(factor);
            left /= factor;
        }
        sizes.add(left);
        if (random.nextInt(3) == 0) {
            sizes.set(random.nextInt(sizes.size()), oddOr(random, 6));
        }
        final long[] dims = sizes.stream().mapToLong(Long::longValue).toArray();
        if (Arrays.stream(dims).anyMatch(dim -> dim < 0) || product(dims, true).compareTo(LONGS) >= 0) {
            refuse("reshape sizes", () -> source.tensor().reshape(dims), "shape: got ");
            return null;
        }
        if (!product(dims, false).equals(BigInteger.valueOf(elements))) {
            refuse("reshape elements", () -> source.tensor().reshape(dims), "reshape: shape: got ");
            return null;
        }
        if (!source.isContiguous()) {
            refuse("reshape of a copy", () -> source.tensor().reshape(dims), "reshape: strides: got ");
            return null;
        }
        final long[] steps = new long[dims.length];
        BigInteger step = BigInteger.ONE;
        for (int d = dims.length - 1; d >= 0; d--) {
            steps[d] = step.longValue();
            step = step.multiply(BigInteger.valueOf(Math.max(1, dims[d])));
            if (step.compareTo(LONGS) >= 0) {
                refuse("reshape strides", () -> source.tensor().reshape(dims), "strides: got ");
                return null;
            }
        }
        return view(source, source.tensor().reshape(dims), source.first(), dims, steps);
    }

    private void elements(final Modelled source, final SplittableRandom random) {
        final long[] index = new long[random.nextInt(8) == 0 ? random.nextInt(5) : source.rank()];
        boolean inside = index.length == source.rank();
        long place = source.first();
        for (int d = 0; d < index.length; d++) {
            index[d] = random.nextInt(6) == 0 ? oddOr(random, 4) : random.nextInt(4);
            inside = inside && index[d] >= 0 && index[d] < source.dims()[d];
            place += inside ? index[d] * source.steps()[d] : 0;
        }
        final HostTensor tensor = source.tensor();
        if (!inside) {
            refuse("get", () -> tensor.getFloat(index), "index: got ");
            refuse(
                    "set",
                    () -> {
                        tensor.setFloat(1, index);
                        return null;
                    },
                    "index: got ");
            return;
        }
        right(tensor.getFloat(index), source.storage().values()[(int) place]);
        final float value = random.nextInt(8);
        tensor.setFloat(value, index);
        source.storage().values()[(int) place] = exact(source.storage().dtype(), value);
        check(source);
    }

    /** What small whole numbers become. */
    private static float exact(final DType dtype, final float value) {
        if (dtype != DType.F8_E8M0) {
            return value;
        }
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor one = HostTensor.allocate(arena, dtype, 1);
            one.setFloat(value, 0);
            return one.getFloat(0);
        }
    }

    private void fill(final Modelled source, final SplittableRandom random) {
        final List<Integer> places = source.places();
        final float[] values = new float[random.nextInt(4) == 0 ? random.nextInt(20) : places.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = random.nextInt(8);
        }
        if (values.length != places.size()) {
            refuse(
                    "count",
                    () -> {
                        source.tensor().setFloats(values);
                        return null;
                    },
                    "setFloats: values: got " + values.length + ", need " + places.size());
            return;
        }
        source.tensor().setFloats(values);
        for (int i = 0; i < values.length; i++) {
            source.storage().values()[places.get(i)] = exact(source.storage().dtype(), values[i]);
        }
        check(source);
    }

    /** A new tensor, then views of views, until one is refused or it is enough. */
    private void views(final SplittableRandom random) {
        final Modelled last;
        try (Arena arena = Arena.ofConfined()) {
            last = views(random, arena);
        }
        closed(last);
    }

    private Modelled views(final SplittableRandom random, final Arena arena) {
        final DType dtype = TYPES.get(random.nextInt(TYPES.size()));
        final HostTensor base = HostTensor.allocate(arena, dtype, ELEMENTS);
        final float[] values = new float[ELEMENTS];
        for (int i = 0; i < ELEMENTS; i++) {
            values[i] = i % 8;
        }
        base.setFloats(values);
        final Storage storage = new Storage(dtype, base.toFloats());
        Modelled made = new Modelled(base, storage, 0, new long[] {ELEMENTS}, new long[] {1});
        final List<Modelled> all = new ArrayList<>();
        for (int i = random.nextInt(3, 10); i > 0; i--) {
            all.add(made);
            final Modelled source = random.nextInt(4) == 0 ? all.get(random.nextInt(all.size())) : made;
            final Modelled next = switch (random.nextInt(8)) {
                case 0, 1 -> slice(source, random);
                case 2 -> select(source, random);
                case 3 -> transpose(source, random);
                case 4, 5 -> reshape(source, random);
                case 6 -> {
                    elements(source, random);
                    yield null;
                }
                default -> {
                    fill(source, random);
                    yield null;
                }
            };
            made = next == null ? made : next;
        }
        all.forEach(this::check);
        readOnly(made);
        return made;
    }

    private void readOnly(final Modelled source) {
        if (source.isEmpty()) {
            return;
        }
        final HostTensor constant = HostTensor.wrap(
                source.tensor().segment().asReadOnly(), source.tensor().spec());
        right(constant.toFloats().length, source.places().size());
        refuse(
                "read-only",
                () -> {
                    constant.setFloat(1, new long[source.rank()]);
                    return null;
                },
                "Attempt to write a read-only segment");
    }

    private void closed(final Modelled source) {
        if (!source.isEmpty()) {
            refuse(
                    "closed",
                    IllegalStateException.class,
                    () -> source.tensor().getFloat(new long[source.rank()]),
                    "Already closed");
            refuse("closed", IllegalStateException.class, source.tensor()::toFloats, "Already closed");
        }
    }

    // ---- quantised matrices ----

    private void scaled(final SplittableRandom random, final Arena arena) {
        final DType type = random.nextInt(6) == 0 ? DType.BF16 : random.nextBoolean() ? DType.F8_E4M3 : DType.F8_E5M2;
        final DType scaleType = random.nextInt(6) == 0 ? DType.F16 : DType.F32;
        final int rank = random.nextInt(6) == 0 ? random.nextInt(5) : random.nextInt(2, 4);
        final long[] dims = random.longs(rank, 0, 5).toArray();
        if (rank > 0) {
            dims[rank - 1] = random.nextLong(300);
        }
        final int blockRows = random.nextInt(6) == 0 ? random.nextInt(-1, 1) : 1 + random.nextInt(3);
        final int blockCols = random.nextInt(20) == 0 ? Integer.MIN_VALUE : 128;
        if (blockRows < 1 || blockCols < 1) {
            refuse(
                    "block",
                    () -> new Scaling.Block(blockRows, blockCols),
                    "scaling: block: got " + blockRows + "x" + blockCols);
            return;
        }
        final boolean whole = random.nextInt(6) == 0;
        final Scaling scaling = whole ? new Scaling.PerTensor() : new Scaling.Block(blockRows, blockCols);
        final long[] scaleDims = whole || rank < 2 ? new long[] {1} : dims.clone();
        if (scaleDims.length > 1) {
            scaleDims[rank - 2] = (dims[rank - 2] + blockRows - 1) / blockRows;
            scaleDims[rank - 1] = (dims[rank - 1] + blockCols - 1) / blockCols;
        }
        final boolean bent = random.nextInt(4) == 0;
        if (bent) {
            scaleDims[random.nextInt(scaleDims.length)] += 1;
        }
        final HostTensor values = HostTensor.allocate(arena, type, dims);
        final HostTensor scales = HostTensor.allocate(arena, scaleType, scaleDims);
        if (type == DType.BF16 || (rank != 2 && rank != 3)) {
            refuse("scaled values", () -> new Scaled<>(values, scales, scaling), "scaled: values: got ");
        } else if (scaleType != DType.F32 || bent) {
            refuse("scaled scales", () -> new Scaled<>(values, scales, scaling), "scaled: scales: got ");
        } else {
            final Scaled<HostTensor> matrix = new Scaled<>(values, scales, scaling);
            right(matrix.rows(), dims[rank - 2]);
            right(matrix.cols(), dims[rank - 1]);
        }
        scaleSpecs(oddOr(random, 40), oddOr(random, 400));
    }

    private void scaleSpecs(final long m, final long k) {
        if (m < 0 || k < 0) {
            refuse("scale spec", () -> Scaled.activationScaleSpec(m, k), "scaling: matrix: got " + m + "x" + k);
            refuse("scale spec", () -> Scaled.weightScaleSpec(m, k), "scaling: matrix: got " + m + "x" + k);
            return;
        }
        final long rows = Math.ceilDiv(m, 128);
        final long blocks = Math.ceilDiv(k, 128);
        if (product(new long[] {rows, blocks, 4}, true).compareTo(LONGS) >= 0) {
            refuse("scale span", () -> Scaled.weightScaleSpec(m, k), "shape: ", "tensor: ");
        } else {
            right(Scaled.weightScaleSpec(m, k), TensorSpec.packed(DType.F32, rows, blocks));
        }
        final BigInteger ld =
                BigInteger.valueOf(Math.max(1, Math.ceilDiv(m, 4))).multiply(BigInteger.valueOf(4));
        final BigInteger span =
                BigInteger.valueOf(m).add(BigInteger.valueOf(blocks - 1).multiply(ld));
        final boolean tooLong = product(new long[] {m, blocks}, true).compareTo(LONGS) >= 0 || ld.compareTo(LONGS) >= 0;
        final boolean tooLarge =
                m * blocks != 0 && span.multiply(BigInteger.valueOf(4)).compareTo(LONGS) >= 0;
        if (tooLong || tooLarge) {
            refuse("scale span", () -> Scaled.activationScaleSpec(m, k), "shape: ", "scaled: ld: ", "tensor: ");
        } else {
            right(
                    Scaled.activationScaleSpec(m, k),
                    TensorSpec.strided(DType.F32, new long[] {m, blocks}, new long[] {1, ld.longValue()}));
        }
    }

    // ---- the test ----

    private void rounds(final long calls) {
        for (long round = 0; tally.right() + tally.refused() < calls; round++) {
            final SplittableRandom random = Fuzz.random(round);
            try (Arena arena = Arena.ofConfined()) {
                shapes(random);
                views(random);
                scaled(random, arena);
            } catch (final RuntimeException | AssertionError e) {
                throw new AssertionError("hopper4j.fuzz.seed=" + (Fuzz.seed() + round), e);
            }
        }
    }

    @Test
    void shouldGiveOrRefuseEveryView() {
        Tally.quietly(() -> rounds(Fuzz.times(100_000)));
        tally.print();
        assertThat(tally.right()).as("right").isGreaterThan(tally.refused());
        for (final String kind : List.of(
                "shape",
                "shape dim",
                "strides",
                "rank",
                "span",
                "segment",
                "index",
                "slice dim",
                "slice range",
                "select dim",
                "select index",
                "transpose dim",
                "reshape sizes",
                "reshape elements",
                "reshape of a copy",
                "get",
                "set",
                "count",
                "read-only",
                "closed",
                "block",
                "scaled values",
                "scaled scales",
                "scale spec")) {
            assertThat(tally.refused(kind)).as("refused: " + kind).isPositive();
        }
    }

    /** A view one element off, a refusal that names another argument, and a bad call that gets through. */
    @Test
    void shouldCatchPlantedFaults() {
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor tensor = HostTensor.allocate(arena, DType.F32, 4);
            tensor.setFloats(1, 2, 3, 4);
            final Storage storage = new Storage(DType.F32, tensor.toFloats());
            final Modelled source = new Modelled(tensor, storage, 0, new long[] {4}, new long[] {1});
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> view(source, tensor.slice(0, 1, 3), 2, new long[] {2}, new long[] {1}))
                    .withMessageContaining("need [2] strides [1] of [3.0, 4.0]");
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> refuse("planted", () -> tensor.slice(1, 0, 1), "slice: range: got "));
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> refuse("planted", () -> tensor.slice(0, 0, 1), "slice: dim: got "))
                    .withMessageContaining("need it refused");
        }
    }
}
