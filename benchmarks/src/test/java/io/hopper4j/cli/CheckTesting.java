package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Stream;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** What tests of {@code check} have: a folder, seeded tensors, and a look at what the command says. */
abstract class CheckTesting {
    @TempDir
    private Path folder;

    final Arena arena = Arena.ofShared();
    final SplitMix64 random = new SplitMix64(20261125);

    @AfterEach
    final void close() {
        arena.close();
    }

    record Answer(int status, String out, String err) {}

    static Answer run(final List<String> arguments) {
        final StringWriter out = new StringWriter();
        final StringWriter err = new StringWriter();
        final CommandLine command =
                Main.commandLine().setOut(new PrintWriter(out)).setErr(new PrintWriter(err));
        final int status = command.execute(arguments.toArray(String[]::new));
        return new Answer(status, out.toString(), err.toString());
    }

    static Answer check(final String operation, final Files files, final String... more) {
        final List<String> arguments = new ArrayList<>(List.of(
                "check",
                "--op",
                operation,
                "--inputs",
                files.inputs().toString(),
                "--output",
                files.output().toString()));
        arguments.addAll(List.of(more));
        return run(arguments);
    }

    record Files(Path inputs, Path output) {}

    final Files files(final SafeTensorsFile inputs, final SafeTensorsFile output) throws IOException {
        return new Files(
                inputs.write(folder.resolve("in.safetensors")), output.write(folder.resolve("theirs.safetensors")));
    }

    /** Twice the element, or another value where it is 0. */
    static void plant(final HostTensor tensor, final long... index) {
        final float value = tensor.getFloat(index);
        tensor.setFloat(value == 0 || !Float.isFinite(value) ? 1 : 2 * value, index);
    }

    final void assertJudged(
            final String operation,
            final SafeTensorsFile inputs,
            final SafeTensorsFile output,
            final HostTensor planted,
            final String name,
            final long... index)
            throws IOException {
        final Answer right = check(operation, files(inputs, output));
        assertThat(right.err()).isEmpty();
        assertThat(right.out()).endsWith("verdict: within the bounds" + System.lineSeparator());
        assertThat(right.status()).isZero();
        plant(planted, index);
        final Answer wrong = check(operation, files(inputs, output));
        assertThat(wrong.status()).isEqualTo(1);
        assertThat(wrong.out())
                .contains(name + ": ")
                .contains("at " + java.util.Arrays.toString(index).replace(" ", "") + ": got")
                .endsWith("verdict: NOT within the bounds" + System.lineSeparator());
    }

    final HostTensor ints(final long... values) {
        final HostTensor tensor = HostTensor.allocate(arena, DType.I32, values.length);
        for (int i = 0; i < values.length; i++) {
            tensor.setFloat((float) values[i], i);
        }
        return tensor;
    }

    final HostTensor normal(final DType type, final long rows, final long cols) {
        final HostTensor tensor = HostTensor.allocate(arena, type, rows, cols);
        HostData.fillWithNormal(tensor, random);
        return tensor;
    }

    static <P extends Plan> void run(final Function<Kernels<HostTensor>, P> plan, final Function<P, Launch> bind) {
        try (Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream();
                P planned = plan.apply(kernels);
                Launch launch = bind.apply(planned)) {
            launch.launch(stream);
        }
    }
}
