package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.hopper4j.cli.BenchOperation.CaseList;
import io.hopper4j.cli.BenchOperation.Work;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.DoubleStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What of the bench needs no GPU: statistics, case lists, floors. */
final class BenchPiecesTest {
    @TempDir
    private Path folder;

    @Test
    void statisticsAreMedianAndNearestRanks() {
        final Statistics ten =
                Statistics.of(DoubleStream.iterate(10, x -> x - 1).limit(10).toArray());
        assertThat(ten).isEqualTo(new Statistics(5.5, 1, 9));
        assertThat(Statistics.of(3, 1, 2)).isEqualTo(new Statistics(2, 1, 3));
        assertThat(Statistics.of(7)).isEqualTo(new Statistics(7, 7, 7));
        assertThatIllegalArgumentException().isThrownBy(Statistics::of);
    }

    @Test
    void roundingKeepsFiveFiguresAndHasNoNaN() {
        assertThat(Rounded.of(1234567.0)).isEqualTo(1234600.0);
        assertThat(Rounded.of(0.0123456)).isEqualTo(0.012346);
        assertThat(Rounded.of(Double.NaN)).isNull();
        assertThat(List.of(Rounded.text(1234.5), Rounded.text(12.34), Rounded.text(1.2345), Rounded.text(0)))
                .containsExactly("1234", "12.3", "1.23", "0");
        assertThat(Rounded.text(Double.POSITIVE_INFINITY)).isEqualTo("-");
    }

    @Test
    void publicListHasEveryPublishedShape() {
        final List<BenchOperations.Case> cases = BenchOperations.cases("gemm", List.of(CaseList.PEERS));
        assertThat(cases).hasSize(28 + 21 + 1 + 8 + 8 + 16 + 2 + 28).doesNotHaveDuplicates();
        assertThat(cases.stream().map(BenchOperations.Case::toString))
                .contains(
                        "fp8_gemm_nt m=64 n=2112 k=7168",
                        "fp8_gemm_nt m=4096 n=32768 k=512",
                        "fp8_gemm_nt m=1 n=7168 k=2048",
                        "fp8_gemm_grouped_contiguous groups=4 rows=8160 n=6144 k=7168",
                        "fp8_gemm_grouped_masked groups=32 maxRows=4096 meanRows=192 n=7168 k=3072",
                        "fp8_gemm_k_grouped groups=4 m=4096 n=7168 sumK=32640");
    }

    @Test
    void layersOfTheModelCoverThePublicList() {
        final List<BenchOperations.Case> layers =
                new ArrayList<>(BenchOperations.cases("gemm", List.of(CaseList.DEEPSEEK_V3)));
        layers.removeIf(one -> !one.operation().name().equals("fp8_gemm_nt"));
        final List<BenchOperations.Case> peers =
                new ArrayList<>(BenchOperations.cases("gemm", List.of(CaseList.PEERS)));
        peers.removeIf(one -> !one.operation().name().equals("fp8_gemm_nt"));
        assertThat(peers).hasSize(28);
        assertThat(layers).hasSize(40).containsAll(peers);
    }

    @Test
    void quantisationMovesMoreThanTheCachesHold() {
        final List<BenchOperations.Case> cases = BenchOperations.cases("quant", List.of(CaseList.DEEPSEEK_V3));
        for (final String operation : List.of(
                "quantize_1x128", "quantize_128x128", "swiglu_quantize", "rmsnorm_quantize", "transpose_quantize")) {
            assertThat(cases).anySatisfy(one -> {
                assertThat(one.operation().name()).isEqualTo(operation);
                assertThat(one.operation().work(one.shape()).bytes()).isGreaterThan(256e6);
            });
        }
    }

    @Test
    void everyListedCaseParsesFromItsText() {
        for (final String family : BenchOperations.families()) {
            for (final BenchOperations.Case one : BenchOperations.cases(family, Arrays.asList(CaseList.values()))) {
                assertThat(BenchOperations.parse(one.toString())).isEqualTo(one);
            }
        }
    }

    @Test
    void workOfAProductCountsEachOperandOnce() {
        final BenchOperations.Case one = BenchOperations.parse("fp8_gemm_nt m=64 n=576 k=7168");
        final Work work = one.operation().work(one.shape());
        assertThat(work.flops()).isEqualTo(2.0 * 64 * 576 * 7168);
        assertThat(work.bytes()).isEqualTo(64 * 7168 + 576 * 7168 + 2 * 64 * 576 + 4 * 56 * (64 + 5));
    }

    @Test
    void floorIsTheLargerOfMovingAndComputing() {
        assertThat(new Work(3e9, 0).floorMicroseconds(3000, 1000)).isCloseTo(1000, within(1e-9));
        assertThat(new Work(3e9, 2e15).floorMicroseconds(3000, 1000)).isCloseTo(2e6, within(1e-6));
        assertThat(new Work(3e9, 1).floorMicroseconds(3000, 1000)).isCloseTo(1000, within(1e-9));
    }

    @Test
    void wrongLinesOfAShapeFileAreNamed() throws IOException {
        final Path file = folder.resolve("shapes.txt");
        Files.writeString(file, "# remark\n\nfp8_gemm_nt k=512 m=1 n=8 # another\nquantize_1x128 m=4 k=128\n");
        assertThat(BenchOperations.read(file).stream().map(BenchOperations.Case::toString))
                .containsExactly("fp8_gemm_nt m=1 n=8 k=512", "quantize_1x128 m=4 k=128");
        assertBad(
                "nothing m=1",
                "line 1: operation: got nothing, need one of "
                        + BenchOperations.ALL.stream().map(BenchOperation::name).toList());
        assertBad("\nfp8_gemm_nt m=1 n=8", "line 2: fp8_gemm_nt: got no k, need all of [m, n, k]");
        assertBad("fp8_gemm_nt m=0 n=8 k=512", "line 1: m: got 0, need a whole number above 0");
        assertBad("fp8_gemm_nt m=x n=8 k=512", "line 1: m: got x, need a whole number above 0");
        assertBad("fp8_gemm_nt m=1 m=1 n=8 k=512", "line 1: fp8_gemm_nt: got m twice, need it once");
        assertBad("fp8_gemm_nt m=1 n=8 k=512 q=1", "line 1: fp8_gemm_nt: got q=1, need sizes of [m, n, k]");
        assertBad("# nothing", "got no case");
    }

    private void assertBad(final String text, final String message) throws IOException {
        final Path file = folder.resolve("bad.txt");
        Files.writeString(file, text);
        assertThatThrownBy(() -> BenchOperations.read(file))
                .isInstanceOf(IOException.class)
                .hasMessageContaining(file.toString())
                .hasMessageContaining(message);
    }

    @Test
    void cardsNamesBecomePartsOfFileNames() {
        assertThat(BenchCommand.slug("NVIDIA H100 80GB HBM3")).isEqualTo("h100-80gb-hbm3");
        assertThat(BenchCommand.slug("NVIDIA H200")).isEqualTo("h200");
    }
}
