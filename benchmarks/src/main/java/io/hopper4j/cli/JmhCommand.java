package io.hopper4j.cli;

import io.hopper4j.Device;
import io.hopper4j.KernelException;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** {@code jmh}: runs the JMH benchmarks with JMH's own arguments; those of classes named {@code Gpu…} only where there is a GPU. */
final class JmhCommand {
    private static final String GPU_BENCHMARKS = "\\.Gpu\\w+\\.";

    private JmhCommand() {}

    /**
     * Runs JMH, which ends the JVM by itself where its arguments are wrong.
     *
     * @param arguments as JMH takes them
     */
    static void run(final List<String> arguments, final PrintWriter err) throws IOException {
        final List<String> all = new ArrayList<>(arguments);
        noGpu().ifPresent(why -> {
            err.println("jmh: benchmarks of classes named Gpu... are left out: no GPU: " + why);
            err.flush();
            all.add("-e");
            all.add(GPU_BENCHMARKS);
        });
        org.openjdk.jmh.Main.main(all.toArray(String[]::new));
    }

    private static Optional<String> noGpu() {
        try {
            final List<Device> devices = Device.all();
            if (devices.stream().anyMatch(device -> device.info().isHopper())) {
                return Optional.empty();
            }
            return Optional.of(
                    devices.isEmpty()
                            ? Device.unavailableReason().orElse("the driver shows none")
                            : "no Hopper GPU among " + devices);
        } catch (final KernelException e) {
            return Optional.of(String.valueOf(e.getMessage()));
        }
    }
}
