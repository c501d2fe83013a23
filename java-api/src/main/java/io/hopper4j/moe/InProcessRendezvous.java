package io.hopper4j.moe;

import io.hopper4j.PeerTimeoutException;
import io.hopper4j.internal.Arguments;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;

/** Ends of one table in memory. */
final class InProcessRendezvous implements Rendezvous {
    /** What the ranks have given in one round, until all have taken it. */
    private static final class Round {
        private final byte[] @Nullable [] parts;
        private int given;
        private int taken;

        Round(final int ranks) {
            parts = new byte[ranks][];
        }
    }

    /** What all ends share. */
    private static final class Table {
        private final int ranks;
        private final ReentrantLock lock = new ReentrantLock();
        private final Condition changed = lock.newCondition();
        private final Map<Long, Round> rounds = new HashMap<>();

        Table(final int ranks) {
            this.ranks = ranks;
        }
    }

    private final Table table;
    private final int rank;
    private long round;

    private InProcessRendezvous(final Table table, final int rank) {
        this.table = table;
        this.rank = rank;
    }

    static List<Rendezvous> open(final int ranks) {
        Arguments.require(ranks >= 1, "rendezvous: ranks", ranks, "at least 1");
        final Table table = new Table(ranks);
        final List<Rendezvous> ends = new ArrayList<>(ranks);
        for (int rank = 0; rank < ranks; rank++) {
            ends.add(new InProcessRendezvous(table, rank));
        }
        return ends;
    }

    @Override
    public int rank() {
        return rank;
    }

    @Override
    public int ranks() {
        return table.ranks;
    }

    @Override
    public List<byte @Nullable []> allGather(final byte[] mine, final BitSet active, final Duration deadline) {
        final long number = round++;
        if (!active.get(rank)) {
            return Arrays.asList(new byte[table.ranks][]);
        }
        final int expected = active.cardinality();
        long left = deadline.toNanos();
        table.lock.lock();
        try {
            final Round current = table.rounds.computeIfAbsent(number, n -> new Round(table.ranks));
            current.parts[rank] = mine;
            current.given++;
            if (current.given == expected) {
                table.changed.signalAll();
            }
            while (current.given < expected) {
                if (left <= 0) {
                    final int missing = active.stream()
                            .filter(r -> current.parts[r] == null)
                            .findFirst()
                            .orElseThrow();
                    throw timeout(missing, deadline);
                }
                left = table.changed.awaitNanos(left);
            }
            if (++current.taken == expected) {
                table.rounds.remove(number);
            }
            return Arrays.asList(current.parts);
        } catch (final InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("rendezvous: rank " + rank + " was interrupted while it waited", e);
        } finally {
            table.lock.unlock();
        }
    }

    static PeerTimeoutException timeout(final int rank, final Duration deadline) {
        return new PeerTimeoutException(
                rank,
                "rendezvous: rank: got nothing from rank " + rank + ", need its part within "
                        + TimeUnit.NANOSECONDS.toMillis(deadline.toNanos()) + " ms");
    }

    @Override
    public void close() {
        // Nothing is held: rounds go when they are taken.
    }

    @Override
    public String toString() {
        return "rank " + rank + " of " + table.ranks + " in this process";
    }
}
