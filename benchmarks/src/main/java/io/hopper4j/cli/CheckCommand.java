package io.hopper4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Judges outputs that someone else computed. */
@Command(
        name = "check",
        description = {
            "Judges outputs that someone else's kernel computed, against the plain Java reference. Needs no GPU.",
            "--describe OP says which tensors the files must have; --describe all lists the operations."
        },
        exitCodeListHeading = "%nExit code:%n",
        exitCodeList = {"0:within the bounds", "1:not within the bounds", "2:wrong use, or a file that does not fit"})
final class CheckCommand implements Callable<Integer> {
    private static final int WRONG_USE = 2;

    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @Spec
    private @Nullable CommandSpec spec;

    @Option(names = "--op", paramLabel = "OP", description = "the operation, such as fp8_gemm_nt")
    private @Nullable String operation;

    @Option(names = "--inputs", paramLabel = "FILE", description = "safetensors with what the kernel was given")
    private @Nullable Path inputs;

    @Option(names = "--output", paramLabel = "FILE", description = "safetensors with what the kernel computed")
    private @Nullable Path output;

    @Option(
            names = "--set",
            paramLabel = "NAME=VALUE",
            description = "a scalar of the operation; without it the metadata of the input file counts")
    private Map<String, String> attributes = new HashMap<>();

    @Option(
            names = "--budget",
            paramLabel = "N",
            description = "multiply-adds that the reference may spend, 4e9 if not given; beyond, a sample is compared")
    private double budget = 4e9;

    @Option(
            names = "--describe",
            paramLabel = "OP",
            description = "say what the files of an operation must have, and end")
    private @Nullable String described;

    @Override
    public Integer call() throws IOException {
        final CommandSpec command = spec;
        if (command == null) {
            throw new IllegalStateException("check: got no command line, need to be run by picocli");
        }
        final PrintWriter out = command.commandLine().getOut();
        final PrintWriter err = command.commandLine().getErr();
        final String name = described != null ? described : operation;
        if ("all".equals(described)) {
            CheckOperations.all().forEach(each -> out.println(String.join(", ", each.names()) + ": " + each.meaning()));
            return 0;
        }
        final Optional<CheckOperation> found = name == null ? Optional.empty() : CheckOperations.find(name);
        if (found.isEmpty()) {
            err.println("check: --op: got " + name + ", need one of "
                    + CheckOperations.all().stream()
                            .flatMap(each -> each.names().stream())
                            .collect(Collectors.joining(", ")));
            return WRONG_USE;
        }
        if (described != null) {
            describe(found.get(), out);
            return 0;
        }
        if (inputs == null || output == null) {
            err.println("check: need --inputs and --output; --describe " + name + " says what they must have");
            return WRONG_USE;
        }
        return judge(found.get(), inputs, output, out, err);
    }

    private static void describe(final CheckOperation operation, final PrintWriter out) {
        out.println(String.join(", ", operation.names()) + ": " + operation.meaning());
        out.println("--inputs FILE has, as tensors (scalars in the file's metadata or by --set NAME=VALUE):");
        operation.inputs().forEach(line -> out.println("  " + line));
        out.println("--output FILE has:");
        operation.outputs().forEach(line -> out.println("  " + line));
    }

    private int judge(
            final CheckOperation judge,
            final Path given,
            final Path computed,
            final PrintWriter out,
            final PrintWriter err)
            throws IOException {
        try (CheckTensors in = CheckTensors.open(given, attributes);
                CheckTensors theirs = CheckTensors.open(computed, Map.of())) {
            final CheckOperation.Judgement judgement = judge.judge(in, theirs, (long) budget);
            judgement.measures().forEach(out::println);
            for (final Row.Measure measure : judgement.whole()) {
                out.println("%s: %.3g, bound %.3g".formatted(measure.name(), measure.value(), measure.bound()));
            }
            out.println("verdict: " + (judgement.isWithin() ? "within the bounds" : "NOT within the bounds"));
            return judgement.isWithin() ? 0 : 1;
        } catch (final IOException e) {
            err.println("check: " + Main.message(e));
            return WRONG_USE;
        } catch (final CheckTensors.Misfit | IllegalArgumentException e) {
            err.println("check: " + e.getMessage());
            return WRONG_USE;
        }
    }
}
