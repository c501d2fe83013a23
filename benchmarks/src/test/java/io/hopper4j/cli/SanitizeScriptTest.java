package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The table of {@code bin/hopper4j sanitize}, with stand-ins for compute-sanitizer and the native tests. */
@Tag("build")
final class SanitizeScriptTest {
    private static final Path SCRIPTS = Path.of("../ci/bundle");

    @TempDir
    private Path home;

    private record Answer(int status, String out) {}

    @BeforeEach
    void install() throws IOException {
        Files.createDirectories(home.resolve("bin"));
        Files.createDirectories(home.resolve("tools"));
        executable("bin/sanitize", Files.readString(SCRIPTS.resolve("sanitize")));
        Files.copy(SCRIPTS.resolve("sanitize.txt"), home.resolve("bin/sanitize.txt"));
        executable("tests", """
                #!/bin/sh
                case "$*" in
                  *--gtest_list_tests*) printf 'GemmGpu.\\n  A\\n  B\\nRingGpu.\\n  C\\nNoDevice.\\n  D\\n' ;;
                  *) echo '[==========] 2 tests from 1 test suite ran. (1 ms total)' ;;
                esac
                """);
    }

    private void executable(final String name, final String text) throws IOException {
        Files.writeString(home.resolve(name), text);
        Files.setPosixFilePermissions(home.resolve(name), PosixFilePermissions.fromString("rwxr-xr-x"));
    }

    /** A sanitizer that finds {@code hazards} in RingGpu with racecheck, and runs what it is given. */
    private void sanitizer(final int hazards) throws IOException {
        executable("tools/compute-sanitizer", """
                #!/bin/sh
                echo "$*" >> %s
                case "$*" in
                  *racecheck*RingGpu*) echo '========= RACECHECK SUMMARY: %d hazards displayed (%d errors, 0 warnings)'; [ %d = 0 ] || exit 99 ;;
                  *) echo '========= ERROR SUMMARY: 0 errors' ;;
                esac
                while [ $# -gt 0 ] && [ "${1#--}" != "$1" ]; do shift; shift; done
                exec "$@"
                """.formatted(home.resolve("called"), hazards, hazards, hazards));
    }

    private Process start(final String... arguments) throws IOException {
        final List<String> command =
                new ArrayList<>(List.of(home.resolve("bin/sanitize").toString()));
        command.addAll(List.of(arguments));
        final ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().put("PATH", home.resolve("tools") + ":/usr/bin:/bin");
        builder.environment().put("HOPPER4J_TESTS", home.resolve("tests").toString());
        return builder.start();
    }

    private Answer run(final String... arguments) throws IOException, InterruptedException {
        return answer(start(arguments));
    }

    private static Answer answer(final Process process) throws IOException, InterruptedException {
        final String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        return new Answer(process.waitFor(), out);
    }

    @Test
    void shouldPrintOneTableOfSuitesAndTools() throws IOException, InterruptedException {
        sanitizer(0);
        final Answer answer = run();
        assertThat(answer.out()
                        .lines()
                        .map(line -> line.replaceAll(", \\d+ s", "")
                                .replaceAll("in \\d+ s", "in some s")
                                .replaceAll(" +", " ")
                                .strip()))
                .containsExactly(
                        "suite memcheck racecheck initcheck synccheck",
                        "GemmGpu ok, 2 tests ok, 2 tests ok, 2 tests ok, 2 tests",
                        "RingGpu ok, 2 tests ok, 2 tests ok, 2 tests ok, 2 tests",
                        "sanitize: 8 cells in some s, 4 at a time",
                        "sanitize: nothing found");
        assertThat(answer.status()).isZero();
        assertThat(Files.readAllLines(home.resolve("called")))
                .hasSize(8)
                .anyMatch(call -> call.contains("--tool racecheck")
                        && call.contains("RingGpu.*:-RingGpu.BringsEveryRowToEveryConsumerOnce:"));
    }

    @Test
    void shouldFailWhereAToolFindsSomething() throws IOException, InterruptedException {
        sanitizer(3);
        final Answer answer = run("--tool", "racecheck", "--tool", "memcheck");
        assertThat(answer.status()).isEqualTo(1);
        assertThat(answer.out())
                .contains("FOUND 3")
                .contains("--- RingGpu.racecheck")
                .contains("sanitize: FOUND something");
    }

    @Test
    void shouldFailWhereASuiteTakesTooLong() throws IOException, InterruptedException {
        sanitizer(0);
        executable("tests", """
                #!/bin/sh
                case "$*" in
                  *--gtest_list_tests*) printf 'GemmGpu.\\n  A\\n' ;;
                  *) exec sleep 20 ;;
                esac
                """);
        final Answer answer = run("--tool", "memcheck", "--limit", "1");
        assertThat(answer.status()).isEqualTo(1);
        assertThat(answer.out()).contains("NOT DONE in 1 s").contains("sanitize: FOUND something, or not done");
    }

    @Test
    void shouldPrintWhatIsDoneWhenTerminated() throws IOException, InterruptedException {
        sanitizer(0);
        executable("tests", """
                #!/bin/sh
                case "$*" in
                  *--gtest_list_tests*) printf 'GemmGpu.\\n  A\\nRingGpu.\\n  C\\n' ;;
                  *RingGpu*) exec sleep 60 ;;
                  *) echo '[==========] 2 tests from 1 test suite ran. (1 ms total)' ;;
                esac
                """);
        final Path logs = home.resolve("logs");
        final Process process = start("--tool", "memcheck", "--logs", logs.toString());
        final Path second = logs.resolve("2.log");
        while (process.isAlive() && !(Files.exists(logs.resolve("1.cell")) && Files.exists(second))) {
            Thread.sleep(20);
        }
        process.toHandle().destroy(); // leaves its streams open
        final Answer answer = answer(process);
        assertThat(answer.status()).isEqualTo(1);
        assertThat(answer.out()).contains("ok, 2 tests").contains("not ended").contains("2 cells in");
        assertThat(second).exists();
    }

    @Test
    void shouldSayWhatIsWrongWithItsArguments() throws IOException, InterruptedException {
        sanitizer(0);
        assertThat(run("--tool", "leakcheck").out()).contains("--tool: got leakcheck, need one of memcheck racecheck");
        assertThat(run("--suites").status()).isEqualTo(2);
        assertThat(run("--jobs", "0").out()).contains("--jobs and --limit: got 0, need a number above 0");
        Files.delete(home.resolve("tools/compute-sanitizer"));
        assertThat(run()).satisfies(answer -> {
            assertThat(answer.status()).isEqualTo(2);
            assertThat(answer.out()).contains("got no compute-sanitizer, need it on the PATH");
        });
    }
}
