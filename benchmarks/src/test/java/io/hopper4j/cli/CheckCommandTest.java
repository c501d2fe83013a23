package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.MlaMerge;
import io.hopper4j.reference.PagedLatentAttention;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import picocli.CommandLine;

/** Right outputs are judged right, a planted fault is found where it was planted. */
final class CheckCommandTest {
    @TempDir
    private Path folder;

    private final Arena arena = Arena.ofShared();
    private final SplitMix64 random = new SplitMix64(20261125);

    @AfterEach
    void close() {
        arena.close();
    }

    private record Answer(int status, String out, String err) {}

    private static Answer run(final List<String> arguments) {
        final StringWriter out = new StringWriter();
        final StringWriter err = new StringWriter();
        final CommandLine command =
                Main.commandLine().setOut(new PrintWriter(out)).setErr(new PrintWriter(err));
        final int status = command.execute(arguments.toArray(String[]::new));
        return new Answer(status, out.toString(), err.toString());
    }

    private static Answer check(final String operation, final Files files, final String... more) {
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

    private record Files(Path inputs, Path output) {}

    private Files files(final SafeTensorsFile inputs, final SafeTensorsFile output) throws IOException {
        return new Files(
                inputs.write(folder.resolve("in.safetensors")), output.write(folder.resolve("theirs.safetensors")));
    }

    /** Twice the element, or another value where it is 0. */
    private static void plant(final HostTensor tensor, final long... index) {
        final float value = tensor.getFloat(index);
        tensor.setFloat(value == 0 || !Float.isFinite(value) ? 1 : 2 * value, index);
    }

    private void assertJudged(
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

    @Test
    void shouldJudgeProducts() throws IOException {
        final Scaled<HostTensor> a = HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, 33, 272);
        final Scaled<HostTensor> b = HostData.randomQuantized(arena, random, Scaling.WEIGHT_128X128, 136, 272);
        for (final DType type : new DType[] {DType.BF16, DType.F32}) {
            final HostTensor d = HostTensor.allocate(arena, type, 33, 136);
            BlockScaledProduct.multiply(a, b, null, d);
            assertJudged(
                    "fp8_gemm_nt",
                    new SafeTensorsFile()
                            .with("a", a.values())
                            .with("a_scales", a.scales())
                            .with("b", b.values())
                            .with("b_scales", b.scales()),
                    new SafeTensorsFile().with("d", d),
                    d,
                    "d",
                    17,
                    101);
        }
    }

    @Test
    void shouldJudgeQuantisation() throws IOException {
        final HostTensor x = HostTensor.allocate(arena, DType.BF16, 40, 200);
        HostData.fillForQuantization(x, random);
        final HostTensor back = HostTensor.allocate(arena, DType.F32, 40, 200);
        for (final Scaling.Block block : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
            final Scaled<HostTensor> out = HostData.quantized(arena, block, 40, 200);
            BlockQuantization.quantize(x, out, ScaleKind.POWER_OF_TWO);
            BlockQuantization.dequantize(out, back);
            final SafeTensorsFile quantized =
                    new SafeTensorsFile().with("values", out.values()).with("scales", out.scales());
            assertJudged("dequantize", quantized, new SafeTensorsFile().with("out", back), back, "out", 39, 7);
            assertJudged(
                    "quantize",
                    new SafeTensorsFile().with("x", x).withMetadata("scale_kind", "power_of_two"),
                    quantized,
                    out.scales(),
                    "scales",
                    0,
                    1);
        }
    }

    @Test
    void shouldJudgeDecoding() throws IOException {
        final MlaDecodeCase shape = MlaDecodeCase.of(
                MlaDecodeSpec.of(5, 16, 1, 1, 1).withSQ(2).withWindow(50), List.of(70, 1, 0, 33), 0, true, true, 1);
        final MlaDecodeOperands<HostTensor> x = shape.operands(arena, random);
        PagedLatentAttention.decode(shape.spec(), x, 4);
        final SafeTensorsFile inputs = new SafeTensorsFile()
                .with("q", x.q())
                .with("cache", x.cache())
                .with("block_table", x.blockTable())
                .with("lengths", x.lengths())
                .with("q_tokens", java.util.Objects.requireNonNull(x.qTokens()))
                .with("sink", java.util.Objects.requireNonNull(x.sink()))
                .withMetadata("window", "50");
        assertJudged(
                "mla_decode",
                inputs,
                new SafeTensorsFile().with("out", x.out()).with("lse", x.lse()),
                x.lse(),
                "lse",
                0,
                4,
                0);
        final Files files =
                files(inputs, new SafeTensorsFile().with("out", x.out()).with("lse", x.lse()));
        assertThat(check("mla_decode", files, "--set", "window=49").status())
                .as("another window")
                .isEqualTo(1);
    }

    @Test
    void shouldJudgeMerging() throws IOException {
        final HostTensor[] out = new HostTensor[3];
        final HostTensor[] lse = new HostTensor[3];
        for (int i = 0; i < 3; i++) {
            out[i] = HostTensor.allocate(arena, DType.BF16, 3, 2, 4, 512);
            lse[i] = HostTensor.allocate(arena, DType.F32, 3, 4, 2);
            HostData.fillWithNormal(out[i].reshape(24, 512), random);
            HostData.fillWithNormal(lse[i].reshape(12, 2), random);
        }
        MlaMerge.merge(out[0], lse[0], out[1], lse[1], out[2], lse[2]);
        assertJudged(
                "mla_merge",
                new SafeTensorsFile()
                        .with("out_a", out[0])
                        .with("lse_a", lse[0])
                        .with("out_b", out[1])
                        .with("lse_b", lse[1]),
                new SafeTensorsFile().with("out", out[2]).with("lse", lse[2]),
                out[2],
                "out",
                2,
                1,
                3,
                511);
    }

    @Test
    void shouldSayWhatDoesNotFit() throws IOException {
        final HostTensor a = HostTensor.allocate(arena, DType.F8_E4M3, 4, 128);
        final HostTensor scales = HostTensor.allocate(arena, DType.F32, 4, 2);
        final Files files = files(
                new SafeTensorsFile().with("a", a).with("b", a).with("a_scales", scales),
                new SafeTensorsFile().with("d", a));
        final Answer shape = check("gemm", files);
        assertThat(shape.status()).isEqualTo(2);
        assertThat(shape.err())
                .isEqualTo("check: %s: tensor \"a_scales\": got shape [4,2], need [4,1]%n".formatted(files.inputs()));
        assertThat(check("quantize", files).err())
                .isEqualTo(
                        "check: %s: tensor \"x\": missing; the file has [a, b, a_scales]%n".formatted(files.inputs()));
        java.nio.file.Files.delete(files.output());
        assertThat(check("quantize", files).err()).isEqualTo("check: %s: no such file%n".formatted(files.output()));
        assertThat(run(List.of("check", "--op", "gemn")).err()).contains("got gemn, need one of quantize, ");
        assertThat(run(List.of("check", "--op", "gemm")).status()).isEqualTo(2);
    }

    static List<CheckOperation> operations() {
        return CheckOperations.all();
    }

    @ParameterizedTest
    @MethodSource("operations")
    void shouldDescribeEveryOperation(final CheckOperation operation) {
        final Answer answer =
                run(List.of("check", "--describe", operation.names().getLast()));
        assertThat(answer.status()).isZero();
        assertThat(answer.out()).contains(operation.inputs()).contains(operation.outputs());
    }
}
