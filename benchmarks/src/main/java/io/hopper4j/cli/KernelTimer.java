package io.hopper4j.cli;

import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.Stream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/** Times what a launch does on the device, with the L2 emptied before every repetition. */
final class KernelTimer {
    /** Below this an event's own cost, several microseconds, is too large a part of what it measures. */
    private static final double SHORT_MICROSECONDS = 20;

    private static final int WARM_UPS = 3;
    private static final double WARM_UP_NANOS = 30e6;
    private static final int COPIES_IN_GRAPH = 10;
    private static final int TRACE_ATTEMPTS = 3;

    /** How a time was taken. */
    enum Method {
        /** Kernel times by CUPTI. */
        CUPTI,
        /** The difference of two graphs, one with the work between flushes, one with the flushes alone. */
        GRAPH,
        /** CUDA events around the launch. */
        EVENTS;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /**
     * How the L2 is emptied.
     *
     * @param writeBytes written first
     * @param readBytes read then
     */
    record Flush(long writeBytes, long readBytes) {
        /** This project's: the L2 is cold and clean. */
        static final Flush CLEAN = new Flush(512L << 20, NativeBench.MAX_READ);

        /** The peers': the L2 is cold and dirty, and the kernel pays for the write-back. */
        static final Flush WRITE_ONLY = new Flush(NativeBench.MAX_WRITE, 0);

        /** The same where peers write half as much. */
        static final Flush WRITE_HALF = new Flush(512L << 20, 0);
    }

    /**
     * Times of one kind.
     *
     * @param method how they were taken
     * @param microseconds from the first kernel's start to the last one's end
     * @param sum median of the sum of the kernels' own times; that of {@code microseconds} where they are not known apart
     * @param kernels how many kernels one run launches; 0 where that is not known
     */
    record Timing(Method method, Statistics microseconds, double sum, int kernels) {}

    private final NativeBench.Session session;
    private final Stream stream;
    private final int repetitions;
    private final Optional<Method> wanted;
    private final boolean canTrace;

    /**
     * @param repetitions that are timed
     * @param wanted the only method to use; empty: the best there is
     * @throws NativeBench.Failure if CUPTI is wanted and not there
     */
    KernelTimer(final BenchGpu gpu, final int repetitions, final Optional<Method> wanted) {
        this.session = gpu.session();
        this.stream = gpu.stream();
        this.repetitions = repetitions;
        this.wanted = wanted;
        final Optional<String> problem = session.traceProblem();
        if (wanted.equals(Optional.of(Method.CUPTI)) && problem.isPresent()) {
            throw new NativeBench.Failure(problem.get());
        }
        this.canTrace = problem.isEmpty();
    }

    int repetitions() {
        return repetitions;
    }

    /** Times a launch by the best method there is, or the wanted one. */
    Timing time(final Runnable work, final Flush flush) {
        warmUp(work, flush);
        final Method method = wanted.orElse(canTrace ? Method.CUPTI : Method.EVENTS);
        return switch (method) {
            case CUPTI -> byTrace(work, flush);
            case GRAPH -> byGraphs(work, flush);
            case EVENTS -> {
                final Timing events = byEvents(work, flush);
                yield wanted.isEmpty() && events.microseconds().median() < SHORT_MICROSECONDS
                        ? byGraphs(work, flush)
                        : events;
            }
        };
    }

    /** Times a launch as peers publish figures that are CUDA events'. */
    Timing timeByEvents(final Runnable work) {
        warmUp(work, Flush.WRITE_HALF);
        return byEvents(work, Flush.WRITE_HALF);
    }

    private void flush(final Stream on, final Flush flush) {
        session.flush(on.handle(), flush.writeBytes(), flush.readBytes());
    }

    /** Runs until clocks have risen and every lazily loaded kernel is there. */
    private void warmUp(final Runnable work, final Flush flush) {
        final long start = System.nanoTime();
        for (int i = 0; i < WARM_UPS || System.nanoTime() - start < WARM_UP_NANOS; i++) {
            flush(stream, flush);
            work.run();
            stream.synchronize();
        }
    }

    private Timing byTrace(final Runnable work, final Flush flush) {
        NativeBench.Trace trace = trace(work, flush);
        for (int i = 1; i < TRACE_ATTEMPTS && trace.spans().length != repetitions; i++) {
            trace = trace(work, flush);
        }
        if (trace.spans().length != repetitions) {
            throw new NativeBench.Failure("trace: got " + trace.spans().length + " repetitions, need " + repetitions
                    + ": CUPTI lost records, or nothing was launched");
        }
        return new Timing(
                Method.CUPTI,
                Statistics.of(trace.spans()),
                Statistics.of(trace.sums()).median(),
                Arrays.stream(trace.kernels()).max().orElse(0));
    }

    private NativeBench.Trace trace(final Runnable work, final Flush flush) {
        session.beginTrace();
        try {
            for (int i = 0; i < repetitions; i++) {
                flush(stream, flush);
                work.run();
            }
        } catch (final RuntimeException e) {
            session.endTrace(repetitions);
            throw e;
        }
        return session.endTrace(repetitions);
    }

    private Timing byEvents(final Runnable work, final Flush flush) {
        final List<Event> events = new ArrayList<>();
        try {
            for (int i = 0; i < repetitions; i++) {
                flush(stream, flush);
                events.add(stream.record());
                work.run();
                events.add(stream.record());
            }
            events.getLast().synchronize();
            final double[] times = new double[repetitions];
            for (int i = 0; i < repetitions; i++) {
                times[i] = microseconds(events.get(2 * i), events.get(2 * i + 1));
            }
            final Statistics statistics = Statistics.of(times);
            return new Timing(Method.EVENTS, statistics, statistics.median(), 0);
        } finally {
            events.forEach(Event::close);
        }
    }

    private Timing byGraphs(final Runnable work, final Flush flush) {
        try (Graph with = stream.capture(_ -> {
                    for (int i = 0; i < COPIES_IN_GRAPH; i++) {
                        flush(stream, flush);
                        work.run();
                    }
                });
                Graph without = stream.capture(_ -> {
                    for (int i = 0; i < COPIES_IN_GRAPH; i++) {
                        flush(stream, flush);
                    }
                })) {
            replay(with);
            replay(without);
            final double[] times = new double[repetitions];
            for (int i = 0; i < repetitions; i++) {
                times[i] = (replay(with) - replay(without)) / COPIES_IN_GRAPH;
            }
            final Statistics statistics = Statistics.of(times);
            return new Timing(Method.GRAPH, statistics, statistics.median(), 0);
        }
    }

    private double replay(final Graph graph) {
        try (Event start = stream.record()) {
            graph.launch(stream);
            try (Event end = stream.record()) {
                end.synchronize();
                return microseconds(start, end);
            }
        }
    }

    private static double microseconds(final Event start, final Event end) {
        return end.elapsedSince(start).toNanos() / 1e3;
    }
}
