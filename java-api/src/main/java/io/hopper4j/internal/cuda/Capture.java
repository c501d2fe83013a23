package io.hopper4j.internal.cuda;

import java.util.ArrayList;
import java.util.List;

/** A capture under way, and the leases on what the work captured needs; the graph takes them over. */
final class Capture {
    private final List<Lifetime.Lease> leases = new ArrayList<>();
    private final Thread thread = Thread.currentThread();
    private volatile boolean active = true;

    boolean isActive() {
        return active;
    }

    /** {@return whether the calling thread began it; a graph under way is of one thread} */
    boolean isOfThisThread() {
        return thread == Thread.currentThread();
    }

    /** Keeps an arena open for the graph; work that comes after the end is none of it. */
    synchronized void hold(final CudaArena arena) {
        if (active) {
            leases.add(arena.lifetime().lease("graph"));
        }
    }

    synchronized void end() {
        active = false;
    }

    synchronized void releaseAll() {
        leases.forEach(Lifetime.Lease::release);
        leases.clear();
    }
}
