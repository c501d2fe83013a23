package io.hopper4j.moe;

import io.hopper4j.PeerTimeoutException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.BitSet;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Where the ranks of a group meet: one end for each rank. Ranks exchange bytes in rounds, every rank in the same order.
 *
 * <p>An end is of one rank and one thread at a time. It may be closed once the group is open (ranks of the reference go on meeting in it).
 */
public interface Rendezvous extends AutoCloseable {
    /** {@return this rank} */
    int rank();

    /** {@return ranks of the group} */
    int ranks();

    /**
     * Exchanges bytes with the ranks that take part.
     *
     * @param mine what the others are to see; not copied
     * @param active the ranks that take part in this round; if this rank does not, the round is only counted
     * @param deadline how long to wait for the others
     * @return what each rank gave, in order; null for ranks that do not take part
     * @throws PeerTimeoutException if a rank is not there before the deadline; it names the first one
     */
    List<byte @Nullable []> allGather(byte[] mine, BitSet active, Duration deadline);

    /** Ends the rank's part; ranks that wait for it find out by their deadline at the latest. */
    @Override
    void close();

    /**
     * {@return the ends of a rendezvous inside this process, one for each rank}
     *
     * @param ranks ranks of the group
     * @throws IllegalArgumentException if there is not at least one
     */
    static List<Rendezvous> inProcess(final int ranks) {
        return InProcessRendezvous.open(ranks);
    }

    /**
     * {@return a rank's end of a rendezvous between processes, once all ranks are there}
     *
     * <p>Rank 0 listens; the others connect to it. Both sides prove that they know the secret, which itself is never sent.
     *
     * @param address where rank 0 listens
     * @param rank this rank
     * @param ranks ranks of the group
     * @param secret shared by all ranks, at least 16 bytes; copied
     * @param deadline how long to wait for the others
     * @throws IllegalArgumentException if a number is out of range or the secret is too short
     * @throws IllegalStateException if the address cannot be listened at, or a peer speaks of another group or does not know the secret
     * @throws PeerTimeoutException if a rank is not there before the deadline; it names the first one
     */
    static Rendezvous tcp(
            final InetSocketAddress address,
            final int rank,
            final int ranks,
            final byte[] secret,
            final Duration deadline) {
        return TcpRendezvous.open(address, rank, ranks, secret, deadline);
    }
}
