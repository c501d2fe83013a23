package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.Device;
import io.hopper4j.KernelException;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

final class ExpertRankProcessTest {
    private static final String CASE =
            "moe_dispatch ranks=2 processes=2 tokens=64 hidden=512 topk=4 experts=16 bits=8 sms=8";

    private static int gpus() {
        try {
            return Math.toIntExact(
                    Device.all().stream().filter(d -> d.info().isHopper()).count());
        } catch (final KernelException e) {
            return -1;
        }
    }

    /** A rank that cannot begin says why, and the bench does not wait for it. */
    @Test
    void saysWhyARankCannotBegin() {
        assumeTrue(gpus() >= 0, "there is no native library");
        try (ExpertRankProcess rank = ExpertRankProcess.start(
                BenchOperations.parse(CASE), 1, 1, List.of(), ExpertRankProcess.Meeting.choose())) {
            rank.tell("check");
            assertThatExceptionOfType(NativeBench.Failure.class)
                    .isThrownBy(rank::answer)
                    .withMessageStartingWith("rank 1: failed: ");
        }
    }

    @Test
    void keepsTheSecretToItself() {
        final ExpertRankProcess.Meeting meeting = ExpertRankProcess.Meeting.choose();
        assertThat(meeting.secret()).hasSize(32);
        assertThat(meeting.toString()).doesNotContain(meeting.secret());
    }

    @Test
    @Tag("gpu")
    void timesRanksWithAProcessEach(@TempDir final Path folder) throws IOException {
        assumeTrue(gpus() >= 2, "needs two GPUs");
        final Path shapes = folder.resolve("shapes.txt");
        Files.writeString(
                shapes,
                CASE + "\n" + CASE.replace("moe_dispatch", "moe_combine").replace("bits=8", "bits=16") + "\n");
        final StringWriter err = new StringWriter();
        final CommandLine command =
                Main.commandLine().setErr(new PrintWriter(err)).setOut(new PrintWriter(new StringWriter()));
        assertThat(command.execute(
                        "bench", "--quick", "--gpus", "2", "--shapes", shapes.toString(), "--out", folder.toString()))
                .as("%s", err)
                .isZero();
        try (Stream<Path> files = Files.list(folder)) {
            final Path result = files.filter(f -> f.toString().endsWith(".json"))
                    .findFirst()
                    .orElseThrow();
            assertThat(BenchResult.read(result).rows())
                    .hasSize(2)
                    .allSatisfy(row -> assertThat(row.number("us")).isBetween(1.0, 1000.0));
        }
    }
}
