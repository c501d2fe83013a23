package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.DeviceException;
import io.hopper4j.DeviceInfo;
import io.hopper4j.KernelException;
import io.hopper4j.LibraryInfo;
import io.hopper4j.safetensors.SafeTensors;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.function.Function;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Checks the kernels on a GPU against the reference, and the reference against the golden files. */
@Command(
        name = "verify",
        description = {
            "Checks every operation on the GPU against the plain Java reference, and the reference against golden files.",
            "With --weights: quantises and multiplies the weights of a model instead. Without a GPU the reference alone is run."
        },
        exitCodeListHeading = "%nExit code:%n",
        exitCodeList = {
            "0:all that was run is within its bounds",
            "1:something failed, or --require-gpu found no GPU",
            "2:wrong use"
        })
final class VerifyCommand implements Callable<Integer> {
    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @Spec
    private @Nullable CommandSpec spec;

    @Option(names = "--weights", paramLabel = "FILE", description = "a safetensors file")
    private @Nullable Path weights;

    @Option(names = "--json", paramLabel = "FILE", description = "write all rows to FILE")
    private @Nullable Path json;

    @Option(
            names = "--seed",
            paramLabel = "N",
            description = "seed of the random cases and of all operands; a new one each time if left out")
    private @Nullable Long seed;

    @Option(names = "--require-gpu", description = "fail where there is no Hopper GPU")
    private boolean requireGpu;

    @Option(
            names = "--gpus",
            paramLabel = "N",
            defaultValue = "1",
            description =
                    "deal ranks of expert groups out to N GPUs (default: ${DEFAULT-VALUE}, which all ranks share)")
    private int gpus;

    private static final Path DEVICE_NODE = Path.of("/dev/nvidia0");

    /** One row to be made, on the GPU or without one. */
    private record Task(String operation, String shape, Supplier<Row> run) {}

    @Override
    public Integer call() throws IOException {
        final CommandSpec command = spec;
        if (command == null) {
            throw new IllegalStateException("verify: got no command line, need to be run by picocli");
        }
        final PrintWriter out = command.commandLine().getOut();
        final PrintWriter err = command.commandLine().getErr();
        final long chosenSeed = seed == null ? System.nanoTime() & 0xFFFF_FFFFL : seed;
        final Search search = Search.forGpu();
        final Map<String, String> about = about(search, chosenSeed);
        about.forEach((name, value) -> out.println(
                name + ": " + value + (name.equals("seed") ? " (--seed " + value + " repeats this run)" : "")));
        final int present = search.device().isPresent() ? Device.all().size() : gpus;
        if (gpus < 1 || gpus > present) {
            throw new ParameterException(
                    command.commandLine(), "verify: --gpus: got " + gpus + ", need 1.." + Math.max(1, present));
        }
        final Report report = new Report(out, err);
        try (Closer gpu = Closer.of(search.device())) {
            if (weights == null) {
                runAll(report, gpu.gpu(), search.reason(), chosenSeed, gpus);
            } else {
                try (SafeTensors file = SafeTensors.open(weights)) {
                    runWeights(report, new WeightsCheck(file, chosenSeed), gpu.gpu(), search.reason());
                }
            }
        }
        report.close();
        if (json != null) {
            report.write(json, about);
        }
        if (requireGpu && search.device().isEmpty()) {
            err.println("verify: --require-gpu: " + search.reason());
            return 1;
        }
        return report.count(Row.Verdict.FAIL) == 0 ? 0 : 1;
    }

    private static void runAll(
            final Report report, final Optional<Gpu> gpu, final String reason, final long seed, final int gpus) {
        final List<Task> tasks = new ArrayList<>();
        for (final GoldenChecks.Check check : GoldenChecks.all()) {
            tasks.add(new Task(check.operation(), "golden", check.row()));
        }
        final List<VerifyCase> cases = VerifyCases.all(seed, gpus);
        gpu.ifPresent(present ->
                cases.forEach(c -> tasks.add(new Task(c.operation(), c.shape(), () -> c.run(present)))));
        run(report, tasks);
        if (gpu.isEmpty()) {
            report.addNotRun(cases.stream()
                    .map(c -> Row.notRun(c.operation(), c.shape(), reason))
                    .toList());
        }
    }

    private static void runWeights(
            final Report report, final WeightsCheck check, final Optional<Gpu> gpu, final String reason) {
        final List<String> names = check.names();
        if (names.isEmpty()) {
            report.add(Row.failed(
                    "gemm", "weights", "the file has no F32, F16 or BF16 matrix with K a multiple of 128 and N of 8"));
            return;
        }
        final Function<String, Row> run = gpu.<Function<String, Row>>map(present -> name -> check.onGpu(present, name))
                .orElse(check::withReference);
        run(
                report,
                names.stream()
                        .map(name -> new Task("gemm", name, () -> run.apply(name)))
                        .toList());
        if (gpu.isEmpty()) {
            report.addNotRun(names.stream()
                    .map(name -> Row.notRun("gemm", name + " on the GPU", reason))
                    .toList());
        }
    }

    /** Runs one task after the other. A failure is a row; after one that loses the device's context nothing else can run. */
    private static void run(final Report report, final List<Task> tasks) {
        report.header();
        for (int i = 0; i < tasks.size(); i++) {
            final Task task = tasks.get(i);
            report.progress(i, tasks.size());
            try {
                report.add(task.run().get());
            } catch (final DeviceException e) {
                report.add(Row.failed(task.operation(), task.shape(), String.valueOf(e.getMessage())));
                if (e.isSticky()) {
                    report.addNotRun(tasks.subList(i + 1, tasks.size()).stream()
                            .map(t -> Row.notRun(t.operation(), t.shape(), "the device's context is lost"))
                            .toList());
                    return;
                }
            } catch (final RuntimeException e) {
                report.add(Row.failed(task.operation(), task.shape(), e.toString()));
            }
        }
    }

    private Map<String, String> about(final Search search, final long chosenSeed) {
        final Map<String, String> about = new LinkedHashMap<>();
        about.put("command", weights == null ? "verify" : "verify --weights " + weights.getFileName());
        about.put("date", Instant.now().truncatedTo(ChronoUnit.SECONDS).toString());
        about.put("java", System.getProperty("java.version"));
        about.put("gpu", search.device().map(device -> device.info().name()).orElse("none: " + search.reason()));
        search.library().ifPresent(library -> {
            about.put("library", library.version());
            about.put("driverCuda", library.driverCudaVersion() / 1000 + "." + library.driverCudaVersion() % 1000 / 10);
        });
        about.put("seed", Long.toString(chosenSeed));
        return about;
    }

    /**
     * What was found when a GPU was looked for.
     *
     * @param device the first Hopper GPU
     * @param library the native library, if it loads
     * @param reason why there is no device; empty if there is one
     */
    private record Search(Optional<Device> device, Optional<LibraryInfo> library, String reason) {
        static Search forGpu() {
            final Optional<LibraryInfo> library;
            final List<Device> devices;
            try {
                devices = Device.all();
                library = Optional.of(Device.library());
            } catch (final KernelException e) {
                // Without the library only the device node tells whether there is a card.
                final String why = Files.exists(DEVICE_NODE) ? e.getMessage() : "no CUDA device";
                return new Search(Optional.empty(), Optional.empty(), String.valueOf(why));
            }
            final Optional<Device> hopper =
                    devices.stream().filter(device -> device.info().isHopper()).findFirst();
            final String reason = hopper.isPresent()
                    ? ""
                    : devices.isEmpty()
                            ? "no CUDA device"
                            : "no Hopper GPU among "
                                    + devices.stream()
                                            .map(Device::info)
                                            .map(DeviceInfo::name)
                                            .toList();
            return new Search(hopper, library, reason);
        }
    }

    /** The opened device, or none. */
    private record Closer(Optional<Gpu> gpu) implements AutoCloseable {
        static Closer of(final Optional<Device> device) {
            return new Closer(device.map(Gpu::new));
        }

        @Override
        public void close() {
            gpu.ifPresent(Gpu::close);
        }
    }
}
