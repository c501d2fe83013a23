package io.hopper4j.internal.cuda;

import io.hopper4j.CaptureBody;
import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.Stream;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/** An own or borrowed stream; the library knows which, and destroys only an own one. */
final class CudaStream implements Stream {
    private final CudaDevice device;
    private final MemorySegment handle;
    private final String name;
    private final Lifetime lifetime;
    /** The capture that work of this stream goes to: one begun here, or one joined by waiting for its event. Null or ended: none. */
    private volatile @Nullable Capture capture;

    CudaStream(final CudaDevice device, final MemorySegment handle, final String kind) {
        this.device = device;
        this.handle = handle;
        this.name = kind + " of " + device;
        this.lifetime = new Lifetime(this, name);
    }

    /**
     * {@return a stream of this implementation}
     *
     * @param where operation and argument, for the message
     * @param stream the stream
     * @param device the device it must be of
     */
    static CudaStream of(final String where, final Stream stream, final CudaDevice device) {
        if (!(stream instanceof CudaStream cuda)) {
            throw Arguments.bad(where, stream, "a stream of " + device);
        }
        if (cuda.device != device) {
            throw Arguments.bad(where, cuda, "a stream of " + device);
        }
        return cuda;
    }

    CudaDevice device() {
        return device;
    }

    /** Begins a call on this stream and answers its native handle; {@link #exit} must follow. */
    MemorySegment enter() {
        lifetime.enter();
        final Capture current = capture();
        if (current != null && !current.isOfThisThread()) {
            lifetime.exit();
            throw new IllegalStateException(
                    name + ": got a call of another thread while it is captured, need the one that captures");
        }
        return handle;
    }

    void exit() {
        lifetime.exit();
    }

    Lifetime lifetime() {
        return lifetime;
    }

    /** {@return the capture that work put in now goes to, or null} */
    @Nullable
    Capture capture() {
        final Capture current = capture;
        return current != null && current.isActive() ? current : null;
    }

    void requireNoCapture(final String action) {
        if (capture() != null) {
            throw new IllegalStateException(
                    name + ": " + action + ": got a stream being captured, need one that is not");
        }
    }

    @Override
    public long handle() {
        final MemorySegment stream = enter();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_stream_handle(stream, call.output(), call.error()));
            return call.number();
        } finally {
            exit();
        }
    }

    @Override
    public void synchronize() {
        final MemorySegment stream = enter();
        try (Call call = new Call()) {
            requireNoCapture("synchronize");
            call.check(hopper4j_h.h4j_stream_synchronize(stream, call.error()));
        } finally {
            exit();
        }
    }

    @Override
    public Event record() {
        final MemorySegment stream = enter();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_event_create(stream, 1, call.output(), call.error()));
            final MemorySegment event = call.handle();
            final int status = hopper4j_h.h4j_event_record(event, stream, call.error());
            if (status != hopper4j_h.H4J_OK()) {
                final RuntimeException failure = call.failure(status);
                hopper4j_h.h4j_event_close(event, MemorySegment.NULL);
                throw failure;
            }
            return new CudaEvent(device, event, capture());
        } finally {
            exit();
        }
    }

    @Override
    public void await(final Event event) {
        final CudaEvent mark = CudaEvent.of("stream: event", event);
        final Capture joined = mark.capture();
        if (joined != null && joined.isActive() && capture() == null) {
            join(joined, mark);
            return;
        }
        final MemorySegment stream = enter();
        try (Call call = new Call()) {
            wait(stream, mark, call);
        } finally {
            exit();
        }
    }

    private static void wait(final MemorySegment stream, final CudaEvent mark, final Call call) {
        final MemorySegment awaited = mark.enter();
        try {
            call.check(hopper4j_h.h4j_stream_wait(stream, awaited, call.error()));
        } finally {
            mark.exit();
        }
    }

    /** The driver does not stand it that a stream becomes part of a capture while another thread is inside a call on it. */
    private void join(final Capture joined, final CudaEvent mark) {
        if (!joined.isOfThisThread()) {
            throw new IllegalStateException(
                    name + ": await: got a call of another thread than captures the event, need that one");
        }
        lifetime.enterExclusively("await");
        try (Call call = new Call()) {
            wait(handle, mark, call);
            capture = joined;
        } finally {
            lifetime.endExclusive();
        }
    }

    @Override
    public Graph capture(final CaptureBody work) {
        final Capture begun = begin();
        final MemorySegment stream = handle;
        try (Call call = new Call()) {
            try {
                work.record(this);
            } catch (Throwable t) {
                hopper4j_h.h4j_capture_end(stream, MemorySegment.NULL, MemorySegment.NULL);
                begun.end();
                begun.releaseAll();
                throw t;
            }
            final int status = hopper4j_h.h4j_capture_end(stream, call.output(), call.error());
            begun.end();
            if (status != hopper4j_h.H4J_OK()) {
                begun.releaseAll();
                throw call.failure(status);
            }
            return new CudaGraph(device, call.handle(), begun);
        } finally {
            exit();
        }
    }

    /** Begins a capture with no other thread inside, and stays inside: as {@link #join}. */
    private Capture begin() {
        requireNoCapture("capture");
        lifetime.enterExclusively("capture");
        boolean inside = false;
        try (Call call = new Call()) {
            requireNoCapture("capture");
            call.check(hopper4j_h.h4j_capture_begin(handle, call.error()));
            final Capture begun = new Capture();
            capture = begun;
            lifetime.endExclusiveInside();
            inside = true;
            return begun;
        } finally {
            if (!inside) {
                lifetime.endExclusive();
            }
        }
    }

    @Override
    public void close() {
        // A capture keeps its stream entered, so it cannot be closed meanwhile.
        if (lifetime.close()) {
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_stream_close(handle, call.error()));
            }
        }
    }

    @Override
    public String toString() {
        return name;
    }
}
