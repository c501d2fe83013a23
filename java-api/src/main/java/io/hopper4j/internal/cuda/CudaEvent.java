package io.hopper4j.internal.cuda;

import io.hopper4j.Event;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.MemorySegment;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/** A recorded, timed event. */
final class CudaEvent implements Event {
    /** A waiting stage asks the driver this often at first, and more and more rarely up to the second figure. */
    private static final long FIRST_WAIT_NANOS = 20_000;

    private static final long LONGEST_WAIT_NANOS = 1_000_000;

    private final CudaDevice device;
    private final MemorySegment handle;
    private final @Nullable Capture capture;
    private final Lifetime lifetime;

    CudaEvent(final CudaDevice device, final MemorySegment handle, final @Nullable Capture capture) {
        this.device = device;
        this.handle = handle;
        this.capture = capture;
        this.lifetime = new Lifetime(this, "event of " + device);
    }

    static CudaEvent of(final String where, final Event event) {
        if (event instanceof CudaEvent cuda) {
            return cuda;
        }
        throw Arguments.bad(where, event, "an event of a CUDA stream");
    }

    MemorySegment enter() {
        lifetime.enter();
        return handle;
    }

    void exit() {
        lifetime.exit();
    }

    /** {@return the capture that was under way when the event was recorded, if it still is} */
    @Nullable
    Capture capture() {
        return capture != null && capture.isActive() ? capture : null;
    }

    @Override
    public boolean isReached() {
        final MemorySegment event = enter();
        try (Call call = new Call()) {
            return call.checkReady(hopper4j_h.h4j_event_query(event, call.error()));
        } finally {
            exit();
        }
    }

    @Override
    public void synchronize() {
        final MemorySegment event = enter();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_event_synchronize(event, call.error()));
        } finally {
            exit();
        }
    }

    @Override
    public Duration elapsedSince(final Event start) {
        final CudaEvent from = of("event: start", start);
        if (!from.isReached() || !isReached()) {
            throw new IllegalStateException(
                    "event: elapsedSince: got an event that is not reached yet, need both reached");
        }
        final MemorySegment first = from.enter();
        try (Call call = new Call()) {
            final MemorySegment last = enter();
            try {
                call.check(hopper4j_h.h4j_event_elapsed(first, last, call.output(), call.error()));
                final double microseconds = Double.longBitsToDouble(call.number());
                return Duration.ofNanos(Math.round(microseconds * 1000));
            } finally {
                exit();
            }
        } finally {
            from.exit();
        }
    }

    @Override
    public CompletionStage<Void> toCompletionStage() {
        final CompletableFuture<Void> stage = new CompletableFuture<>();
        Thread.ofVirtual().name("hopper4j-event").start(() -> poll(stage));
        return stage.minimalCompletionStage();
    }

    private void poll(final CompletableFuture<Void> stage) {
        try {
            for (long wait = FIRST_WAIT_NANOS; !isReached(); wait = Math.min(2 * wait, LONGEST_WAIT_NANOS)) {
                LockSupport.parkNanos(wait);
            }
            stage.complete(null);
        } catch (RuntimeException e) {
            stage.completeExceptionally(e);
        }
    }

    @Override
    public void close() {
        if (lifetime.close()) {
            try (Call call = new Call()) {
                call.check(hopper4j_h.h4j_event_close(handle, call.error()));
            }
        }
    }

    @Override
    public String toString() {
        return "event of " + device;
    }
}
