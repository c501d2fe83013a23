package io.hopper4j.reference;

import io.hopper4j.CaptureBody;
import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.Stream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.jspecify.annotations.Nullable;

/** A stream whose work is done at once on the calling thread, one piece after the other; under capture it is kept instead. */
final class ReferenceStream implements Stream {
    private final Lifetime lifetime = new Lifetime("reference stream", List.of());
    private @Nullable List<Runnable> recording;
    private @Nullable BadData found;

    /**
     * Does work, or keeps it for the graph being captured.
     *
     * @param operation for messages
     * @param on where the caller put the work
     * @param work what to do
     * @throws IllegalArgumentException if {@code on} is another kind of stream
     * @throws IllegalStateException if the stream is closed
     */
    static void submit(final String operation, final Stream on, final Runnable work) {
        of(operation, on).submit(work);
    }

    private static ReferenceStream of(final String operation, final Stream on) {
        if (on instanceof ReferenceStream stream) {
            return stream;
        }
        throw new IllegalArgumentException(operation + ": stream: got " + on + ", need a stream of the reference");
    }

    private synchronized void submit(final Runnable work) {
        lifetime.requireOpen();
        if (recording == null) {
            run(work);
        } else {
            recording.add(work);
        }
    }

    /** The first bad data is kept until a call waits, as the device does. */
    private void run(final Runnable work) {
        try {
            work.run();
        } catch (final BadData e) {
            if (found == null) {
                found = e;
            }
        }
    }

    private void throwFound() {
        final BadData bad = found;
        found = null;
        if (bad != null) {
            throw bad;
        }
    }

    @Override
    public long handle() {
        throw new UnsupportedOperationException("stream: handle: a stream of the reference has no CUstream");
    }

    @Override
    public synchronized void synchronize() {
        lifetime.requireOpen();
        if (recording != null) {
            throw new IllegalStateException("stream: synchronize: got a stream being captured, need one that is not");
        }
        throwFound();
    }

    @Override
    public synchronized Event record() {
        lifetime.requireOpen();
        return new ReferenceEvent();
    }

    @Override
    public synchronized void await(final Event event) {
        lifetime.requireOpen();
        ReferenceEvent.of("stream: await", event).lifetime.requireOpen();
    }

    @Override
    public synchronized Graph capture(final CaptureBody work) {
        lifetime.requireOpen();
        if (recording != null) {
            throw new IllegalStateException("stream: capture: got a stream being captured, need one that is not");
        }
        final List<Runnable> recorded = new ArrayList<>();
        recording = recorded;
        try {
            work.record(this);
        } finally {
            recording = null;
        }
        return new ReferenceGraph(recorded);
    }

    @Override
    public synchronized void close() {
        if (recording != null) {
            throw new IllegalStateException("stream: close: got a stream being captured, need one that is not");
        }
        lifetime.close();
    }

    @Override
    public String toString() {
        return "stream of the reference";
    }

    private static final class ReferenceGraph implements Graph {
        private final Lifetime lifetime = new Lifetime("graph", List.of());
        private final List<Runnable> work;

        ReferenceGraph(final List<Runnable> recorded) {
            this.work = List.copyOf(recorded);
        }

        @Override
        public void launch(final Stream on) {
            lifetime.requireOpen();
            final ReferenceStream stream = of("graph", on);
            stream.submit(() -> work.forEach(stream::run));
        }

        @Override
        public void close() {
            lifetime.close();
        }

        @Override
        public String toString() {
            return "graph of " + work.size() + " launches";
        }
    }

    /** Reached as soon as it is recorded, since the work before it is done by then. */
    private static final class ReferenceEvent implements Event {
        private final Lifetime lifetime = new Lifetime("event", List.of());
        private final long nanoTime = System.nanoTime();

        static ReferenceEvent of(final String operation, final Event event) {
            if (event instanceof ReferenceEvent known) {
                return known;
            }
            throw new IllegalArgumentException(
                    operation + ": event: got " + event + ", need an event of the reference");
        }

        @Override
        public boolean isReached() {
            lifetime.requireOpen();
            return true;
        }

        @Override
        public void synchronize() {
            lifetime.requireOpen();
        }

        @Override
        public Duration elapsedSince(final Event start) {
            final ReferenceEvent first = of("event: elapsedSince", start);
            first.lifetime.requireOpen();
            lifetime.requireOpen();
            return Duration.ofNanos(nanoTime - first.nanoTime);
        }

        @Override
        public CompletionStage<Void> toCompletionStage() {
            try {
                lifetime.requireOpen();
            } catch (final IllegalStateException e) {
                return CompletableFuture.failedStage(e);
            }
            return CompletableFuture.completedStage(null);
        }

        @Override
        public void close() {
            lifetime.close();
        }

        @Override
        public String toString() {
            return "event of the reference";
        }
    }
}
