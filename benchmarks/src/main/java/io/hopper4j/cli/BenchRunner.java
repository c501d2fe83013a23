package io.hopper4j.cli;

import io.hopper4j.DeviceException;
import io.hopper4j.KernelException;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.function.ToIntFunction;
import org.jspecify.annotations.Nullable;

/** Times the cases of one family, prints their rows, and writes their file. */
final class BenchRunner {
    private static final Duration BETWEEN_PROGRESS = Duration.ofSeconds(5);

    /** NVML's bits for clocks held below what was asked for, in words. */
    private static final Map<Long, String> THROTTLES = throttles();

    private final BenchGpu gpu;
    private final KernelTimer timer;
    private final Yardsticks yardsticks;
    private final Map<String, @Nullable Object> head;
    private final long seed;
    private final PrintWriter out;
    private final PrintWriter err;
    private final boolean csv;

    /**
     * @param head the fields of the result before its yardsticks
     * @param csv print rows as CSV rather than as a table
     */
    BenchRunner(
            final BenchGpu gpu,
            final KernelTimer timer,
            final Yardsticks yardsticks,
            final Map<String, @Nullable Object> head,
            final long seed,
            final PrintWriter out,
            final PrintWriter err,
            final boolean csv) {
        this.gpu = gpu;
        this.timer = timer;
        this.yardsticks = yardsticks;
        this.head = head;
        this.seed = seed;
        this.out = out;
        this.err = err;
        this.csv = csv;
    }

    /**
     * Runs all cases.
     *
     * @return whether every row was correct
     */
    boolean run(final List<BenchOperations.Case> cases, final Path file) throws IOException {
        final BenchFile result = new BenchFile(file, head, yardsticks.toJson());
        out.println(csv ? BenchTable.csvHeader() : BenchTable.header());
        out.flush();
        boolean correct = true;
        final long start = System.nanoTime();
        long lastProgress = start;
        for (int i = 0; i < cases.size(); i++) {
            final long now = System.nanoTime();
            if (i > 0 && now - lastProgress >= BETWEEN_PROGRESS.toNanos()) {
                lastProgress = now;
                final double seconds = (now - start) / 1e9;
                err.printf(
                        Locale.ROOT,
                        "[%4.0fs] %d of %d rows, about %.0f s left%n",
                        seconds,
                        i,
                        cases.size(),
                        seconds / i * (cases.size() - i));
                err.flush();
            }
            final Optional<String> obstacle =
                    cases.get(i).operation().obstacle(gpu, cases.get(i).shape());
            if (obstacle.isPresent()) {
                err.println("bench: skipped: " + cases.get(i) + ": " + obstacle.get());
                continue;
            }
            try {
                correct &= add(cases.get(i), result);
            } catch (final DeviceException e) {
                if (e.isSticky()) {
                    throw e;
                }
                correct = false;
                err.println("bench: " + cases.get(i) + ": " + e.getMessage());
            } catch (final KernelException | IllegalArgumentException | NativeBench.Failure e) {
                correct = false;
                err.println("bench: " + cases.get(i) + ": " + e.getMessage());
            }
        }
        result.finish();
        return correct;
    }

    private boolean add(final BenchOperations.Case one, final BenchFile result) throws IOException {
        final Map<String, @Nullable Object> row = new LinkedHashMap<>();
        final boolean correct;
        try (BenchOperation.Prepared prepared = one.operation().prepare(gpu, one.shape(), seed)) {
            final List<String> warnings = new ArrayList<>();
            final boolean monitored = startMonitor(warnings);
            final KernelTimer.Timing ours;
            final KernelTimer.Timing theirWay;
            final Optional<NativeBench.Sample> sample;
            try {
                ours = prepared.time(BenchOperation.Method.OURS, timer.repetitions())
                        .orElseGet(() -> timer.time(prepared::run, KernelTimer.Flush.CLEAN));
                theirWay = prepared.time(BenchOperation.Method.PEERS, timer.repetitions())
                        .orElseGet(() -> one.operation().peersUseEvents()
                                ? timer.timeByEvents(prepared::run)
                                : timer.time(prepared::run, KernelTimer.Flush.WRITE_ONLY));
            } finally {
                sample = monitored ? Optional.of(gpu.session().stopMonitor()) : Optional.empty();
            }
            final BenchOperation.Deviation error = prepared.check();
            correct = error.within();
            if (!correct) {
                warnings.add("WRONG RESULT: do not count this row");
            }
            sample.ifPresent(s -> warn(s, warnings));
            final BenchOperation.Work work = one.operation().work(one.shape());
            final double us = ours.microseconds().median();
            final double floor = yardsticks.floorMicroseconds(work);
            row.put("op", one.operation().name());
            row.put("shape", one.shape().sizes());
            row.put("kernel", prepared.kernel());
            row.put("timer", ours.method().toString());
            row.put("us", Rounded.of(us));
            row.put("usP10", Rounded.of(ours.microseconds().p10()));
            row.put("usP90", Rounded.of(ours.microseconds().p90()));
            row.put("usPeerMethod", Rounded.of(theirWay.sum()));
            if (ours.kernels() > 0) {
                row.put("kernels", (long) ours.kernels());
            }
            row.put("smClockMHz", clock(sample, NativeBench.Sample::smClockMHz));
            row.put("smClockMinMHz", clock(sample, NativeBench.Sample::smClockMinMHz));
            row.put("watts", clock(sample, NativeBench.Sample::watts));
            row.put("tflops", work.flops() == 0 ? null : Rounded.of(work.flops() / us / 1e6));
            row.put("gbs", Rounded.of(work.bytes() / us / 1e3));
            final BenchOperation.Traffic traffic = work.traffic();
            if (traffic != null) {
                row.put("logicalGBs", Rounded.of(traffic.logical() / us / 1e3));
                row.put("remoteGBs", Rounded.of(traffic.remote() / us / 1e3));
            }
            row.put("floorUs", Rounded.of(floor));
            row.put("floorShare", Rounded.of(floor / us));
            row.put("error", Double.isFinite(error.value()) ? error.value() : 1.0);
            row.put("errorKind", error.kind());
            row.put("errorBound", error.bound());
            row.put("errorRatio", Rounded.of(error.ratio()));
            addPeers(prepared.peers(), row);
            row.put("warnings", warnings);
        }
        result.add(row);
        final BenchResult.Row printed = new BenchResult.Row(row);
        out.println(csv ? BenchTable.csvLine(printed) : BenchTable.line(printed));
        out.flush();
        return correct;
    }

    private void addPeers(final List<BenchOperation.Peer> peers, final Map<String, @Nullable Object> row) {
        final List<Map<String, @Nullable Object>> ran = new ArrayList<>();
        final List<Map<String, @Nullable Object>> skipped = new ArrayList<>();
        for (final BenchOperation.Peer peer : peers) {
            if (!peer.skipped().isEmpty()) {
                skipped.add(Yardsticks.skip(peer.name(), peer.skipped()));
                continue;
            }
            final Map<String, @Nullable Object> entry = new LinkedHashMap<>();
            entry.put("name", peer.name());
            entry.put(
                    "us",
                    Rounded.of(timer.time(peer.run(), KernelTimer.Flush.CLEAN)
                            .microseconds()
                            .median()));
            entry.put(
                    "usPeerMethod",
                    Rounded.of(
                            timer.time(peer.run(), KernelTimer.Flush.WRITE_ONLY).sum()));
            ran.add(entry);
        }
        row.put("peers", ran);
        row.put("skipped", skipped);
    }

    private boolean startMonitor(final List<String> warnings) {
        try {
            gpu.session().startMonitor();
            return true;
        } catch (final NativeBench.Failure e) {
            warnings.add("clock and power not known: " + e.getMessage());
            return false;
        }
    }

    private static void warn(final NativeBench.Sample sample, final List<String> warnings) {
        THROTTLES.forEach((bit, words) -> {
            if ((sample.throttleReasons() & bit) != 0) {
                warnings.add(words);
            }
        });
        if (sample.otherProcesses() > 0) {
            warnings.add("other processes on the card: " + sample.otherProcesses());
        }
    }

    private static Map<Long, String> throttles() {
        final Map<Long, String> words = new LinkedHashMap<>();
        words.put(0x4L, "clock held down by the power limit");
        words.put(0x8L, "clock held down by the hardware");
        words.put(0x20L, "clock held down by temperature");
        words.put(0x40L, "clock held down by temperature, in hardware");
        words.put(0x80L, "clock held down by the power brake");
        return words;
    }

    private static @Nullable Long clock(
            final Optional<NativeBench.Sample> sample, final ToIntFunction<NativeBench.Sample> of) {
        return sample.filter(s -> s.samples() > 0)
                .map(s -> (long) of.applyAsInt(s))
                .orElse(null);
    }
}
