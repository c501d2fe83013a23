package io.hopper4j.internal.cuda;

import java.util.LinkedHashSet;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Says whether a native object may be used. Calls enter and exit it, others hold leases on it; it can be closed only when nobody is inside
 * and nobody holds a lease. Entering and exiting allocate nothing.
 */
final class Lifetime {
    private static final int CLOSED = Integer.MIN_VALUE;
    private static final int CHANGING = Integer.MIN_VALUE + 1;

    private final String name;
    private final LeakReport leak;
    /** Calls inside, or CLOSED, or CHANGING. */
    private final AtomicInteger inside = new AtomicInteger();

    private final Set<Lease> leases = new LinkedHashSet<>();

    /**
     * @param owner the object that the caller must close; not kept
     * @param name what messages call it, such as {@code stream of device 0}
     */
    Lifetime(final Object owner, final String name) {
        this.name = name;
        this.leak = LeakReport.watch(owner, name);
    }

    /**
     * Begins a call that uses the object; {@link #exit} must follow.
     *
     * @throws IllegalStateException if it is closed
     */
    void enter() {
        int calls;
        do {
            calls = inside.get();
            if (calls < 0) {
                throw unusable(calls);
            }
        } while (!inside.compareAndSet(calls, calls + 1));
    }

    void exit() {
        inside.decrementAndGet();
    }

    /**
     * @throws IllegalStateException if it is closed
     */
    void requireOpen() {
        final int calls = inside.get();
        if (calls == CLOSED) {
            throw unusable(calls);
        }
    }

    private IllegalStateException unusable(final int state) {
        return new IllegalStateException(name + ": got "
                + (state == CLOSED ? "a closed one" : "one that another thread changes") + ", need an open one");
    }

    /**
     * {@return a lease, which keeps the object open until it is returned}
     *
     * @param holder who holds it, for the message of a close that is refused
     * @throws IllegalStateException if it is closed
     */
    Lease lease(final String holder) {
        synchronized (leases) {
            requireOpen();
            final Lease lease = new Lease(this, holder);
            leases.add(lease);
            return lease;
        }
    }

    /**
     * Begins a change that no call may see; {@link #endExclusive} must follow.
     *
     * @param action what is done, for the message
     * @throws IllegalStateException if it is closed or a call is inside
     */
    void enterExclusively(final String action) {
        exclude(action, CHANGING);
    }

    private void exclude(final String action, final int state) {
        if (!inside.compareAndSet(0, state)) {
            final int calls = inside.get();
            throw calls < 0
                    ? unusable(calls)
                    : new IllegalStateException(
                            name + ": " + action + ": got a call of another thread inside, need none");
        }
    }

    void endExclusive() {
        inside.set(0);
    }

    /** Goes on inside after a change, so that nobody closes in between; {@link #exit} must follow. */
    void endExclusiveInside() {
        inside.set(1);
    }

    /**
     * Closes.
     *
     * @return whether the caller must now destroy the native object; false if that has been done before
     * @throws IllegalStateException if leases are held or a call is inside
     */
    boolean close() {
        synchronized (leases) {
            if (inside.get() == CLOSED) {
                return false;
            }
            if (!leases.isEmpty()) {
                throw new IllegalStateException(name + ": close: got open "
                        + leases.stream().map(Lease::holder).toList() + ", need them closed before");
            }
            exclude("close", CLOSED);
            leak.closed();
            return true;
        }
    }

    /** One reason to keep an object open. */
    static final class Lease {
        private final Lifetime of;
        private final String holder;

        private Lease(final Lifetime of, final String holder) {
            this.of = of;
            this.holder = holder;
        }

        private String holder() {
            return holder;
        }

        /** Returns the lease; again: does nothing. */
        void release() {
            synchronized (of.leases) {
                of.leases.remove(this);
            }
        }
    }
}
