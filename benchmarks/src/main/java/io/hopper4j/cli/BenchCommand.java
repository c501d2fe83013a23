package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.DeviceInfo;
import io.hopper4j.KernelException;
import io.hopper4j.Kernels;
import io.hopper4j.LibraryInfo;
import io.hopper4j.Support;
import io.hopper4j.cli.BenchOperation.CaseList;
import io.hopper4j.gemm.GemmSpec;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** Times kernels beside their floors and their peers. */
@Command(
        name = "bench",
        description = {
            "Times operations on the GPU, with their floors and peers in the same run, and writes a result file a family.",
            "",
            "Every time is the median of many launches, each with a cold L2. 'us' is taken after a flush that writes and then reads, "
                    + "'us peer' after one that only writes, as published harnesses do. Peers (cuBLASLt) and timers (CUPTI) are used where "
                    + "they are installed; the environment variable HOPPER4J_PEER_PATH names folders to look in, such as a Python's site-packages.",
            ""
        },
        exitCodeListHeading = "%nExit code:%n",
        exitCodeList = {"0:all rows are correct", "1:a row is wrong, or something failed", "2:wrong use, or no GPU"})
final class BenchCommand implements Callable<Integer> {
    private static final int FULL_REPETITIONS = 50;
    private static final int QUICK_REPETITIONS = 20;

    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @Spec
    private @Nullable CommandSpec spec;

    @Parameters(paramLabel = "FAMILY", description = "gemm, quant; all of them if left out")
    private List<String> families = new ArrayList<>();

    @Option(
            names = "--shapes",
            paramLabel = "LIST|FILE",
            description =
                    "deepseek-v3 (the layers of the model), peers (the public lists), or a file with a case a line, such as "
                            + "'fp8_gemm_nt m=64 n=2112 k=7168'; both lists if left out")
    private @Nullable String shapes;

    @Option(
            names = "--gpus",
            paramLabel = "N",
            defaultValue = "1",
            description =
                    "GPUs to use; 2 or more measure what goes between them too, and ranks have one each where there are as many")
    private int gpus;

    @Option(
            names = "--quick",
            description = "about 2 minutes: the public lists alone where a family has one, fewer repetitions")
    private boolean quick;

    @Option(
            names = "--out",
            paramLabel = "FILE",
            description =
                    "where the result goes: a .json file, or a folder; benchmarks/results if that is there, else this folder")
    private @Nullable Path outFile;

    @Option(names = "--compare", paramLabel = "OLD.json", description = "then print ratios to an older result")
    private @Nullable Path compare;

    @Option(names = "--csv", description = "print rows as CSV")
    private boolean csv;

    @Option(
            names = "--timer",
            paramLabel = "TIMER",
            defaultValue = "auto",
            description =
                    "cupti, graph, events; auto takes CUPTI where it is there, else events, or graphs below 20 us")
    private String timer = "auto";

    @Option(names = "--seed", paramLabel = "N", description = "seed of all operands; a new one each time if left out")
    private @Nullable Long seed;

    @Option(
            names = "--explain",
            arity = "3",
            hideParamSyntax = true,
            paramLabel = " M N K",
            description = "only say which instance of the product runs for a shape, and why")
    private long @Nullable [] explain;

    @Option(
            names = "--device",
            paramLabel = "NAME",
            description =
                    "for --explain: a described device, H100-SXM, H800-SXM, H200-SXM, H100-PCIe or H20; the present one, or H100-SXM, if "
                            + "left out")
    private @Nullable String device;

    @Override
    public Integer call() throws IOException {
        final PrintWriter out = command().commandLine().getOut();
        if (explain != null) {
            return explain(explain, out);
        }
        if (device != null) {
            throw misuse("--device: only --explain takes a described device");
        }
        final BenchPlan plan = plan();
        final Optional<BenchResult> older = compare == null ? Optional.empty() : Optional.of(BenchResult.read(compare));
        final Map<String, Path> files = files(plan.cases().keySet());
        final Optional<String> missing = noGpu();
        if (missing.isPresent()) {
            command().commandLine().getErr().println(missing.get());
            return 2;
        }
        return measure(plan, files, older, hopperDevices(), out);
    }

    private CommandSpec command() {
        if (spec == null) {
            throw new IllegalStateException("bench: got no command line, need to be run by picocli");
        }
        return spec;
    }

    private ParameterException misuse(final String message) {
        return new ParameterException(command().commandLine(), "bench: " + message);
    }

    // ---- what to run ----

    /** The cases of each family, in order. */
    private record BenchPlan(Map<String, List<BenchOperations.Case>> cases, Optional<KernelTimer.Method> timer) {}

    private BenchPlan plan() throws IOException {
        final Set<String> known = BenchOperations.families();
        for (final String family : families) {
            if (!known.contains(family)) {
                throw misuse("family: got " + family + ", need one of " + known);
            }
        }
        final Set<String> wanted = families.isEmpty() ? known : new LinkedHashSet<>(families);
        final Map<String, List<BenchOperations.Case>> cases = new LinkedHashMap<>();
        for (final String family : wanted) {
            cases.put(family, new ArrayList<>());
        }
        final Optional<CaseList> list = Arrays.stream(CaseList.values())
                .filter(l -> l.toString().equals(shapes))
                .findFirst();
        if (shapes == null || list.isPresent()) {
            cases.replaceAll((family, _) -> listed(family, list));
        } else {
            final Path file = Path.of(shapes);
            if (!Files.exists(file)) {
                throw misuse("--shapes: got " + shapes + ", need " + CaseList.DEEPSEEK_V3 + ", " + CaseList.PEERS
                        + " or a file that exists");
            }
            for (final BenchOperations.Case one : BenchOperations.read(file)) {
                final List<BenchOperations.Case> of = cases.get(one.operation().family());
                if (of != null) {
                    of.add(one);
                }
            }
        }
        final PrintWriter err = command().commandLine().getErr();
        cases.values().removeIf(List::isEmpty);
        for (final String family : wanted) {
            if (!cases.containsKey(family)) {
                err.println("bench: " + family + ": skipped: no case in " + shapes);
            }
        }
        if (cases.isEmpty()) {
            throw misuse("--shapes: got " + shapes + ", which has no case of " + wanted);
        }
        return new BenchPlan(cases, timerMethod());
    }

    private List<BenchOperations.Case> listed(final String family, final Optional<CaseList> list) {
        if (list.isPresent()) {
            return listed(family, List.of(list.get()));
        }
        final List<BenchOperations.Case> published = listed(family, List.of(CaseList.PEERS));
        return quick && !published.isEmpty() ? published : listed(family, Arrays.asList(CaseList.values()));
    }

    private List<BenchOperations.Case> listed(final String family, final List<CaseList> lists) {
        return BenchOperations.cases(family, lists).stream()
                .filter(one -> one.operation().isFor(one.shape(), gpus))
                .toList();
    }

    private Optional<KernelTimer.Method> timerMethod() {
        if (timer.equals("auto")) {
            return Optional.empty();
        }
        return Optional.of(Arrays.stream(KernelTimer.Method.values())
                .filter(method -> method.toString().equals(timer))
                .findFirst()
                .orElseThrow(() -> misuse("--timer: got " + timer + ", need auto, cupti, graph or events")));
    }

    /** The file of each family; whatever is wrong with them is found before anything is timed. */
    private Map<String, Path> files(final Set<String> of) {
        final Path results = Path.of("benchmarks", "results");
        final Path chosen = outFile == null ? Files.isDirectory(results) ? results : Path.of(".") : outFile;
        final Map<String, Path> files = new LinkedHashMap<>();
        if (Files.isDirectory(chosen)) {
            of.forEach(family -> files.put(family, chosen));
        } else if (of.size() > 1) {
            throw misuse(
                    "--out: got " + chosen + " for the families " + of + ", need a folder that exists, or one family");
        } else if (!Files.isDirectory(folder(chosen))) {
            throw misuse("--out: got " + chosen + ", need a file in a folder that exists");
        } else if (!chosen.toString().endsWith(".json")) {
            throw misuse("--out: got " + chosen + ", need a name that ends in .json, or a folder that exists");
        } else {
            of.forEach(family -> files.put(family, chosen));
        }
        for (final Path file : files.values()) {
            if (!Files.isWritable(Files.isDirectory(file) ? file : folder(file))) {
                throw misuse("--out: got " + file + ", need a folder that can be written");
            }
        }
        return files;
    }

    private static Path folder(final Path file) {
        return file.resolveSibling(".").toAbsolutePath();
    }

    private static List<Device> hopperDevices() {
        return Device.all().stream().filter(d -> d.info().isHopper()).toList();
    }

    /** {@return why no GPU can be used, and what runs all the same; empty if there are enough} */
    private Optional<String> noGpu() {
        String reason;
        try {
            final int count = hopperDevices().size();
            if (count > 0 && (gpus < 1 || gpus > count)) {
                throw misuse("--gpus: got " + gpus + ", need 1 to " + count);
            }
            if (count > 0) {
                return Optional.empty();
            }
            reason = Device.all().isEmpty()
                    ? Device.unavailableReason().orElse("the driver shows none")
                    : "no Hopper GPU among "
                            + Device.all().stream().map(d -> d.info().name()).toList();
        } catch (final KernelException e) {
            reason = String.valueOf(e.getMessage());
        }
        return Optional.of(
                "bench: no GPU: " + reason + System.lineSeparator()
                        + "Without one these run: bench --explain M N K, jmh (what needs no GPU), verify (the reference), report");
    }

    // ---- the run ----

    private int measure(
            final BenchPlan plan,
            final Map<String, Path> files,
            final Optional<BenchResult> older,
            final List<Device> devices,
            final PrintWriter out)
            throws IOException {
        final PrintWriter err = command().commandLine().getErr();
        final LibraryInfo info = Device.library();
        final NativeBench library = NativeBench.beside(info.path());
        final long chosenSeed = seed == null ? System.nanoTime() & 0xFFFF_FFFFL : seed;
        final int repetitions = quick ? QUICK_REPETITIONS : FULL_REPETITIONS;
        boolean correct = true;
        try (BenchGpu gpu = new BenchGpu(library, devices.getFirst(), devices.subList(0, gpus))) {
            final KernelTimer kernelTimer = new KernelTimer(gpu, repetitions, plan.timer());
            gpu.session()
                    .traceProblem()
                    .ifPresent(
                            why -> err.println("bench: kernel times by events and graphs, since there is no " + why));
            final String name = gpu.device().info().name();
            err.println("bench: " + name + ": yardsticks");
            err.flush();
            final int peer = gpus > 1 ? devices.get(1).index() : -1;
            final Yardsticks yardsticks = Yardsticks.measure(gpu, kernelTimer, peer, chosenSeed);
            err.println("bench: " + yardsticks);
            yardsticks.skipped().forEach(s -> err.println("bench: skipped: " + s.get("name") + ": " + s.get("why")));
            for (final Map.Entry<String, List<BenchOperations.Case>> family :
                    plan.cases().entrySet()) {
                final Path file = file(files.get(family.getKey()), name, family.getKey());
                final BenchRunner runner = new BenchRunner(
                        gpu,
                        kernelTimer,
                        yardsticks,
                        head(family.getKey(), gpu, info, chosenSeed, repetitions),
                        chosenSeed,
                        out,
                        err,
                        csv);
                final Thread farewell = new Thread(() -> {
                    err.println("bench: interrupted; the rows so far, if any, are in " + BenchFile.partial(file));
                    err.flush();
                });
                Runtime.getRuntime().addShutdownHook(farewell);
                correct &= runner.run(family.getValue(), file);
                Runtime.getRuntime().removeShutdownHook(farewell);
                err.println("bench: wrote " + file);
                if (older.isPresent()) {
                    BenchTable.compare(older.get(), BenchResult.read(file)).forEach(out::println);
                }
                out.flush();
            }
        }
        return correct ? 0 : 1;
    }

    private static Path file(final @Nullable Path chosen, final String gpu, final String family) {
        if (chosen == null) {
            throw new IllegalStateException("bench: got no file for " + family + ", need one");
        }
        return Files.isDirectory(chosen)
                ? chosen.resolve(LocalDate.now(ZoneOffset.UTC) + "-" + slug(gpu) + "-" + family + ".json")
                : chosen;
    }

    /** {@return a device's name as file names have it: {@code NVIDIA H100 80GB HBM3} is {@code h100-80gb-hbm3}} */
    static String slug(final String gpu) {
        return gpu.toLowerCase(Locale.ROOT)
                .replaceFirst("^nvidia ", "")
                .replaceAll("[^a-z0-9]+", "-")
                .replaceAll("^-|-$", "");
    }

    private Map<String, @Nullable Object> head(
            final String family,
            final BenchGpu gpu,
            final LibraryInfo library,
            final long chosenSeed,
            final int repetitions) {
        final Map<String, @Nullable Object> head = new LinkedHashMap<>();
        head.put("schema", BenchResult.SCHEMA);
        head.put("family", family);
        head.put("date", LocalDate.now(ZoneOffset.UTC).toString());
        head.put("time", Instant.now().truncatedTo(ChronoUnit.SECONDS).toString());
        head.put("commit", System.getProperty("hopper4j.commit", "unknown"));
        head.put("command", commandText(family));
        head.put("gpu", gpu.device().info().name());
        head.put("gpus", (long) gpus);
        head.put("driver", gpu.session().driverRelease().orElse("unknown"));
        head.put("cuda", library.driverCudaVersion() / 1000 + "." + library.driverCudaVersion() % 1000 / 10);
        head.put("java", System.getProperty("java.version"));
        head.put("library", library.version());
        head.put("cublasLt", gpu.library().cublasLtVersion().orElse(null));
        head.put("seed", chosenSeed);
        head.put("repetitions", (long) repetitions);
        return head;
    }

    /** The command that repeats a family's run; names of files are left out, since they say nothing elsewhere. */
    private String commandText(final String family) {
        final StringBuilder text = new StringBuilder("hopper4j bench ").append(family);
        if (shapes != null) {
            text.append(" --shapes ").append(Path.of(shapes).getFileName());
        }
        if (gpus != 1) {
            text.append(" --gpus ").append(gpus);
        }
        if (quick) {
            text.append(" --quick");
        }
        if (!timer.equals("auto")) {
            text.append(" --timer ").append(timer);
        }
        return text.toString();
    }

    // ---- --explain ----

    private int explain(final long[] shape, final PrintWriter out) {
        final DeviceInfo on = explained();
        final GemmSpec wanted = GemmSpec.of(shape[0], shape[1], shape[2]);
        out.printf(Locale.ROOT, "gemm %dx%dx%d on %s, %d SMs%n", shape[0], shape[1], shape[2], on.name(), on.smCount());
        final int code = switch (Kernels.support(on, wanted)) {
            case Support.Supported supported -> {
                out.println("kernel     " + supported.kernel());
                out.println("workspace  " + supported.workspaceBytes() + " bytes");
                out.println("why        " + supported.explanation());
                yield 0;
            }
            case Support.Unsupported unsupported -> {
                unsupported.reasons().forEach(reason -> out.println("not supported: " + reason));
                yield 1;
            }
        };
        out.flush();
        return code;
    }

    private DeviceInfo explained() {
        if (device != null) {
            try {
                return DeviceInfo.described(device);
            } catch (final IllegalArgumentException e) {
                throw new ParameterException(command().commandLine(), "bench: --device: " + e.getMessage(), e);
            }
        }
        return Device.all().stream()
                .map(Device::info)
                .filter(DeviceInfo::isHopper)
                .findFirst()
                .orElse(DeviceInfo.H100_SXM);
    }
}
