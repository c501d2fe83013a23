package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.PeerTimeoutException;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.DispatchLaunch;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchPlan;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.Rendezvous;
import java.io.BufferedReader;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/**
 * An expert group of two JVMs on two GPUs: ranks 0 and 2 are threads of this one, rank 1 is the other. The other is killed in the middle of its dispatches; the
 * ranks that are left are told in time whom they miss, and go on as a smaller group on the same devices.
 */
@Tag("gpu")
final class CudaExpertProcessesTest {
    private static final int TOKENS = 200;
    private static final int HIDDEN = 512;
    private static final int TOP_K = 2;
    private static final int ROUNDS = 200;
    private static final Duration DEADLINE = Duration.ofSeconds(2);
    private static final Duration OPENING = Duration.ofSeconds(60);
    private static final byte[] SECRET = "two processes, one secret".getBytes(StandardCharsets.US_ASCII);

    private static ExpertGroupSpec spec(final int ranks) {
        return ExpertGroupSpec.of(ranks, 4 * ranks, TOP_K, HIDDEN, TOKENS)
                .withRows(DType.BF16)
                .withSmBudget(32)
                .withDeadline(DEADLINE);
    }

    /** Rank 1: makes the same calls as the others until it is killed, and prints the number of each. */
    static final class Program {
        private Program() {}

        public static void main(final String[] args) {
            final InetSocketAddress address =
                    new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0]));
            try (Rendezvous end = Rendezvous.tcp(address, 1, 3, SECRET, OPENING);
                    Member member = new Member(1, 3, end)) {
                for (int call = 0; ; call++) {
                    member.call(call);
                    System.out.println(call);
                }
            }
        }
    }

    /** A rank with one bound dispatch, whose rows say where they come from. */
    private static final class Member implements AutoCloseable {
        private final int rank;
        private final ExpertGroupSpec spec;
        private final CudaBackend backend;
        private final ExpertGroup<DeviceTensor> group;
        private final DispatchPlan<DeviceTensor> plan;
        private final DispatchLaunch<DeviceTensor> launch;
        private final HostTensor rows;
        private final HostTensor ids;
        private final DispatchOperands<DeviceTensor> operands;

        Member(final int rank, final int ranks, final Rendezvous end) {
            this.rank = rank;
            this.spec = spec(ranks);
            // Where there are three, the middle one has a device of its own.
            this.backend = new CudaBackend(Device.all().get(ranks == 3 ? rank % 2 : 0), Kernels::cuda);
            this.group = backend.kernels().openGroup(spec, end);
            final DispatchSpec call = DispatchSpec.of(spec, DType.BF16);
            this.plan = group.plan(call);
            this.rows = HostTensor.allocate(backend.host, TensorSpec.packed(DType.BF16, TOKENS, HIDDEN));
            this.ids = HostTensor.allocate(backend.host, TensorSpec.packed(DType.I32, TOKENS, TOP_K));
            this.operands = DispatchOperands.of(
                            backend.put(rows),
                            null,
                            backend.put(ids),
                            backend.put(HostTensor.allocate(backend.host, TensorSpec.packed(DType.F32, TOKENS, TOP_K))),
                            backend.allocate(TensorSpec.packed(DType.U8, plan.handleBytes())))
                    .withReceived(backend.put(
                            HostTensor.allocate(backend.host, TensorSpec.packed(DType.I32, spec.ranks() + 1))));
            this.launch = plan.bind(operands);
        }

        private static int expert(final int source, final int call, final int token, final int k, final int experts) {
            return (token * (1 + 2 * k) + call * 5 + source * 3 + k) % experts;
        }

        private boolean comesHere(final int source, final int call, final int token) {
            final int per = spec.expertsPerRank();
            return expert(source, call, token, 0, spec.experts()) / per == rank
                    || expert(source, call, token, 1, spec.experts()) / per == rank;
        }

        /** Sends, and looks at every row that must have come. */
        void call(final int number) {
            for (int token = 0; token < TOKENS; token++) {
                for (int k = 0; k < TOP_K; k++) {
                    ids.segment()
                            .setAtIndex(
                                    ValueLayout.JAVA_INT,
                                    (long) token * TOP_K + k,
                                    expert(rank, number, token, k, spec.experts()));
                }
                for (int column = 0; column < HIDDEN; column++) {
                    rows.segment()
                            .setAtIndex(
                                    ValueLayout.JAVA_SHORT,
                                    (long) token * HIDDEN + column,
                                    bits(rank, number, token, column));
                }
            }
            operands.x().copyFrom(rows, backend.stream());
            operands.experts().copyFrom(ids, backend.stream());
            launch.launch(backend.stream(), TOKENS);
            backend.stream().synchronize();
            group.check();
            final HostTensor got = backend.get(group.buffers(0).rows());
            long row = 0;
            for (int source = 0; source < spec.ranks(); source++) {
                for (int token = 0; token < TOKENS; token++) {
                    if (!comesHere(source, number, token)) {
                        continue;
                    }
                    for (int column = 0; column < HIDDEN; column++) {
                        final short found = got.segment().getAtIndex(ValueLayout.JAVA_SHORT, row * HIDDEN + column);
                        if (found != bits(source, number, token, column)) {
                            throw new AssertionError("call " + number + ", row " + row + ", column " + column + ": got "
                                    + found + ", need " + bits(source, number, token, column));
                        }
                    }
                    row++;
                }
            }
            if (row == 0) {
                throw new AssertionError("call " + number + ": nothing came");
            }
        }

        /** Bits that no other call, rank or token has at the column. */
        private static short bits(final int source, final int call, final int token, final int column) {
            return (short) (column * 31 + token * 257 + source * 8191 + call * 13);
        }

        @Override
        public void close() {
            launch.close();
            plan.close();
            group.close();
            backend.close();
        }
    }

    @BeforeEach
    void requireTwoGpus() {
        assumeTrue(Device.all().size() >= 2, "needs two GPUs");
    }

    private static int freePort() throws IOException {
        try (ServerSocket probe = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return probe.getLocalPort();
        }
    }

    /** {@return free memory of the first device when a group has come and gone, and what it needs is loaded} */
    private static long freeAfterAGroupOfOne() {
        try (Member alone = new Member(0, 1, Rendezvous.inProcess(1).getFirst())) {
            alone.call(0);
        }
        Device.all().getFirst().trimMemory(0);
        return Device.all().getFirst().freeBytes();
    }

    /** What a rank saw of the other's death. */
    private record Loss(int calls, int lostRank, Duration sinceKill, String message) {}

    @Test
    void shouldGoOnWithoutAProcessThatWasKilled() throws Exception {
        final int port = freePort();
        final InetSocketAddress address = new InetSocketAddress(InetAddress.getLoopbackAddress(), port);
        final long before = freeAfterAGroupOfOne();
        final Process other = OtherJvm.start(Program.class, Integer.toString(port));
        final CountDownLatch ready = new CountDownLatch(2);
        final AtomicLong killed = new AtomicLong(Long.MAX_VALUE);
        try (ExecutorService threads = Executors.newFixedThreadPool(2);
                BufferedReader lines = other.inputReader(StandardCharsets.UTF_8)) {
            final List<Future<Loss>> running = new ArrayList<>();
            for (final int rank : new int[] {0, 2}) {
                running.add(threads.submit(() -> {
                    try (Rendezvous end = Rendezvous.tcp(address, rank, 3, SECRET, OPENING);
                            Member member = new Member(rank, 3, end)) {
                        return callUntilLost(member, ready, killed);
                    }
                }));
            }
            for (int call = 0; call < ROUNDS; call++) {
                assertThat(lines.readLine()).as("the other process").isEqualTo(Integer.toString(call));
            }
            assertThat(ready.await(60, TimeUnit.SECONDS)).isTrue();
            killed.set(System.nanoTime());
            other.destroyForcibly(); // SIGKILL
            for (final Future<Loss> one : running) {
                final Loss loss = one.get(60, TimeUnit.SECONDS);
                System.out.printf(
                        "expert group of two processes: %d calls right, then told %d ms after the kill: %s%n",
                        loss.calls(), loss.sinceKill().toMillis(), loss.message());
                assertThat(loss.calls()).isGreaterThanOrEqualTo(ROUNDS);
                assertThat(loss.lostRank()).isEqualTo(1);
                assertThat(loss.sinceKill()).isLessThan(DEADLINE.plusSeconds(2));
            }
            assertThat(other.waitFor(10, TimeUnit.SECONDS)).isTrue();
            goOnAsTwo(threads);
        } finally {
            other.destroyForcibly();
        }
        final long after = freeAfterAGroupOfOne();
        System.out.printf("expert group of two processes: device memory free before %d, after %d%n", before, after);
        assertThat(before - after).as("device memory left behind").isLessThan(2L << 20);
    }

    /** Calls until the other process is missing; the group is lost then, and says so at once. */
    private static Loss callUntilLost(final Member member, final CountDownLatch ready, final AtomicLong killed) {
        for (int call = 0; ; call++) {
            if (call == ROUNDS) {
                ready.countDown();
            }
            try {
                member.call(call);
            } catch (final PeerTimeoutException e) {
                final Duration since = Duration.ofNanos(System.nanoTime() - killed.get());
                final int next = call + 1;
                assertThatThrownBy(() -> member.call(next)).isInstanceOf(PeerTimeoutException.class);
                return new Loss(call, e.rank(), since, String.valueOf(e.getMessage()));
            }
        }
    }

    private static void goOnAsTwo(final ExecutorService threads) throws Exception {
        final List<Callable<Integer>> smaller = new ArrayList<>();
        for (final Rendezvous end : Rendezvous.inProcess(2)) {
            smaller.add(() -> {
                try (Member member = new Member(end.rank(), 2, end)) {
                    for (int call = 0; call < ROUNDS; call++) {
                        member.call(call);
                    }
                    return ROUNDS;
                }
            });
        }
        for (final Future<Integer> one : threads.invokeAll(smaller)) {
            assertThat(one.get()).isEqualTo(ROUNDS);
        }
    }
}
