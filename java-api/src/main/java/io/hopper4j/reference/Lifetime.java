package io.hopper4j.reference;

import java.util.ArrayList;
import java.util.List;

/**
 * What is closed once, and not while others depend on it. A lifetime that depends on others keeps them open until it is closed itself.
 * May be used from any thread.
 */
final class Lifetime {
    private final String name;
    private final List<Lifetime> needs;
    private final List<Lifetime> dependents = new ArrayList<>();
    private boolean closed;

    /**
     * Begins a lifetime.
     *
     * @throws IllegalStateException if one of {@code needs} is closed
     */
    Lifetime(final String name, final List<Lifetime> needs) {
        this.name = name;
        this.needs = List.copyOf(needs);
        final List<Lifetime> held = new ArrayList<>();
        try {
            for (final Lifetime need : this.needs) {
                need.hold(this);
                held.add(need);
            }
        } catch (final IllegalStateException e) {
            held.forEach(need -> need.letGo(this));
            throw e;
        }
    }

    private synchronized void hold(final Lifetime dependent) {
        requireOpen();
        dependents.add(dependent);
    }

    private synchronized void letGo(final Lifetime dependent) {
        dependents.remove(dependent);
    }

    /**
     * Checks.
     *
     * @throws IllegalStateException if this is closed
     */
    synchronized void requireOpen() {
        if (closed) {
            throw new IllegalStateException(name + ": got a closed one, need an open one");
        }
    }

    /**
     * Ends the lifetime; nothing happens if it has ended.
     *
     * @throws IllegalStateException if something depends on this
     */
    void close() {
        synchronized (this) {
            if (closed) {
                return;
            }
            if (!dependents.isEmpty()) {
                throw new IllegalStateException(name + ": close: got open " + dependents + ", need them closed before");
            }
            closed = true;
        }
        needs.forEach(need -> need.letGo(this));
    }

    @Override
    public String toString() {
        return name;
    }
}
