package io.hopper4j.internal.cuda;

import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.lang.ref.Cleaner;

/** Reports an object that became unreachable without having been closed. It frees nothing: only the owner knows when that is safe. */
final class LeakReport implements Runnable {
    private static final Logger LOG = System.getLogger("io.hopper4j");
    private static final Cleaner CLEANER = Cleaner.create();

    private final String name;
    private volatile boolean closed;

    private LeakReport(final String name) {
        this.name = name;
    }

    static LeakReport watch(final Object owner, final String name) {
        final LeakReport report = new LeakReport(name);
        CLEANER.register(owner, report);
        return report;
    }

    void closed() {
        closed = true;
    }

    @Override
    public void run() {
        if (!closed) {
            LOG.log(Level.WARNING, "{0} was never closed: its native resources are lost until the process ends", name);
        }
    }
}
