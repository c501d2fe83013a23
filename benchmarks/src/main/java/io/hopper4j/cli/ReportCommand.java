package io.hopper4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** Shows result files: as one page, or as the README's table. */
@Command(
        name = "report",
        description = {
            "Makes one page, or the README's table, from result files of bench.",
            "",
            "For development machines: figures are drawn with java.desktop, which a bundle's runtime leaves out.",
            ""
        },
        exitCodeListHeading = "%nExit code:%n",
        exitCodeList = {"0:done", "1:a file cannot be read or written, or is no valid result", "2:wrong use"})
final class ReportCommand implements Callable<Integer> {
    private static final String PAGE = "index.html";

    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @Spec
    private @Nullable CommandSpec spec;

    @Parameters(arity = "1..*", paramLabel = "RESULT.json", description = "result files, in the order to show them")
    private List<Path> files = new ArrayList<>();

    @Option(
            names = "--out",
            paramLabel = "DIR",
            description = "write " + PAGE + " to this folder, made if it is not there")
    private @Nullable Path folder;

    @Option(
            names = "--readme",
            paramLabel = "FILE",
            description =
                    "replace what is between the markers '" + ReadmeTable.BEGIN + "' and '" + ReadmeTable.END + "'")
    private @Nullable Path readme;

    @Override
    public Integer call() throws IOException {
        final CommandSpec command = spec;
        if (command == null) {
            throw new IllegalStateException("report: got no command line, need to be run by picocli");
        }
        if (folder == null && readme == null) {
            throw new ParameterException(command.commandLine(), "report: got neither --out nor --readme, need one");
        }
        final List<BenchResult> results = new ArrayList<>();
        for (final Path file : files) {
            results.add(BenchResult.read(file));
        }
        final PrintWriter out = command.commandLine().getOut();
        if (readme != null) {
            Json.writeText(readme, ReadmeTable.replace(readme, Files.readString(readme), results));
            out.println("report: wrote the table in " + readme);
        }
        if (folder != null) {
            final String page = HtmlReport.of(results);
            Files.createDirectories(folder);
            Json.writeText(folder.resolve(PAGE), page);
            out.println("report: wrote " + folder.resolve(PAGE));
        }
        out.flush();
        return 0;
    }
}
