package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.moe.Rendezvous;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/**
 * A rank of {@link ExpertGroupBench} in a JVM of its own. It makes the operands of the case from the same seed as the bench, meets it by TCP, and does what it is
 * told, a line each: {@code run}, {@code time METHOD REPETITIONS} (answered by microseconds), {@code check} (answered by how much differed).
 */
final class ExpertRankProcess implements AutoCloseable {
    private static final Duration OPENING = Duration.ofSeconds(60);
    private static final String FAILED = "failed: ";

    /**
     * Where ranks of different processes meet.
     *
     * @param port of this host
     * @param secret in hexadecimal
     */
    record Meeting(int port, String secret) {
        static Meeting choose() {
            final byte[] secret = new byte[16];
            new SecureRandom().nextBytes(secret);
            try (ServerSocket probe = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
                return new Meeting(probe.getLocalPort(), HexFormat.of().formatHex(secret));
            } catch (final IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        Rendezvous end(final int rank, final int ranks) {
            return Rendezvous.tcp(
                    new InetSocketAddress(InetAddress.getLoopbackAddress(), port),
                    rank,
                    ranks,
                    HexFormat.of().parseHex(secret),
                    OPENING);
        }

        /** Keeps the secret to itself. */
        @Override
        public String toString() {
            return "port " + port;
        }
    }

    private final int rank;
    private final Process process;
    private final PrintWriter orders;
    private final BufferedReader answers;

    private ExpertRankProcess(final int rank, final Process process) {
        this.rank = rank;
        this.process = process;
        this.orders = new PrintWriter(process.outputWriter(StandardCharsets.UTF_8), true);
        this.answers = process.inputReader(StandardCharsets.UTF_8);
    }

    /**
     * Starts a rank's JVM, with the class path and the library of this one.
     *
     * @param one the case
     * @param seed of the operands
     * @param rank the rank
     * @param devices devices that ranks are dealt out to
     */
    static ExpertRankProcess start(
            final BenchOperations.Case one,
            final long seed,
            final int rank,
            final List<Device> devices,
            final Meeting meeting) {
        final List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-Dhopper4j.library=" + Device.library().path(),
                "-cp",
                System.getProperty("java.class.path"),
                ExpertRankProcess.class.getName(),
                one.toString(),
                Long.toString(seed),
                Integer.toString(rank),
                devices.stream().map(d -> Integer.toString(d.index())).collect(Collectors.joining(",")),
                Integer.toString(meeting.port())));
        try {
            final Process process = new ProcessBuilder(command)
                    .redirectError(ProcessBuilder.Redirect.INHERIT)
                    .start();
            final ExpertRankProcess started = new ExpertRankProcess(rank, process);
            started.tell(meeting.secret()); // not in the arguments, which others can read
            return started;
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    void tell(final String order) {
        orders.println(order);
    }

    /** {@return what the rank says to the order before} */
    String answer() {
        try {
            final String line = answers.readLine();
            if (line == null || line.startsWith(FAILED)) {
                throw new NativeBench.Failure("rank " + rank + ": " + (line == null ? "its process has ended" : line));
            }
            return line;
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Throws what the rank said last if its process has ended. */
    void requireAlive() {
        if (!process.isAlive()) {
            answer();
        }
    }

    @Override
    public void close() {
        orders.close(); // ends its loop
        try {
            if (!process.waitFor(10, TimeUnit.SECONDS)) {
                process.destroyForcibly();
            }
            answers.close();
        } catch (final InterruptedException e) {
            process.destroyForcibly();
            Thread.currentThread().interrupt();
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    // ---- The rank's side

    /** The rank's program. */
    public static void main(final String[] args) throws IOException {
        final PrintStream out = System.out;
        final BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try {
            final String secret = Objects.requireNonNullElse(in.readLine(), "");
            final int rank = Integer.parseInt(args[2]);
            final List<Device> all = Device.all();
            final List<Device> devices = Arrays.stream(args[3].split(",", -1))
                    .map(index -> all.get(Integer.parseInt(index)))
                    .toList();
            serve(
                    BenchOperations.parse(args[0]),
                    Long.parseLong(args[1]),
                    rank,
                    devices,
                    new Meeting(Integer.parseInt(args[4]), secret),
                    in,
                    out);
        } catch (final RuntimeException e) {
            out.println(FAILED + e);
            System.exit(1);
        }
    }

    private static void serve(
            final BenchOperations.Case one,
            final long seed,
            final int rank,
            final List<Device> devices,
            final Meeting meeting,
            final BufferedReader in,
            final PrintStream out)
            throws IOException {
        final NativeBench library = NativeBench.beside(Device.library().path());
        try (BenchGpu gpu = new BenchGpu(library, devices.get(rank % devices.size()), devices);
                ExpertGroupBench.Ranks ranks =
                        ((ExpertGroupBench) one.operation()).prepareRank(gpu, one.shape(), seed, rank, meeting)) {
            for (String order = in.readLine(); order != null; order = in.readLine()) {
                final String[] words = order.split(" ", -1);
                switch (words[0]) {
                    case "run" -> ranks.run();
                    case "time" ->
                        out.println(Arrays.stream(ranks.times(
                                        BenchOperation.Method.valueOf(words[1]), Integer.parseInt(words[2])))
                                .mapToObj(us -> String.format(Locale.ROOT, "%.3f", us))
                                .collect(Collectors.joining(" ")));
                    case "check" -> out.println(ranks.differing());
                    default -> throw new IllegalArgumentException("order: got " + order + ", need run, time or check");
                }
            }
        }
    }
}
