package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.Device;
import io.hopper4j.KernelException;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** The bench and report commands as a user runs them, wrongly and rightly. */
final class BenchCommandTest {
    @TempDir
    private Path folder;

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(final String... args) {
        final CommandLine line = Main.commandLine();
        line.setOut(new PrintWriter(out));
        line.setErr(new PrintWriter(err));
        return line.execute(args);
    }

    private static boolean hasGpu() {
        return Files.exists(Path.of("/dev/nvidiactl"));
    }

    @Test
    void wrongUseIsNamed() throws IOException {
        assertThat(run("bench", "physics")).isEqualTo(2);
        assertThat(err.toString()).contains("bench: family: got physics, need one of [gemm, quant, attention, moe]");
        assertThat(run("bench", "--shapes", "none")).isEqualTo(2);
        assertThat(err.toString()).contains("bench: --shapes: got none, need deepseek-v3, peers or a file that exists");
        assertThat(run("bench", "quant", "--shapes", "peers")).isEqualTo(2);
        assertThat(err.toString()).contains("which has no case of [quant]");
        assertThat(run("bench", "--timer", "sundial")).isEqualTo(2);
        assertThat(err.toString()).contains("--timer: got sundial, need auto, cupti, graph or events");
        assertThat(run("bench", "--out", folder.resolve("one.json").toString())).isEqualTo(2);
        assertThat(err.toString())
                .contains("for the families [gemm, quant, attention, moe], need a folder that exists");
        assertThat(run("bench", "gemm", "--out", folder.resolve("no/one.json").toString()))
                .isEqualTo(2);
        assertThat(err.toString()).contains("need a file in a folder that exists");
        assertThat(run("bench", "gemm", "--out", folder.resolve("one.txt").toString()))
                .isEqualTo(2);
        assertThat(err.toString()).contains("need a name that ends in .json");
        assertThat(run("bench", "--device", "H20")).isEqualTo(2);
        assertThat(err.toString()).contains("only --explain takes a described device");
        assertThat(run("report", "x.json")).isEqualTo(2);
        assertThat(err.toString()).contains("report: got neither --out nor --readme");
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files).isEmpty();
        }
    }

    @Test
    void filesThatCannotBeReadEndTheCommand() throws IOException {
        final Path shapes = Files.writeString(folder.resolve("shapes.txt"), "fp8_gemm_nt m=1");
        assertThat(run("bench", "--shapes", shapes.toString())).isEqualTo(1);
        assertThat(err.toString()).contains("shapes.txt: line 1: fp8_gemm_nt: got no n");
        final Path other = Files.writeString(folder.resolve("other.json"), "{\"schema\": 7}");
        assertThat(run("bench", "gemm", "--compare", other.toString())).isEqualTo(1);
        assertThat(err.toString()).contains("other.json: schema: got 7, need 1");
        assertThat(run(
                        "report",
                        folder.resolve("gone.json").toString(),
                        "--out",
                        folder.resolve("page").toString()))
                .isEqualTo(1);
        assertThat(err.toString()).contains("gone.json: no such file");
        assertThat(folder.resolve("page")).doesNotExist();
    }

    @Test
    void withoutAGpuItSaysWhatRuns() {
        assumeTrue(!hasGpu(), "there is a GPU");
        assertThat(run("bench", "gemm", "--out", folder.resolve("r.json").toString()))
                .isEqualTo(2);
        assertThat(err.toString()).contains("bench: no GPU: ", "--explain", "jmh", "verify", "report");
        assertThat(folder.resolve("r.json")).doesNotExist();
    }

    @Test
    void explainsOnADescribedDevice() {
        assumeTrue(hasLibrary(), "there is no native library");
        assertThat(run("bench", "--explain", "64", "2112", "7168", "--device", "H20"))
                .isZero();
        assertThat(out.toString()).contains("gemm 64x2112x7168 on H20, 78 SMs", "kernel     gemm_dense_", "why ");
        assertThat(run("bench", "--explain", "64", "2112", "7167", "--device", "H20"))
                .isEqualTo(1);
        assertThat(out.toString()).contains("k: got 7167, need a multiple of 16");
        assertThat(run("bench", "--explain", "64", "2112", "7168", "--device", "X1"))
                .isEqualTo(2);
        assertThat(err.toString()).contains("got X1, need one of [H100-SXM,");
    }

    private static boolean hasLibrary() {
        try {
            Device.library();
            return true;
        } catch (final KernelException e) {
            return false;
        }
    }

    @Test
    @Tag("build") // a bundle's runtime does not draw
    void reportWritesAPageAndTheReadme() throws IOException {
        final Path result = folder.resolve("r.json");
        BenchResult.write(result, Results.document("abc", Results.row(64, 576, 10)));
        final Path readme =
                Files.writeString(folder.resolve("README.md"), ReadmeTable.BEGIN + "\n" + ReadmeTable.END + "\n");
        final Path page = folder.resolve("made/page");
        assertThat(run("report", result.toString(), "--out", page.toString(), "--readme", readme.toString()))
                .isZero();
        assertThat(page.resolve("index.html")).content().startsWith("<!DOCTYPE html>");
        assertThat(readme).content().contains("| `fp8_gemm_nt` | m=64 n=576 k=512 |");
    }

    @Test
    @Tag("gpu")
    void timesEveryOperationByEveryTimer() throws IOException {
        assumeTrue(hasGpu(), "there is no GPU");
        final Path shapes = Files.writeString(
                folder.resolve("shapes.txt"),
                "fp8_gemm_nt m=64 n=576 k=7168\nquantize_1x128 m=64 k=7168\nquantize_128x128 m=576 k=7168\n");
        for (final String timer : new String[] {"auto", "graph", "events"}) {
            assertThat(run(
                            "bench",
                            "--quick",
                            "--timer",
                            timer,
                            "--shapes",
                            shapes.toString(),
                            "--out",
                            folder.toString()))
                    .as(timer + ": " + err)
                    .isZero();
            try (Stream<Path> files = Files.list(folder)) {
                final Path[] results =
                        files.filter(f -> f.toString().endsWith(".json")).toArray(Path[]::new);
                assertThat(results).hasSize(2);
                for (final Path file : results) {
                    for (final BenchResult.Row row : BenchResult.read(file).rows()) {
                        assertThat(row.number("us")).as(row.key()).isBetween(1.0, 200.0);
                        assertThat(row.number("floorShare")).as(row.key()).isLessThan(1.2);
                    }
                }
            }
        }
    }
}
