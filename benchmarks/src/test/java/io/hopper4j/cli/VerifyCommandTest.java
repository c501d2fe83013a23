package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.Device;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** The command as a user runs it on a machine without a GPU. */
final class VerifyCommandTest {
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

    private static void assumeNoGpu() {
        assumeTrue(Device.unavailableReason().isPresent(), "there is a GPU: the case list would run on it");
    }

    /** A file with one F32 matrix of normal numbers, one of zeros as its embedding, and what must be left out. */
    private Path weights(final long n, final long k) throws IOException {
        final String header = """
                {"layer.weight":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,%d]},\
                "embed_tokens.weight":{"dtype":"BF16","shape":[8,%d],"data_offsets":[%d,%d]},\
                "layer.bias":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}""".formatted(
                        n, k, 4 * n * k, k, 4 * n * k, 4 * n * k + 16 * k, 4 * n * k + 16 * k, 4 * n * k + 16 * k + 8);
        final byte[] json = header.getBytes(StandardCharsets.UTF_8);
        final ByteBuffer file = ByteBuffer.allocate((int) (8 + json.length + 4 * n * k + 16 * k + 8))
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json);
        final SplittableRandom random = new SplittableRandom(4);
        for (long i = 0; i < n * k; i++) {
            file.putFloat((float) random.nextGaussian());
        }
        for (long i = 0; i < 8 * k; i++) {
            file.putShort((short) (0x3F80 + random.nextInt(128))); // 1 to 2
        }
        return Files.write(folder.resolve("w.safetensors"), file.array());
    }

    @Test
    void checksTheReferenceAndNamesWhatWasNotRun() throws IOException {
        assumeNoGpu();
        final Path json = folder.resolve("rows.json");
        final List<VerifyCase> cases = VerifyCases.all(7, 1);
        final long products =
                cases.stream().filter(c -> c.operation().equals("gemm")).count();
        assertThat(run("verify", "--seed", "7", "--json", json.toString())).isZero();
        assertThat(out.toString())
                .contains("seed: 7 (--seed 7 repeats this run)")
                .containsPattern("gemm +F32, 36 shapes +reference +differing 0 \\(0\\) +-  ok")
                .containsPattern("gemm +" + products + " cases .*not run: no CUDA device")
                .containsPattern(
                        GoldenChecks.all().size() + " passed, 0 failed, " + cases.size() + " not run, [0-9.]+ s\n$");
        assertThat(Files.readString(json))
                .contains("\"schema\" : 1", "\"seed\" : \"7\"", "\"failed\" : 0", "\"notRun\" : " + cases.size())
                .contains("\"shape\" : \"m=4097 n=8 k=16 BF16\"");
    }

    @Test
    void failsWithoutAGpuWhereOneIsRequired() {
        assumeNoGpu();
        assertThat(run("verify", "--require-gpu")).isEqualTo(1);
        assertThat(err.toString()).contains("verify: --require-gpu: no CUDA device");
    }

    @Test
    void runsWeightsWithTheReference() throws IOException {
        assumeNoGpu();
        assertThat(run("verify", "--seed", "7", "--weights", weights(136, 256).toString()))
                .isZero();
        assertThat(out.toString())
                .containsPattern(
                        "gemm +layer m=8 n=136 k=256 emb +reference +unquantized 1-cos \\S+ \\(0.0010\\) +-  ok")
                .containsPattern("gemm +embed_tokens m=8 n=8 k=256 emb")
                .doesNotContain("bias")
                .contains("2 passed, 0 failed, 2 not run");
    }

    @Test
    void failsForAFileWithoutAWeightToRun() throws IOException {
        assumeNoGpu();
        assertThat(run("verify", "--weights", weights(136, 100).toString())).isEqualTo(1);
        assertThat(out.toString()).contains("FAIL: the file has no F32, F16 or BF16 matrix with K a multiple of 128");
    }

    @Test
    void saysWhatIsWrongWithAFile() throws IOException {
        final Path bad = Files.write(folder.resolve("bad.safetensors"), new byte[] {1, 2});
        assertThat(run("verify", "--weights", bad.toString())).isEqualTo(1);
        assertThat(err.toString()).contains("hopper4j: safetensors: " + bad + ": byte 0: got a file of 2 bytes");
        assertThat(run("verify", "--weights", folder.resolve("none").toString()))
                .isEqualTo(1);
        assertThat(err.toString()).contains("none: no such file");
    }

    @Test
    void refusesWrongUse() {
        assertThat(run()).isEqualTo(2);
        assertThat(run("verify", "--sed", "1")).isEqualTo(2);
        assertThat(run("verify", "--seed", "x")).isEqualTo(2);
        assertThat(run("verify", "--help")).isZero();
        assertThat(out.toString()).contains("--weights=FILE", "--require-gpu");
    }

    @Test
    void doctorDescribesTheMachine() {
        assertThat(run("doctor")).isZero();
        assertThat(out.toString()).contains("JVM", "native access", "library");
    }
}
