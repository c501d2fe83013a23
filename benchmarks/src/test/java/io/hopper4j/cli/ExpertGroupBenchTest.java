package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.cli.BenchOperation.CaseList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.assertj.core.data.Percentage;
import org.junit.jupiter.api.Test;

final class ExpertGroupBenchTest {
    private static BenchOperation.Work work(final String operation, final int tokens, final int bits) {
        return BenchOperations.parse(operation + " ranks=2 processes=1 tokens=" + tokens
                        + " hidden=7168 topk=8 experts=256 bits=" + bits + " sms=24")
                .work();
    }

    private static BenchOperation.Traffic traffic(final BenchOperation.Work work) {
        return Objects.requireNonNull(work.traffic());
    }

    /** Of two ranks nearly every token has an expert at each, and crosses once: 30 MB of FP8 rows, 59 MB of BF16. */
    @Test
    void countsATokenOnceForEachRank() {
        assertThat(traffic(work("moe_dispatch", 4096, 8)).remote())
                .isCloseTo(4096.0 * (7168 + 224), Percentage.withPercentage(0.5));
        assertThat(traffic(work("moe_dispatch_expert", 4096, 8)).remote())
                .isEqualTo(traffic(work("moe_dispatch", 4096, 8)).remote());
        assertThat(traffic(work("moe_combine", 4096, 16)).remote())
                .isCloseTo(4096.0 * 2 * 7168, Percentage.withPercentage(0.5));
        final BenchOperation.Traffic both = traffic(work("moe_dispatch", 4096, 8));
        assertThat(both.logical()).isEqualTo(2 * both.remote());
    }

    /** Rows by expert are written eight times, whatever crosses. */
    @Test
    void countsExpertRowsAsLocalBytes() {
        final double row = 7168 + 224;
        assertThat(work("moe_dispatch_expert", 4096, 8).bytes()).isEqualTo(4096 * row * 9);
        assertThat(work("moe_combine_expert", 4096, 16).bytes()).isEqualTo(4096 * 2 * 7168.0 * 9);
    }

    @Test
    void isHeldAgainstTheLinkWhereRanksHaveGpusOfTheirOwn() {
        final Yardsticks two = new Yardsticks(3000, 3000, 800, 1600, 350, 5, List.of(), List.of());
        final Yardsticks one = new Yardsticks(3000, 3000, 800, 1600, Double.NaN, 5, List.of(), List.of());
        final BenchOperation.Work dispatch = work("moe_dispatch", 4096, 8);
        assertThat(two.floorMicroseconds(dispatch))
                .isCloseTo(traffic(dispatch).remote() / 350e3, Percentage.withPercentage(0.01));
        assertThat(one.floorMicroseconds(dispatch))
                .isCloseTo(dispatch.bytes() / 3000e3, Percentage.withPercentage(0.01));
    }

    /** Four ranks store to three others each: held against what all devices reach when all store at once. */
    @Test
    void isHeldAgainstAllLinksAtOnceWhereMoreRanksThanTwoExchange() {
        final Yardsticks four = new Yardsticks(
                3000,
                3000,
                800,
                1600,
                350,
                5,
                List.of(
                        Map.of("what", "allToAll", "sms", 132L, "gbs", 370.0),
                        Map.of("what", "allToAll", "sms", 24L, "gbs", 320.0)),
                List.of());
        for (final int ranks : new int[] {2, 4}) {
            final BenchOperation.Work dispatch = BenchOperations.parse("moe_dispatch ranks=" + ranks
                            + " processes=1 tokens=4096 hidden=7168 topk=8 experts=256 bits=8 sms=24")
                    .work();
            assertThat(four.floorMicroseconds(dispatch))
                    .isCloseTo(
                            traffic(dispatch).remote() / (ranks == 2 ? 350e3 : 320e3), Percentage.withPercentage(0.01));
        }
    }

    @Test
    void listsWhatPeersPublish() {
        for (final ExpertGroupBench.Part part : ExpertGroupBench.Part.values()) {
            final ExpertGroupBench bench = new ExpertGroupBench(part);
            assertThat(bench.cases(CaseList.PEERS)).as(bench.name()).isNotEmpty();
            assertThat(bench.cases(CaseList.DEEPSEEK_V3)).isEmpty();
        }
    }

    /** Hosts of 4 and 8 GPUs: every size, in both process layouts; none of it where there are fewer GPUs. */
    @Test
    void listsMoreRanksWhereEachHasAGpu() {
        for (final ExpertGroupBench.Part part : ExpertGroupBench.Part.values()) {
            final ExpertGroupBench bench = new ExpertGroupBench(part);
            final List<BenchShape> cases = bench.cases(CaseList.PEERS);
            assertThat(cases).as(bench.name()).doesNotHaveDuplicates();
            for (final int gpus : new int[] {1, 2}) {
                assertThat(cases.stream().filter(shape -> bench.isFor(shape, gpus)))
                        .allMatch(shape -> shape.get("ranks") == 2);
            }
            for (final int gpus : new int[] {4, 8}) {
                final List<BenchShape> own = cases.stream()
                        .filter(shape -> bench.isFor(shape, gpus) && shape.get("ranks") == gpus)
                        .toList();
                assertThat(own.stream().map(shape -> shape.get("processes"))).contains(1L, (long) gpus);
                assertThat(own.stream().map(shape -> shape.get("sms"))).contains(24L);
                if (bench.name().endsWith("_latency")) {
                    assertThat(own.stream().map(shape -> shape.get("tokens"))).contains(8L, 64L, 128L);
                } else {
                    assertThat(own.stream().map(shape -> shape.get("tokens"))).contains(4096L, 8192L);
                }
                if (bench.name().startsWith("moe_dispatch")) {
                    assertThat(own.stream().map(shape -> shape.get("bits"))).contains(8L, 16L);
                }
            }
        }
    }

    /** Of eight ranks a token with eight distinct experts of 256 goes to 8 (1 - 224! 248! / (216! 256!)) of them. */
    @Test
    void countsATokenOnceForEachOfEightRanks() {
        final BenchOperation.Traffic eight =
                traffic(BenchOperations.parse("moe_dispatch ranks=8 processes=1 tokens=4096 hidden=7168 topk=8"
                                + " experts=256 bits=16 sms=24")
                        .work());
        assertThat(eight.logical() / (4096.0 * 2 * 7168)).isCloseTo(5.2947, Percentage.withPercentage(0.01));
        assertThat(eight.remote()).isCloseTo(eight.logical() * 7 / 8, Percentage.withPercentage(0.01));
    }
}
