package io.hopper4j.contract;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceException;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.testing.Fuzz;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.function.Function;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * Opens, uses and closes what an implementation has, at random and from several threads, all on the same objects. Each call ends as documented: done, or
 * refused with {@link IllegalStateException}. In the end everything can be closed, and a launch is right.
 *
 * @param <T> host or device tensors
 */
final class LifetimeStress<T extends Tensor> {
    private static final int SLOTS = 4;
    private static final long ROWS = 8;
    private static final long COLS = 128;
    private static final QuantizeSpec SPEC = QuantizeSpec.of(ROWS, COLS, DType.F32, Scaling.ACTIVATION_1X128);
    /** What may be refused while others open and close. */
    private static final Pattern REFUSED = Pattern.compile(
            ".*(got a closed one|got open \\[|got one that another thread|got a call of another thread|being captured|not reached yet"
                    + "|Already closed|is acquired by).*",
            Pattern.DOTALL);
    /** CUDA's words where a thread waits for a stream that another begins to capture at this moment. */
    private static final Pattern CAPTURE_BROKEN =
            Pattern.compile(".*CUDA_ERROR_(STREAM_CAPTURE_\\w+|STAND_IN \\(90\\d\\)).*", Pattern.DOTALL);

    /** Memory with one owner: a device arena or a host arena. */
    interface Owner<T extends Tensor> extends AutoCloseable {
        T allocate(TensorSpec spec);

        @Override
        void close();
    }

    /** Memory of the plain Java reference. */
    @SuppressWarnings("MustBeClosedChecker") // the owner closes the arena
    static Owner<HostTensor> hostOwner() {
        final Arena arena = Arena.ofShared();
        return new Owner<>() {
            @Override
            public HostTensor allocate(final TensorSpec spec) {
                return HostTensor.allocate(arena, spec);
            }

            @Override
            public void close() {
                if (arena.scope().isAlive()) {
                    arena.close();
                }
            }
        };
    }

    /** Memory of a device. */
    static Owner<DeviceTensor> deviceOwner(final DeviceArena arena) {
        return new Owner<>() {
            @Override
            public DeviceTensor allocate(final TensorSpec spec) {
                return arena.allocate(spec);
            }

            @Override
            public void close() {
                arena.close();
            }
        };
    }

    /** An owner with what a launch is bound to. */
    private record Operands<T extends Tensor>(Owner<T> owner, T in, Scaled<T> out) implements AutoCloseable {
        static <T extends Tensor> Operands<T> of(final Owner<T> owner) {
            return new Operands<>(
                    owner,
                    owner.allocate(TensorSpec.packed(DType.F32, ROWS, COLS)),
                    Scaled.activation(
                            owner.allocate(TensorSpec.packed(DType.F8_E4M3, ROWS, COLS)),
                            owner.allocate(Scaled.activationScaleSpec(ROWS, COLS))));
        }

        @Override
        public void close() {
            owner.close();
        }
    }

    private final Kernels<T> kernels;
    private final Function<Stream, Owner<T>> memory;
    private final AtomicReferenceArray<@Nullable Stream> streams = new AtomicReferenceArray<>(SLOTS);
    private final AtomicReferenceArray<@Nullable Operands<T>> operands = new AtomicReferenceArray<>(SLOTS);
    private final AtomicReferenceArray<@Nullable QuantizePlan<T>> plans = new AtomicReferenceArray<>(SLOTS);
    private final AtomicReferenceArray<@Nullable QuantizeLaunch<T>> launches = new AtomicReferenceArray<>(2 * SLOTS);
    private final AtomicReferenceArray<@Nullable Graph> graphs = new AtomicReferenceArray<>(SLOTS);
    private final AtomicReferenceArray<@Nullable Event> events = new AtomicReferenceArray<>(SLOTS);
    /** In the order in which they can be closed at last. */
    private final List<AtomicReferenceArray<? extends @Nullable AutoCloseable>> kinds =
            List.of(graphs, launches, events, operands, plans, streams);
    /** What lost its slot to another and could not be closed at once. */
    private final ConcurrentLinkedQueue<AutoCloseable> displaced = new ConcurrentLinkedQueue<>();

    private final AtomicLong done = new AtomicLong();
    private final AtomicLong refused = new AtomicLong();

    LifetimeStress(final Kernels<T> kernels, final Function<Stream, Owner<T>> memory) {
        this.kernels = kernels;
        this.memory = memory;
    }

    /** How many calls were done, how many were refused. */
    record Counts(long done, long refused) {}

    /** Makes so many random calls on so many threads, then closes everything. */
    Counts run(final long calls, final int threads, final ExecutorService executor) throws InterruptedException {
        final List<Future<?>> running = new ArrayList<>();
        for (int thread = 0; thread < threads; thread++) {
            final SplittableRandom random = Fuzz.random(thread);
            running.add(executor.submit(() -> {
                for (long i = 0; i < calls / threads; i++) {
                    step(random);
                }
            }));
        }
        for (final Future<?> thread : running) {
            try {
                thread.get();
            } catch (final ExecutionException e) {
                throw new AssertionError("hopper4j.fuzz.seed=" + Fuzz.seed(), e.getCause());
            }
        }
        closeAll();
        return new Counts(done.get(), refused.get());
    }

    private void step(final SplittableRandom random) {
        final int choice = random.nextInt(100);
        try {
            act(choice, random);
            done.incrementAndGet();
        } catch (final IllegalStateException e) {
            if (!REFUSED.matcher(String.valueOf(e.getMessage())).matches()) {
                throw new AssertionError("a refusal that is not documented, of choice " + choice, e);
            }
            refused.incrementAndGet();
        } catch (final DeviceException e) {
            if (!CAPTURE_BROKEN.matcher(String.valueOf(e.getMessage())).matches()) {
                throw e;
            }
            refused.incrementAndGet();
        }
    }

    private void act(final int choice, final SplittableRandom random) {
        // Memory is allocated in order of streams that are never captured, so that no allocation becomes part of a
        // graph.
        final Stream plain = pick(streams, 0, SLOTS / 2, random);
        final Stream capturable = pick(streams, SLOTS / 2, SLOTS, random);
        final Stream stream = random.nextBoolean() ? plain : capturable;
        final Operands<T> tensors = pick(operands, 0, SLOTS, random);
        final QuantizePlan<T> plan = pick(plans, 0, SLOTS, random);
        final QuantizeLaunch<T> launch = pick(launches, 0, 2 * SLOTS, random);
        final Graph graph = pick(graphs, 0, SLOTS, random);
        final Event event = pick(events, 0, SLOTS, random);
        if (choice < 6) {
            put(streams, random.nextInt(SLOTS), kernels.openStream());
        } else if (choice < 12 && plain != null) {
            put(operands, random.nextInt(SLOTS), allocated(memory.apply(plain)));
        } else if (choice < 16) {
            put(plans, random.nextInt(SLOTS), kernels.plan(SPEC));
        } else if (choice < 26 && plan != null && tensors != null) {
            put(launches, random.nextInt(2 * SLOTS), plan.bind(tensors.in(), tensors.out()));
        } else if (choice < 34 && launch != null && tensors != null) {
            launch.rebind(tensors.in(), tensors.out());
        } else if (choice < 60 && launch != null && stream != null) {
            launch.launch(stream, random.nextInt((int) ROWS + 1));
        } else if (choice < 66 && launch != null && capturable != null) {
            put(graphs, random.nextInt(SLOTS), capturable.capture(launch::launch));
        } else if (choice < 72 && graph != null && stream != null) {
            graph.launch(stream);
        } else if (choice < 76 && stream != null) {
            put(events, random.nextInt(SLOTS), stream.record());
        } else if (choice < 80 && event != null && plain != null) {
            plain.await(event);
        } else if (choice < 84 && event != null) {
            event.isReached();
        } else if (choice < 86 && stream != null) {
            stream.synchronize();
        } else {
            final AtomicReferenceArray<? extends @Nullable AutoCloseable> kind =
                    kinds.get(random.nextInt(kinds.size()));
            closeSlot(kind, random.nextInt(kind.length()));
        }
    }

    /** Operands, or the owner among what is closed later: where its stream has joined a capture, it can neither allocate nor be closed now. */
    private Operands<T> allocated(final Owner<T> owner) {
        try {
            return Operands.of(owner);
        } catch (final RuntimeException e) {
            displaced.add(owner);
            throw e;
        }
    }

    private static <A> @Nullable A pick(
            final AtomicReferenceArray<@Nullable A> slots,
            final int from,
            final int to,
            final SplittableRandom random) {
        return slots.get(random.nextInt(from, to));
    }

    private <A extends AutoCloseable> void put(
            final AtomicReferenceArray<@Nullable A> slots, final int slot, final A made) {
        final A old = slots.getAndSet(slot, made);
        if (old != null) {
            displaced.add(old);
            closeDisplaced();
        }
    }

    private void closeDisplaced() {
        for (int left = displaced.size(); left > 0; left--) {
            final AutoCloseable next = displaced.poll();
            if (next == null) {
                return;
            }
            try {
                close(next);
            } catch (final IllegalStateException e) {
                displaced.add(next);
            }
        }
    }

    private static <A extends AutoCloseable> void closeSlot(
            final AtomicReferenceArray<@Nullable A> slots, final int slot) {
        final A object = slots.get(slot);
        if (object != null) {
            close(object); // refused: it stays
            slots.compareAndSet(slot, object, null);
        }
    }

    private static void close(final AutoCloseable object) {
        try {
            object.close();
        } catch (final RuntimeException e) {
            throw e;
        } catch (final Exception e) {
            throw new AssertionError("close throws nothing checked", e);
        }
    }

    /** Closes everything in the order of dependence; nothing may be left that refuses. */
    private void closeAll() {
        final Map<String, RuntimeException> stuck = new TreeMap<>();
        for (int pass = 0; pass <= kinds.size(); pass++) {
            stuck.clear();
            for (final AtomicReferenceArray<? extends @Nullable AutoCloseable> kind : kinds) {
                for (int slot = 0; slot < kind.length(); slot++) {
                    try {
                        closeSlot(kind, slot);
                    } catch (final IllegalStateException e) {
                        stuck.put(String.valueOf(kind.get(slot)), e);
                    }
                }
            }
            closeDisplaced();
        }
        if (!stuck.isEmpty() || !displaced.isEmpty()) {
            throw new AssertionError("cannot be closed: " + stuck + " " + displaced);
        }
    }

    /** Opens, uses and closes everything once, in an order of this turn. */
    void cycle(final int turn) {
        final Stream stream = kernels.openStream();
        final Operands<T> tensors = Operands.of(memory.apply(stream));
        final QuantizePlan<T> plan = kernels.plan(SPEC);
        final QuantizeLaunch<T> launch = plan.bind(tensors.in(), tensors.out());
        final Graph graph = stream.capture(launch::launch);
        final Event event = stream.record();
        launch.launch(stream);
        graph.launch(stream);
        stream.synchronize();
        // Whatever the order, closing until nothing is refused ends with everything closed.
        final List<AutoCloseable> open = ordered(turn, graph, launch, event, tensors, plan, stream);
        for (int pass = 0; !open.isEmpty(); pass++) {
            if (pass > 6) {
                throw new AssertionError("cannot be closed: " + open);
            }
            open.removeIf(object -> {
                try {
                    close(object);
                    return true;
                } catch (final IllegalStateException e) {
                    return false;
                }
            });
        }
    }

    /** The objects in one of all orders; so many turns as there are orders go through all. */
    private static List<AutoCloseable> ordered(final int turn, final AutoCloseable... objects) {
        final List<AutoCloseable> left = new ArrayList<>(List.of(objects));
        final List<AutoCloseable> order = new ArrayList<>();
        for (int rest = turn; !left.isEmpty(); rest /= left.size() + 1) {
            order.add(left.remove(rest % left.size()));
        }
        return order;
    }
}
