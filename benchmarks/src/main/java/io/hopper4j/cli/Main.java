package io.hopper4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.Charset;
import java.nio.file.AccessDeniedException;
import java.nio.file.NoSuchFileException;
import java.util.Arrays;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/** The command line of Hopper4J, which the launcher calls. */
@Command(
        name = "hopper4j",
        description = "Kernels of DeepSeek-V3-class models on Hopper GPUs, for Java.",
        subcommands = {
            VerifyCommand.class,
            CheckCommand.class,
            BenchCommand.class,
            ReportCommand.class,
            DoctorCommand.class
        },
        synopsisSubcommandLabel = "COMMAND")
public final class Main {
    @SuppressWarnings("UnusedVariable") // picocli reads it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    private Main() {}

    /**
     * Runs a command and ends the JVM with its exit code.
     *
     * @param args the command and its arguments
     * @throws IOException if JMH cannot read or write a file
     */
    public static void main(final String[] args) throws IOException {
        if (args.length > 0 && args[0].equals("jmh")) {
            // Its arguments are JMH's, not this program's.
            JmhCommand.run(
                    Arrays.asList(args).subList(1, args.length),
                    new PrintWriter(System.err, true, Charset.defaultCharset()));
            return;
        }
        System.exit(run(args));
    }

    /** {@return the exit code of a command} */
    static int run(final String... args) {
        return commandLine().execute(args);
    }

    /** {@return the command line; a file that cannot be read is a message, not a stack trace} */
    static CommandLine commandLine() {
        return new CommandLine(new Main()).setExecutionExceptionHandler((e, command, _) -> {
            if (e instanceof IOException io) {
                command.getErr().println("hopper4j: " + message(io));
                return 1;
            }
            throw e;
        });
    }

    /** Some exceptions of the file system say only which file. */
    static String message(final IOException e) {
        return switch (e) {
            case NoSuchFileException missing -> missing.getFile() + ": no such file";
            case AccessDeniedException denied -> denied.getFile() + ": access denied";
            default -> String.valueOf(e.getMessage());
        };
    }
}
