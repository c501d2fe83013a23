package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.Tensor;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.Rendezvous;
import java.io.BufferedReader;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.function.IntFunction;

/** The contract of expert groups with a JVM for each rank: all of them go through the same tests, each with its own rank's part. */
final class ExpertGroupProcess<T extends Tensor> extends ManyRanksContractTest<T> {
    /** For whoever is late; nobody waits as long where nothing is wrong. */
    private static final Duration PATIENCE = Duration.ofMinutes(2);

    private static final byte[] SECRET = "several JVMs, one secret".getBytes(StandardCharsets.US_ASCII);

    private final Kind kind;
    private final IntFunction<Backend<T>> backends;
    private final int own;
    private final int ranks;
    /** Where all JVMs meet before each group. */
    private final Rendezvous all;

    private ExpertGroupProcess(
            final Kind kind,
            final IntFunction<Backend<T>> backends,
            final int own,
            final int ranks,
            final Rendezvous all) {
        super(ranks);
        this.kind = kind;
        this.backends = backends;
        this.own = own;
        this.ranks = ranks;
        this.all = all;
    }

    /** Kernels by name, as a JVM's argument has them. */
    enum Kind {
        REFERENCE,
        CUDA;

        private ExpertGroupProcess<?> open(final int own, final int ranks, final Rendezvous all) {
            return switch (this) {
                case REFERENCE -> new ExpertGroupProcess<>(this, _ -> new ReferenceBackend(), own, ranks, all);
                case CUDA -> new ExpertGroupProcess<>(this, CudaBackend::new, own, ranks, all);
            };
        }
    }

    /** Runs everything with as many JVMs, and fails where one of them does. */
    static void runAll(final Kind kind, final int ranks) throws Exception {
        final int port = freePorts(1)[0];
        final List<String> names;
        try (Rendezvous nobody = Rendezvous.inProcess(1).getFirst()) {
            names = List.copyOf(kind.open(0, ranks, nobody).tests().keySet());
        }
        final List<Process> processes = new ArrayList<>();
        try {
            for (int rank = 0; rank < ranks; rank++) {
                processes.add(OtherJvm.start(
                        Program.class,
                        kind.name(),
                        Integer.toString(rank),
                        Integer.toString(ranks),
                        Integer.toString(port)));
            }
            for (int rank = 0; rank < ranks; rank++) {
                final Process process = processes.get(rank);
                assertThat(process.waitFor(10, TimeUnit.MINUTES))
                        .as("rank %d has ended", rank)
                        .isTrue();
                try (BufferedReader lines = process.inputReader(StandardCharsets.UTF_8)) {
                    assertThat(lines.lines()).as("done by rank %d", rank).containsExactlyElementsOf(names);
                }
                assertThat(process.exitValue()).as("exit code of rank %d", rank).isZero();
            }
        } finally {
            processes.forEach(Process::destroyForcibly);
        }
    }

    /** A rank's JVM: prints the name of each test that it has gone through. */
    static final class Program {
        private Program() {}

        public static void main(final String[] args) {
            final int own = Integer.parseInt(args[1]);
            final int ranks = Integer.parseInt(args[2]);
            try (Rendezvous all = meet(Integer.parseInt(args[3]), own, ranks)) {
                Kind.valueOf(args[0]).open(own, ranks, all).tests().forEach((name, test) -> {
                    test.run();
                    System.out.println(name);
                });
            }
        }
    }

    private Map<String, Runnable> tests() {
        final Map<String, Runnable> tests = new LinkedHashMap<>();
        tests.put("rows of a rank", () -> sendsEachTokenOnceToEachRankAndBack(ranks));
        tests.put("rows by expert", () -> placesRowsByExpertAndSumsThem(ranks));
        tests.put("rows of a few tokens", () -> placesAFewTokensByExpertAndSumsThem(ranks));
        for (final MoeLayout layout : MoeLayout.values()) {
            tests.put("BF16, " + layout, () -> sendsBf16RowsAsTheyAre(layout));
            tests.put("cast, " + layout, () -> castsRowsToFp8(layout));
            tests.put("halves, " + layout, () -> doesHalvesOneAfterTheOther(layout));
        }
        tests.put("halves of a few tokens", this::doesHalvesOfAFewTokens);
        tests.put("FP8 rows of a few tokens", this::sendsFp8RowsOfAFewTokensAsTheyAre);
        tests.put("routing kept", this::keepsTheRoutingOfAHandle);
        if (ranks > 2) {
            tests.put("masked ranks", this::leavesMaskedRanksOut);
        }
        tests.put("bad expert numbers", this::tellsOfExpertNumbersThatDoNotExist);
        if (kind == Kind.CUDA) { // by TCP, where ranks of the reference meet, they hear of rank 0 alone
            tests.put("a rank that does not come", this::tellsOfARankThatDoesNotCome);
        }
        return tests;
    }

    @Override
    Backend<T> open(final int rank) {
        return backends.apply(own);
    }

    @Override
    boolean isHere(final int rank) {
        return rank == own;
    }

    /** Runs this JVM's part; those that have none in a smaller group only count it. */
    @Override
    void run(final ExpertGroupSpec spec, final Body<T> body) {
        if (spec.ranks() == 1) {
            super.run(spec, body);
            return;
        }
        final int[] ports = agreedPorts();
        if (own >= spec.ranks()) {
            return;
        }
        try (Rendezvous end = meet(ports[0], own, spec.ranks());
                Rendezvous meeting = meet(ports[1], own, spec.ranks());
                Backend<T> backend = open(own);
                ExpertGroup<T> group = backend.kernels().openGroup(spec, end)) {
            final Rank<T> rank = new Rank<>(
                    own, backend, group, () -> meeting.allGather(new byte[0], everyone(spec.ranks()), PATIENCE));
            body.run(rank);
            rank.meet();
        } catch (final Exception e) {
            throw new AssertionError("rank " + own + " has failed: " + e.getMessage(), e);
        }
    }

    /** Two ports for the next group, found by rank 0. */
    private int[] agreedPorts() {
        final int[] found = own == 0 ? freePorts(2) : new int[2];
        final byte[] mine = (found[0] + " " + found[1]).getBytes(StandardCharsets.US_ASCII);
        final byte[] of = Objects.requireNonNull(
                all.allGather(mine, everyone(ranks), PATIENCE).getFirst());
        return Arrays.stream(new String(of, StandardCharsets.US_ASCII).split(" ", -1))
                .mapToInt(Integer::parseInt)
                .toArray();
    }

    private static BitSet everyone(final int ranks) {
        final BitSet everyone = new BitSet();
        everyone.set(0, ranks);
        return everyone;
    }

    private static Rendezvous meet(final int port, final int rank, final int ranks) {
        return Rendezvous.tcp(
                new InetSocketAddress(InetAddress.getLoopbackAddress(), port), rank, ranks, SECRET, PATIENCE);
    }

    /** {@return different ports that nobody listens at} */
    private static int[] freePorts(final int count) {
        final List<ServerSocket> probes = new ArrayList<>();
        try {
            for (int i = 0; i < count; i++) {
                probes.add(new ServerSocket(0, 1, InetAddress.getLoopbackAddress()));
            }
            final int[] ports =
                    probes.stream().mapToInt(ServerSocket::getLocalPort).toArray();
            for (final ServerSocket probe : probes) {
                probe.close();
            }
            return ports;
        } catch (final IOException e) {
            throw new AssertionError("no free port", e);
        }
    }
}
