package io.hopper4j.reference;

import io.hopper4j.Launch;
import io.hopper4j.OpSpec;
import io.hopper4j.Plan;
import io.hopper4j.Stream;
import io.hopper4j.internal.Operands;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What the plans of every operation share. An operation is a class that extends this one, with its launch as an inner class: {@code rebind} checks the
 * operands and says what they compute, and {@code bind} makes a launch and rebinds it for the first time.
 */
abstract class HostPlan<S extends OpSpec> implements Plan {
    static final String KERNEL = "reference";
    static final String EXPLANATION = "plain Java, double accumulators";

    private final S spec;
    private final Lifetime lifetime;

    /** @param owner what must stay open while the plan is */
    HostPlan(final S spec, final Lifetime owner) {
        this.spec = spec;
        this.lifetime = new Lifetime(spec.operation() + " plan", List.of(owner));
    }

    @Override
    public final S spec() {
        return spec;
    }

    @Override
    public final long workspaceBytes() {
        return 0;
    }

    @Override
    public final String kernel() {
        return KERNEL;
    }

    @Override
    public final String explanation() {
        return EXPLANATION;
    }

    @Override
    public final void close() {
        lifetime.close();
    }

    /** The work of a launch on its first {@code rows} rows. */
    @FunctionalInterface
    interface Work {
        void run(long rows);
    }

    private record Bound(Lifetime lifetime, long rows, Work work) {}

    /** What the launches of every operation share. It is of no use, and holds nothing, until it is bound. */
    abstract class HostLaunch implements Launch {
        private final String operation;
        private volatile @Nullable Bound bound;

        HostLaunch() {
            this(spec.operation());
        }

        HostLaunch(final String operation) {
            this.operation = operation;
        }

        /** Takes other operands, which were checked; {@code rows} is how many rows they have. */
        final void bindTo(final long rows, final Work work) {
            final Bound before = bound;
            if (before == null) {
                bound = new Bound(new Lifetime(operation + " launch", List.of(HostPlan.this.lifetime)), rows, work);
            } else {
                before.lifetime.requireOpen();
                bound = new Bound(before.lifetime, rows, work);
            }
        }

        private Bound bound() {
            return Objects.requireNonNull(bound);
        }

        @Override
        public final void launch(final Stream on) {
            launch(on, bound().rows);
        }

        @Override
        public void launch(final Stream on, final long rows) {
            final Bound now = bound();
            Operands.checkRows(operation, rows, now.rows);
            now.lifetime.requireOpen();
            ReferenceStream.submit(operation, on, () -> now.work.run(rows));
        }

        @Override
        public final void close() {
            bound().lifetime.close();
        }
    }
}
