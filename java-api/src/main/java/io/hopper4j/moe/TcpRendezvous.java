package io.hopper4j.moe;

import io.hopper4j.PeerTimeoutException;
import io.hopper4j.internal.Arguments;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.ConnectException;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.jspecify.annotations.Nullable;

/**
 * A star of TCP connections with rank 0 in the middle.
 *
 * <p>A connection begins with: hub to rank, 32 random bytes; rank to hub, 32 random bytes, rank, ranks and the HMAC of all that; hub to rank, a verdict and
 * the HMAC of the same in the other direction. A round is: rank to hub, length and bytes; hub to rank, for each rank length (-1: takes no part) and bytes.
 */
final class TcpRendezvous implements Rendezvous {
    private static final int NONCE = 32;
    private static final int SMALLEST_SECRET = 16;
    private static final int LARGEST_PART = 1 << 28;
    private static final int WELCOME = 1;
    private static final int OTHER_SIZE = 2;
    private static final int TAKEN_RANK = 3;
    private static final SecureRandom RANDOM = new SecureRandom();

    /** One connection, from either side. */
    private record Link(Socket socket, DataInputStream in, DataOutputStream out) {
        static Link of(final Socket socket) throws IOException {
            socket.setTcpNoDelay(true);
            return new Link(
                    socket,
                    new DataInputStream(socket.getInputStream()),
                    new DataOutputStream(socket.getOutputStream()));
        }

        void deadline(final long end) throws IOException {
            final long left = (end - System.nanoTime()) / 1_000_000;
            if (left <= 0) {
                throw new SocketTimeoutException("deadline");
            }
            socket.setSoTimeout((int) Math.min(left, Integer.MAX_VALUE));
        }

        byte[] read(final int length) throws IOException {
            final byte[] bytes = new byte[length];
            in.readFully(bytes);
            return bytes;
        }

        byte @Nullable [] readPart() throws IOException {
            final int length = in.readInt();
            if (length < -1 || length > LARGEST_PART) {
                throw new SocketException("a part of " + length + " bytes");
            }
            return length == -1 ? null : read(length);
        }

        void writePart(final byte @Nullable [] part) throws IOException {
            out.writeInt(part == null ? -1 : part.length);
            if (part != null) {
                out.write(part);
            }
        }
    }

    private final int rank;
    private final int ranks;
    /** Of rank 0: one for each other rank. Of others: the one to rank 0, at index 0. */
    private final @Nullable Link[] links;

    private TcpRendezvous(final int rank, final int ranks, final @Nullable Link[] links) {
        this.rank = rank;
        this.ranks = ranks;
        this.links = links;
    }

    static Rendezvous open(
            final InetSocketAddress address,
            final int rank,
            final int ranks,
            final byte[] secret,
            final Duration deadline) {
        Arguments.require(ranks >= 1, "rendezvous: ranks", ranks, "at least 1");
        Arguments.require(rank >= 0 && rank < ranks, "rendezvous: rank", rank, "0.." + (ranks - 1));
        Arguments.require(
                secret.length >= SMALLEST_SECRET,
                "rendezvous: secret",
                secret.length + " bytes",
                "at least " + SMALLEST_SECRET + " bytes");
        final SecretKeySpec key = new SecretKeySpec(secret, "HmacSHA256");
        final long end = System.nanoTime() + deadline.toNanos();
        final @Nullable Link[] links = new Link[rank == 0 ? ranks : 1];
        try {
            if (rank == 0) {
                accept(address, ranks, key, end, deadline, links);
            } else {
                links[0] = connect(address, rank, ranks, key, end, deadline);
            }
            return new TcpRendezvous(rank, ranks, links);
        } catch (final RuntimeException e) {
            closeAll(links);
            throw e;
        }
    }

    private static void accept(
            final InetSocketAddress address,
            final int ranks,
            final SecretKeySpec key,
            final long end,
            final Duration deadline,
            final @Nullable Link[] links) {
        try (ServerSocket server = new ServerSocket()) {
            try {
                server.bind(address, ranks);
            } catch (final IOException e) {
                throw new IllegalStateException(
                        "rendezvous: address: got " + address + ", which cannot be listened at (" + e.getMessage()
                                + "), need a free one of this host",
                        e);
            }
            int missing = ranks - 1;
            while (missing > 0) {
                final long left = (end - System.nanoTime()) / 1_000_000;
                if (left <= 0) {
                    throw InProcessRendezvous.timeout(firstMissing(links), deadline);
                }
                server.setSoTimeout((int) Math.min(left, Integer.MAX_VALUE));
                try {
                    missing -= welcome(Link.of(server.accept()), ranks, key, end, links) ? 1 : 0;
                } catch (final SocketTimeoutException e) {
                    throw InProcessRendezvous.timeout(firstMissing(links), deadline);
                }
            }
        } catch (final IOException e) {
            throw new IllegalStateException("rendezvous: address: got " + e.getMessage() + " at " + address, e);
        }
    }

    /** Answers whether one more rank is there. Whoever does not know the secret is sent away, and the wait goes on. */
    private static boolean welcome(
            final Link link, final int ranks, final SecretKeySpec key, final long end, final @Nullable Link[] links)
            throws IOException {
        try {
            // A stranger that says nothing may not hold up the ranks behind it for long.
            link.deadline(Math.min(end, System.nanoTime() + 2_000_000_000L));
            final byte[] nonce = nonce();
            link.out().write(nonce);
            link.out().flush();
            final byte[] theirs = link.read(NONCE);
            final int rank = link.in().readInt();
            final int theirRanks = link.in().readInt();
            final byte[] proof = link.read(NONCE);
            if (!MessageDigest.isEqual(proof, hmac(key, "rank", nonce, theirs, rank, theirRanks))) {
                link.socket().close();
                return false;
            }
            final int verdict = theirRanks != ranks || rank < 1 || rank >= ranks
                    ? OTHER_SIZE
                    : links[rank] != null ? TAKEN_RANK : WELCOME;
            link.out().writeInt(verdict);
            link.out().writeInt(ranks);
            link.out().write(hmac(key, "hub", nonce, theirs, verdict, ranks));
            link.out().flush();
            if (verdict != WELCOME) {
                link.socket().close();
                return false;
            }
            links[rank] = link;
            return true;
        } catch (final SocketTimeoutException | EOFException | SocketException e) {
            link.socket().close();
            return false;
        }
    }

    private static Link connect(
            final InetSocketAddress address,
            final int rank,
            final int ranks,
            final SecretKeySpec key,
            final long end,
            final Duration deadline) {
        while (true) {
            Socket socket = new Socket();
            try {
                final long left = (end - System.nanoTime()) / 1_000_000;
                if (left <= 0) {
                    throw InProcessRendezvous.timeout(0, deadline);
                }
                socket.connect(address, (int) Math.min(left, Integer.MAX_VALUE));
                final Link link = Link.of(socket);
                link.deadline(end);
                introduce(link, rank, ranks, key);
                return link;
            } catch (final ConnectException e) {
                // Rank 0 does not listen yet.
                closeQuietly(socket);
                pause();
            } catch (final SocketTimeoutException e) {
                closeQuietly(socket);
                throw InProcessRendezvous.timeout(0, deadline);
            } catch (final IOException e) {
                closeQuietly(socket);
                throw new IllegalStateException(
                        "rendezvous: secret: got a connection that rank 0 at " + address
                                + " ended, need the secret that rank 0 has",
                        e);
            } catch (final RuntimeException e) {
                closeQuietly(socket);
                throw e;
            }
        }
    }

    private static void introduce(final Link link, final int rank, final int ranks, final SecretKeySpec key)
            throws IOException {
        final byte[] theirs = link.read(NONCE);
        final byte[] nonce = nonce();
        link.out().write(nonce);
        link.out().writeInt(rank);
        link.out().writeInt(ranks);
        link.out().write(hmac(key, "rank", theirs, nonce, rank, ranks));
        link.out().flush();
        final int verdict = link.in().readInt();
        final int hubRanks = link.in().readInt();
        if (!MessageDigest.isEqual(link.read(NONCE), hmac(key, "hub", theirs, nonce, verdict, hubRanks))) {
            throw new IllegalStateException(
                    "rendezvous: secret: got a rank 0 that does not know it, need the one of this group");
        }
        if (verdict == OTHER_SIZE) {
            throw new IllegalStateException(
                    "rendezvous: ranks: got " + ranks + " at rank " + rank + ", need " + hubRanks + " as at rank 0");
        }
        if (verdict == TAKEN_RANK) {
            throw new IllegalStateException("rendezvous: rank: got " + rank + ", which is taken, need a free one");
        }
    }

    private static byte[] nonce() {
        final byte[] bytes = new byte[NONCE];
        RANDOM.nextBytes(bytes);
        return bytes;
    }

    private static byte[] hmac(
            final SecretKeySpec key,
            final String direction,
            final byte[] hub,
            final byte[] rank,
            final int first,
            final int second) {
        try {
            final Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(key);
            mac.update(direction.getBytes(java.nio.charset.StandardCharsets.US_ASCII));
            mac.update(hub);
            mac.update(rank);
            mac.update(ByteBuffer.allocate(8).putInt(first).putInt(second).array());
            return mac.doFinal();
        } catch (final GeneralSecurityException e) {
            throw new IllegalStateException("rendezvous: HmacSHA256: got none, need a JDK with it", e);
        }
    }

    private static int firstMissing(final @Nullable Link[] links) {
        int rank = 1;
        while (links[rank] != null) {
            rank++;
        }
        return rank;
    }

    private static void pause() {
        try {
            Thread.sleep(20);
        } catch (final InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("rendezvous: interrupted while it waited for rank 0", e);
        }
    }

    @Override
    public int rank() {
        return rank;
    }

    @Override
    public int ranks() {
        return ranks;
    }

    @Override
    public List<byte @Nullable []> allGather(final byte[] mine, final BitSet active, final Duration deadline) {
        final byte[] @Nullable [] parts = new byte[ranks][];
        if (!active.get(rank)) {
            return Arrays.asList(parts);
        }
        if (!active.get(0)) {
            throw new IllegalStateException(
                    "rendezvous: active: got ranks without rank 0, need it: it is in the middle");
        }
        final long end = System.nanoTime() + deadline.toNanos();
        int waitingFor = 0;
        try {
            if (rank == 0) {
                parts[0] = mine;
                for (int r = 1; r < ranks; r++) {
                    if (active.get(r)) {
                        waitingFor = r;
                        final Link link = link(r);
                        link.deadline(end);
                        parts[r] = link.readPart();
                    }
                }
                for (int r = 1; r < ranks; r++) {
                    if (active.get(r)) {
                        waitingFor = r;
                        final Link link = link(r);
                        for (final byte @Nullable [] part : parts) {
                            link.writePart(part);
                        }
                        link.out().flush();
                    }
                }
            } else {
                final Link link = link(0);
                link.writePart(mine);
                link.out().flush();
                for (int r = 0; r < ranks; r++) {
                    // Rank 0 itself waits until the deadline for ranks that are late.
                    link.deadline(end + deadline.toNanos() / 4);
                    parts[r] = link.readPart();
                }
            }
            return Arrays.asList(parts);
        } catch (final IOException e) {
            final PeerTimeoutException lost = InProcessRendezvous.timeout(waitingFor, deadline);
            lost.initCause(e);
            throw lost;
        }
    }

    private Link link(final int peer) throws IOException {
        final Link link = links[peer];
        if (link == null) {
            throw new SocketException("closed");
        }
        return link;
    }

    @Override
    public void close() {
        closeAll(links);
    }

    private static void closeAll(final @Nullable Link[] links) {
        for (int i = 0; i < links.length; i++) {
            final Link link = links[i];
            if (link != null) {
                closeQuietly(link.socket());
                links[i] = null;
            }
        }
    }

    private static void closeQuietly(final Socket socket) {
        try {
            socket.close();
        } catch (final IOException e) {
            // There is nothing left to lose.
        }
    }

    @Override
    public String toString() {
        return "rank " + rank + " of " + ranks + " over TCP";
    }
}
