package io.hopper4j.moe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.hopper4j.PeerTimeoutException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.BitSet;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.assertj.core.api.ThrowableAssert;
import org.junit.jupiter.api.Test;

/** Ranks that meet in this process and over TCP. */
final class RendezvousTest {
    private static final Duration SHORT = Duration.ofMillis(300);
    private static final Duration LONG = Duration.ofSeconds(20);
    private static final byte[] SECRET = "0123456789abcdef".getBytes(StandardCharsets.US_ASCII);

    private static InetSocketAddress freeAddress() {
        try (ServerSocket probe = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return new InetSocketAddress(InetAddress.getLoopbackAddress(), probe.getLocalPort());
        } catch (final IOException e) {
            throw new IllegalStateException(e);
        }
    }

    private static BitSet all(final int ranks) {
        final BitSet set = new BitSet();
        set.set(0, ranks);
        return set;
    }

    /** Every rank gives bytes of its own length and number, for a few rounds. */
    private static void exchange(final List<CompletableFuture<Rendezvous>> ends) {
        final int ranks = ends.size();
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final List<CompletableFuture<Void>> done = new ArrayList<>();
            for (final CompletableFuture<Rendezvous> end : ends) {
                done.add(end.thenAcceptAsync(
                        rendezvous -> {
                            for (int round = 0; round < 5; round++) {
                                final byte[] mine = new byte[rendezvous.rank() + round];
                                Arrays.fill(mine, (byte) (rendezvous.rank() + 1));
                                final List<byte[]> got = new ArrayList<>();
                                rendezvous.allGather(mine, all(ranks), LONG).forEach(got::add);
                                for (int rank = 0; rank < ranks; rank++) {
                                    final byte[] expected = new byte[rank + round];
                                    Arrays.fill(expected, (byte) (rank + 1));
                                    assertThat(got.get(rank)).isEqualTo(expected);
                                }
                            }
                        },
                        threads));
            }
            done.forEach(CompletableFuture::join);
        }
    }

    @Test
    void bringsThreadsTogether() {
        final List<CompletableFuture<Rendezvous>> ends = new ArrayList<>();
        Rendezvous.inProcess(9).forEach(end -> ends.add(CompletableFuture.completedFuture(end)));
        exchange(ends);
    }

    @Test
    void bringsProcessesTogether() {
        final InetSocketAddress address = freeAddress();
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final List<CompletableFuture<Rendezvous>> ends = new ArrayList<>();
            for (int rank = 0; rank < 5; rank++) {
                final int number = rank;
                ends.add(
                        CompletableFuture.supplyAsync(() -> Rendezvous.tcp(address, number, 5, SECRET, LONG), threads));
            }
            exchange(ends);
            ends.forEach(end -> end.join().close());
        }
    }

    @Test
    void leavesOutRanksThatTakeNoPart() {
        final List<Rendezvous> ends = Rendezvous.inProcess(3);
        final BitSet two = all(3);
        two.clear(1);
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final CompletableFuture<List<byte[]>> other = CompletableFuture.supplyAsync(
                            () -> ends.get(2).allGather(new byte[] {3}, two, LONG), threads)
                    .thenApply(ArrayList::new);
            assertThat(ends.get(0).allGather(new byte[] {1}, two, LONG))
                    .containsExactly(new byte[] {1}, null, new byte[] {3});
            assertThat(ends.get(1).allGather(new byte[] {2}, two, LONG)).containsOnlyNulls();
            assertThat(other.join()).hasSize(3);
        }
    }

    @Test
    void namesTheRankThatDoesNotCome() {
        final List<Rendezvous> ends = Rendezvous.inProcess(3);
        assertThatThrownBy(() -> ends.get(0).allGather(new byte[0], all(3), SHORT))
                .isInstanceOf(PeerTimeoutException.class)
                .hasMessage("rendezvous: rank: got nothing from rank 1, need its part within 300 ms");
        assertThatThrownBy(() -> Rendezvous.tcp(freeAddress(), 0, 2, SECRET, SHORT))
                .isInstanceOfSatisfying(
                        PeerTimeoutException.class, e -> assertThat(e.rank()).isEqualTo(1));
        assertThatThrownBy(() -> Rendezvous.tcp(freeAddress(), 1, 2, SECRET, SHORT))
                .isInstanceOfSatisfying(
                        PeerTimeoutException.class, e -> assertThat(e.rank()).isEqualTo(0));
    }

    @Test
    void namesARankThatIsGoneInMidRound() {
        final InetSocketAddress address = freeAddress();
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final CompletableFuture<Rendezvous> other =
                    CompletableFuture.supplyAsync(() -> Rendezvous.tcp(address, 1, 2, SECRET, LONG), threads);
            try (Rendezvous hub = Rendezvous.tcp(address, 0, 2, SECRET, LONG)) {
                other.join().close();
                assertThatThrownBy(() -> hub.allGather(new byte[8], all(2), LONG))
                        .isInstanceOfSatisfying(
                                PeerTimeoutException.class,
                                e -> assertThat(e.rank()).isEqualTo(1));
            }
        }
    }

    @Test
    void turnsAwayWhoDoesNotKnowTheSecret() {
        final InetSocketAddress address = freeAddress();
        final byte[] wrong = "fedcba9876543210".getBytes(StandardCharsets.US_ASCII);
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final CompletableFuture<Rendezvous> hub =
                    CompletableFuture.supplyAsync(() -> Rendezvous.tcp(address, 0, 2, SECRET, LONG), threads);
            assertThatThrownBy(() -> Rendezvous.tcp(address, 1, 2, wrong, LONG))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("rendezvous: secret: got")
                    .hasMessageNotContaining("fedcba");
            // The hub still waits for the rank that knows it.
            try (Rendezvous right = Rendezvous.tcp(address, 1, 2, SECRET, LONG)) {
                assertThat(right.rank()).isEqualTo(1);
                hub.join().close();
            }
        }
    }

    /** Neither failures, with all their causes, nor logs at their finest, nor what the ends say of themselves. */
    @Test
    void neverTellsTheSecret() throws IOException {
        final StringWriter told = new StringWriter();
        final PrintWriter out = new PrintWriter(told, true);
        final Handler listener = new Handler() {
            @Override
            public void publish(final LogRecord line) {
                out.println(line.getMessage() + Arrays.toString(line.getParameters()));
            }

            @Override
            public void flush() {}

            @Override
            public void close() {}
        };
        listener.setLevel(Level.ALL);
        final Logger root = Logger.getLogger("");
        final Level before = root.getLevel();
        root.addHandler(listener);
        root.setLevel(Level.ALL);
        final byte[] wrong = "fedcba9876543210".getBytes(StandardCharsets.US_ASCII);
        final InetSocketAddress address = freeAddress();
        try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
                ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            failing(
                    out,
                    () -> Rendezvous.tcp(
                            new InetSocketAddress(taken.getInetAddress(), taken.getLocalPort()), 0, 2, SECRET, LONG));
            failing(out, () -> Rendezvous.tcp(freeAddress(), 0, 2, SECRET, SHORT));
            failing(out, () -> Rendezvous.tcp(freeAddress(), 2, 2, SECRET, SHORT));
            final CompletableFuture<Rendezvous> hub =
                    CompletableFuture.supplyAsync(() -> Rendezvous.tcp(address, 0, 2, SECRET, LONG), threads);
            failing(out, () -> Rendezvous.tcp(address, 1, 2, wrong, LONG));
            failing(out, () -> Rendezvous.tcp(address, 1, 3, SECRET, LONG));
            try (Rendezvous right = Rendezvous.tcp(address, 1, 2, SECRET, LONG)) {
                out.println(right + " " + hub.join());
            }
            try (Rendezvous deserted = hub.join()) {
                failing(out, () -> deserted.allGather(new byte[8], all(2), LONG));
            }
            Logger.getLogger("io.hopper4j").finest("heard");
        } finally {
            root.removeHandler(listener);
            root.setLevel(before);
        }
        assertThat(told.toString()).contains("rendezvous: secret", "heard");
        assertThat(told.toString()).doesNotContain(spellings(SECRET)).doesNotContain(spellings(wrong));
    }

    /** What a rank sends to whoever listens at rank 0's address. */
    @Test
    void neverSendsTheSecret() throws Exception {
        try (ServerSocket impostor = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
                ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final InetSocketAddress address = new InetSocketAddress(impostor.getInetAddress(), impostor.getLocalPort());
            final Future<byte[]> sent = threads.submit(() -> {
                try (Socket rank = impostor.accept()) {
                    rank.getOutputStream().write(new byte[32]);
                    final byte[] first = rank.getInputStream().readNBytes(32 + 4 + 4 + 32);
                    rank.getOutputStream().write(new byte[40]);
                    rank.getOutputStream().flush();
                    final ByteArrayOutputStream all = new ByteArrayOutputStream();
                    all.writeBytes(first);
                    all.writeBytes(rank.getInputStream().readAllBytes());
                    return all.toByteArray();
                }
            });
            assertThatThrownBy(() -> Rendezvous.tcp(address, 1, 2, SECRET, LONG))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("rendezvous: secret: got a rank 0 that does not know it, need the one of this group");
            assertThat(sent.get()).hasSizeGreaterThanOrEqualTo(72);
            assertThat(new String(sent.get(), StandardCharsets.ISO_8859_1)).doesNotContain(spellings(SECRET));
        }
    }

    private static void failing(final PrintWriter out, final ThrowableAssert.ThrowingCallable call) {
        final Throwable failure = catchThrowable(call);
        assertThat(failure).isNotNull();
        failure.printStackTrace(out);
    }

    /** A secret as text, in hexadecimal digits, in base 64 and as numbers. */
    private static List<CharSequence> spellings(final byte... secret) {
        return List.of(
                new String(secret, StandardCharsets.US_ASCII),
                HexFormat.of().formatHex(secret),
                HexFormat.of().withUpperCase().formatHex(secret),
                Base64.getEncoder().withoutPadding().encodeToString(secret),
                Arrays.toString(secret).replaceAll("[\\[\\]]", ""));
    }

    @Test
    void namesAGroupOfAnotherSizeAndATakenRank() {
        final InetSocketAddress address = freeAddress();
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            final CompletableFuture<Rendezvous> hub =
                    CompletableFuture.supplyAsync(() -> Rendezvous.tcp(address, 0, 3, SECRET, LONG), threads);
            assertThatThrownBy(() -> Rendezvous.tcp(address, 1, 4, SECRET, LONG))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("rendezvous: ranks: got 4 at rank 1, need 3 as at rank 0");
            try (Rendezvous one = Rendezvous.tcp(address, 1, 3, SECRET, LONG)) {
                assertThatThrownBy(() -> Rendezvous.tcp(address, 1, 3, SECRET, LONG))
                        .isInstanceOf(IllegalStateException.class)
                        .hasMessage("rendezvous: rank: got 1, which is taken, need a free one");
                Rendezvous.tcp(address, 2, 3, SECRET, LONG).close();
                hub.join().close();
                assertThat(one.ranks()).isEqualTo(3);
            }
        }
    }

    @Test
    void namesATakenPort() throws IOException {
        try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            final InetSocketAddress address =
                    new InetSocketAddress(InetAddress.getLoopbackAddress(), taken.getLocalPort());
            assertThatThrownBy(() -> Rendezvous.tcp(address, 0, 2, SECRET, LONG))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("rendezvous: address: got")
                    .hasMessageContaining("need a free one of this host");
        }
    }

    @Test
    void refusesAShortSecretAndRanksThatDoNotExist() {
        assertThatThrownBy(() -> Rendezvous.tcp(freeAddress(), 0, 2, new byte[15], SHORT))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("rendezvous: secret: got 15 bytes, need at least 16 bytes");
        assertThatThrownBy(() -> Rendezvous.tcp(freeAddress(), 2, 2, SECRET, SHORT))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("rendezvous: rank: got 2, need 0..1");
        assertThatThrownBy(() -> Rendezvous.inProcess(0))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("rendezvous: ranks: got 0, need at least 1");
    }
}
