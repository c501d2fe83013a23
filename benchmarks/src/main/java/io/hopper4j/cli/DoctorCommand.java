package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.DeviceInfo;
import io.hopper4j.KernelException;
import io.hopper4j.LibraryInfo;
import java.io.PrintWriter;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** What the Java side finds: the JVM, the native library, the devices. */
@Command(
        name = "doctor",
        description = "Says what this JVM, the native library and the devices are, and what each lack costs.")
final class DoctorCommand implements Callable<Integer> {
    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @Spec
    private @Nullable CommandSpec spec;

    @Override
    public Integer call() {
        final CommandSpec command = spec;
        if (command == null) {
            throw new IllegalStateException("doctor: got no command line, need to be run by picocli");
        }
        final PrintWriter out = command.commandLine().getOut();
        final Runtime runtime = Runtime.getRuntime();
        line(out, "JVM", System.getProperty("java.vm.name") + " " + System.getProperty("java.runtime.version"));
        line(out, "processors", runtime.availableProcessors() + ", heap up to " + (runtime.maxMemory() >> 20) + " MiB");
        line(
                out,
                "native access",
                DoctorCommand.class.getModule().isNativeAccessEnabled()
                        ? "enabled"
                        : "not enabled: the JVM warns, and later releases refuse; add --enable-native-access=ALL-UNNAMED");
        try {
            final LibraryInfo library = Device.library();
            line(
                    out,
                    "library",
                    "%s, version %s, ABI %d".formatted(library.path(), library.version(), library.abiVersion()));
            line(
                    out,
                    "driver",
                    library.driverCudaVersion() == 0
                            ? "none"
                            : "CUDA %d.%d"
                                    .formatted(
                                            library.driverCudaVersion() / 1000,
                                            library.driverCudaVersion() % 1000 / 10));
            final List<Device> devices = Device.all();
            for (final Device device : devices) {
                line(out, "device " + device.index(), describe(device.info()));
            }
            if (devices.isEmpty()) {
                line(
                        out,
                        "device",
                        "none: " + Device.unavailableReason().orElse("the driver shows none")
                                + ". Kernels do not run here; the reference does");
            }
        } catch (final KernelException e) {
            line(out, "library", String.valueOf(e.getMessage()).replace("\n", System.lineSeparator()));
            line(out, "", "Kernels do not run here; the reference does");
        }
        out.flush();
        return 0;
    }

    private static String describe(final DeviceInfo info) {
        return String.format(
                Locale.ROOT,
                "%s, compute capability %d.%d, %d SMs, %.1f GiB, L2 %d MiB%s",
                info.name(),
                info.computeMajor(),
                info.computeMinor(),
                info.smCount(),
                info.memoryBytes() / (double) (1L << 30),
                info.l2Bytes() >> 20,
                info.isHopper() ? "" : "; not a Hopper GPU: the kernels cannot run on it");
    }

    private static void line(final PrintWriter out, final String name, final String text) {
        out.printf("%-14s %s%n", name, text);
    }
}
