package io.hopper4j.internal.cuda;

import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.lang.ref.Cleaner;
import org.jspecify.annotations.Nullable;

/**
 * Reports an object that became unreachable without having been closed. It frees nothing: only the owner knows when that is safe. With the system
 * property {@code hopper4j.leaks=stack} the report has the stack that made the object, which takes some microseconds an object.
 */
final class LeakReport implements Runnable {
    private static final Logger LOG = System.getLogger("io.hopper4j");
    private static final Cleaner CLEANER = Cleaner.create();

    private final String name;
    private final @Nullable Throwable made;
    private volatile boolean closed;

    private LeakReport(final String name) {
        this.name = name;
        this.made = "stack".equals(System.getProperty("hopper4j.leaks")) ? new Throwable(name + ": made here") : null;
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
            final String lost = name + " was never closed: its native resources are lost until the process ends";
            if (made == null) {
                LOG.log(Level.WARNING, lost + "; -Dhopper4j.leaks=stack says where it was made");
            } else {
                LOG.log(Level.WARNING, lost, made);
            }
        }
    }
}
