package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Launch;
import io.hopper4j.OpSpec;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.contract.Operand.Presence;
import io.hopper4j.testing.Fuzz;
import io.hopper4j.testing.Tally;
import java.lang.foreign.MemorySegment;
import java.lang.reflect.Proxy;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

/**
 * Every operation with random operands, good and bad. Operands with gaps between their rows give the same bits as operands without, and the gaps stay as
 * they are. A bad type, shape, stride, null, stream or number of rows is refused with the documented exception, which names the argument; so is what
 * is closed.
 */
abstract class OperandsFuzzTest<T extends Tensor> {
    private static final int CALLS_A_CASE = 24;
    private static final byte POISON = (byte) 0xFF;

    private final Tally tally;
    private final Set<String> operations = new TreeSet<>();

    OperandsFuzzTest(final String backend) {
        this.tally = new Tally("operands of " + backend);
    }

    abstract Backend<T> open();

    /** A tensor whose memory has been given back. */
    abstract T closed(Backend<T> backend, TensorSpec spec);

    /** Whether memory that has been given back is noticed by the launch that touches it, not when it is bound. */
    boolean noticesOnlyWhatIsTouched() {
        return false;
    }

    /** Memory and the layout that an operand has in it. */
    private record Placed<T extends Tensor>(T bytes, T view) {}

    private Placed<T> place(final Backend<T> backend, final Operand operand, final TensorSpec layout) {
        if (operand.isScratch()) {
            final T memory = backend.allocate(layout);
            return new Placed<>(memory, memory);
        }
        final HostTensor bytes = HostTensor.allocate(backend.host, DType.U8, Math.max(16, layout.byteSpan()));
        bytes.segment().fill(POISON);
        if (operand.elements() != null && layout.elements() == operand.elements().length) {
            HostTensor.wrap(bytes.segment(), layout).setFloats(operand.elements());
        }
        final T memory = backend.put(bytes);
        return new Placed<>(memory, backend.relaid(memory, layout));
    }

    /** Operands in the tightest layout, or with random gaps. */
    private Map<String, Placed<T>> place(
            final Backend<T> backend, final OperandCase<T> called, final @Nullable SplittableRandom random) {
        final Map<String, Placed<T>> placed = new HashMap<>();
        for (final Operand operand : called.operands()) {
            if (operand.presence() != Presence.FORBIDDEN) {
                placed.put(operand.name(), place(backend, operand, operand.layout(random)));
            }
        }
        return placed;
    }

    private static <T extends Tensor> Map<String, @Nullable T> views(final Map<String, Placed<T>> placed) {
        final Map<String, @Nullable T> views = new HashMap<>();
        placed.forEach((name, each) -> views.put(name, each.view()));
        return views;
    }

    /** What a call leaves in each operand that it writes. */
    private Map<String, float[]> run(
            final Backend<T> backend, final OperandCase<T> called, final Map<String, Placed<T>> placed) {
        try (Launch launch = called.bind().apply(views(placed))) {
            launch.launch(backend.stream());
        }
        final Map<String, float[]> written = new HashMap<>();
        for (final Operand operand : called.operands()) {
            final Placed<T> at = placed.get(operand.name());
            if (operand.isWritten() && at != null) {
                final HostTensor bytes = backend.get(at.bytes());
                final HostTensor elements =
                        HostTensor.wrap(bytes.segment(), at.view().spec());
                written.put(operand.name(), elements.toFloats());
                requireGaps(operand, bytes, elements);
            }
        }
        return written;
    }

    /** Bytes between the elements are what they were. */
    private static void requireGaps(final Operand operand, final HostTensor bytes, final HostTensor elements) {
        final float[] same = new float[(int) elements.spec().elements()];
        elements.setFloats(same);
        final MemorySegment untouched =
                MemorySegment.ofArray(new byte[(int) bytes.segment().byteSize()]);
        untouched.fill(POISON);
        HostTensor.wrap(untouched, elements.spec()).setFloats(same);
        if (untouched.mismatch(bytes.segment()) >= 0) {
            throw new AssertionError(operand.name() + ": got the bytes between its rows written, " + elements);
        }
    }

    private void good(
            final Backend<T> backend,
            final OperandCase<T> called,
            final Map<String, float[]> expected,
            final SplittableRandom random) {
        final Map<String, float[]> got = run(backend, called, place(backend, called, random));
        expected.forEach((name, values) -> {
            if (!Arrays.equals(got.get(name), values)) {
                throw new AssertionError(called.operation() + ": " + name + ": got " + Arrays.toString(got.get(name))
                        + ", need " + Arrays.toString(values));
            }
        });
        tally.addRight();
    }

    // ---- bad calls ----

    /** The call is refused so, and the message begins with one of these. */
    private void refuse(
            final String kind,
            final Class<? extends RuntimeException> type,
            final Runnable call,
            final String... beginnings) {
        try {
            call.run();
        } catch (final RuntimeException e) {
            final String message = String.valueOf(e.getMessage());
            if (!type.isInstance(e) || Arrays.stream(beginnings).noneMatch(message::startsWith)) {
                throw new AssertionError(
                        kind + ": need " + type.getSimpleName() + " of " + Arrays.toString(beginnings), e);
            }
            tally.addRefused(kind);
            return;
        }
        throw new AssertionError(kind + ": got through, need it refused with " + Arrays.toString(beginnings));
    }

    /** How a refusal of an operand may begin; parts of a quantised matrix may not fit each other before they do not fit the operation. */
    private static String[] names(final OperandCase<?> called, final Operand operand) {
        final String own = called.operation() + ": " + operand.name() + ": got ";
        return operand.name().endsWith(".values") || operand.name().endsWith(".scales")
                ? new String[] {own, "scaled: values: got ", "scaled: scales: got "}
                : new String[] {own};
    }

    private void bad(final Backend<T> backend, final OperandCase<T> called, final SplittableRandom random) {
        final Operand operand =
                called.operands().get(random.nextInt(called.operands().size()));
        final Map<String, @Nullable T> views = views(place(backend, called, random));
        final String[] names = names(called, operand);
        if (operand.presence() == Presence.FORBIDDEN) {
            views.put(
                    operand.name(),
                    place(backend, operand, operand.layout(random)).view());
            refuse("forbidden", IllegalArgumentException.class, () -> bind(called, views), names);
            return;
        }
        switch (random.nextInt(8)) {
            case 0, 1 -> wrong("type", backend, called, operand, operand.ofAnotherType(random), views);
            case 2, 3 -> wrong("shape", backend, called, operand, operand.ofAnotherShape(random), views);
            case 4, 5 -> wrong("strides", backend, called, operand, operand.ofOtherStrides(random), views);
            case 6 -> missing(called, operand, views);
            default -> {
                views.put(operand.name(), closed(backend, operand.layout(random)));
                gone(backend, called, operand, views);
            }
        }
    }

    private void gone(
            final Backend<T> backend,
            final OperandCase<T> called,
            final Operand operand,
            final Map<String, @Nullable T> views) {
        final Runnable call = () -> {
            launch(backend, called, views);
            if (noticesOnlyWhatIsTouched()) {
                throw new IllegalStateException("Already closed, and not touched");
            }
        };
        refuse(
                "closed memory",
                IllegalStateException.class,
                call,
                "Already closed",
                called.operation() + ": " + operand.name(),
                "arena");
    }

    private void wrong(
            final String kind,
            final Backend<T> backend,
            final OperandCase<T> called,
            final Operand operand,
            final @Nullable TensorSpec layout,
            final Map<String, @Nullable T> views) {
        if (layout == null) {
            return;
        }
        views.put(operand.name(), place(backend, operand, layout).view());
        refuse(kind, IllegalArgumentException.class, () -> bind(called, views), names(called, operand));
    }

    private void missing(final OperandCase<T> called, final Operand operand, final Map<String, @Nullable T> views) {
        if (operand.presence() == Presence.OPTIONAL) {
            return;
        }
        final String name = operand.name();
        final int dot = name.indexOf('.');
        views.put(name, null);
        refuse(
                "null",
                RuntimeException.class,
                () -> bind(called, views),
                dot < 0 ? name : name.substring(dot + 1),
                called.operation() + ": " + name + ": got null");
        if (dot > 0) {
            views.keySet().stream()
                    .filter(other -> other.startsWith(name.substring(0, dot + 1)))
                    .toList()
                    .forEach(part -> views.put(part, null));
            refuse("null", NullPointerException.class, () -> bind(called, views), name.substring(0, dot));
        }
    }

    private static <T extends Tensor> void bind(final OperandCase<T> called, final Map<String, @Nullable T> views) {
        called.bind().apply(views).close();
    }

    private static <T extends Tensor> void launch(
            final Backend<T> backend, final OperandCase<T> called, final Map<String, @Nullable T> views) {
        try (Launch launch = called.bind().apply(views)) {
            launch.launch(backend.stream());
        }
    }

    /** Streams of others and closed ones, rows that are not there, and closed launches and plans. */
    private void misuse(final Backend<T> backend, final OperandCase<T> called, final SplittableRandom random) {
        final Map<String, @Nullable T> views = views(place(backend, called, random));
        final String operation = called.operation();
        final Launch launch = called.bind().apply(views);
        final Stream other = (Stream) Proxy.newProxyInstance(
                Stream.class.getClassLoader(), new Class<?>[] {Stream.class}, (_, _, _) -> "another's stream");
        refuse("stream", IllegalArgumentException.class, () -> launch.launch(other), operation + ": stream: got ");
        final Stream gone = backend.kernels().openStream();
        gone.close();
        refuse("closed stream", IllegalStateException.class, () -> launch.launch(gone), "");
        final long rows =
                random.nextBoolean() ? -1 - random.nextLong(1L << 40) : (1L << 33) + random.nextLong(1L << 40);
        refuse(
                "rows",
                IllegalArgumentException.class,
                () -> launch.launch(backend.stream(), rows),
                operation + ": rows: got " + rows);
        refuse("open launch", IllegalStateException.class, called.plan()::close, "");
        launch.close();
        launch.close();
        refuse("closed launch", IllegalStateException.class, () -> launch.launch(backend.stream()), "");
        called.plan().close();
        refuse("closed plan", IllegalStateException.class, () -> bind(called, views), "");
    }

    // ---- the test ----

    private void round(final SplittableRandom random) {
        try (Backend<T> backend = open()) {
            final OperandCase<T> called = new OperandCases<>(backend, random).any();
            operations.add(called.operation());
            try {
                final Map<String, float[]> expected = run(backend, called, place(backend, called, null));
                tally.addRight();
                for (int call = 0; call < CALLS_A_CASE; call++) {
                    if (random.nextInt(3) == 0) {
                        good(backend, called, expected, random);
                    } else {
                        bad(backend, called, random);
                    }
                }
                misuse(backend, called, random);
            } catch (final RuntimeException | AssertionError e) {
                throw new AssertionError(called.plan().spec().toString(), e);
            } finally {
                called.close();
            }
        }
    }

    @Test
    void shouldComputeOrRefuseEveryCall() {
        fuzz();
    }

    /** All calls, and what is expected of their counts. */
    final void fuzz() {
        Tally.quietly(this::rounds);
        tally.print();
        // Each that a spec is for, and the schedule of a decode.
        assertThat(operations).as("operations").hasSize(OpSpec.class.getPermittedSubclasses().length + 1);
        for (final String kind : List.of(
                "type", "shape", "strides", "null", "forbidden", "closed memory", "stream", "rows", "closed plan")) {
            assertThat(tally.refused(kind)).as("refused: " + kind).isPositive();
        }
    }

    private void rounds() {
        for (long round = 0; tally.right() + tally.refused() < Fuzz.times(calls()); round++) {
            try {
                round(Fuzz.random(round));
            } catch (final RuntimeException | AssertionError e) {
                throw new AssertionError("hopper4j.fuzz.seed=" + (Fuzz.seed() + round), e);
            }
        }
    }

    /** How many calls are usually made. */
    long calls() {
        return 40_000;
    }

    /** Another result, a byte written between rows, and a refusal that blames another operand. */
    @Test
    void shouldCatchPlantedFaults() {
        final SplittableRandom random = new SplittableRandom(3);
        try (Backend<T> backend = open();
                OperandCase<T> called = new OperandCases<>(backend, random).any()) {
            final Map<String, float[]> expected = run(backend, called, place(backend, called, null));
            expected.values().forEach(values -> values[0] += 1);
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> good(backend, called, expected, random))
                    .withMessageContaining("need [");
            final HostTensor bytes = HostTensor.allocate(backend.host, DType.U8, 16);
            final HostTensor element = HostTensor.wrap(bytes.segment(), TensorSpec.packed(DType.F32, 2));
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> requireGaps(called.operands().getFirst(), bytes, element))
                    .withMessageContaining("between its rows written");
            assertThatExceptionOfType(AssertionError.class)
                    .isThrownBy(() -> refuse(
                            "planted",
                            IllegalArgumentException.class,
                            () -> bind(called, new HashMap<>()),
                            "gemm: out"));
        }
    }
}
