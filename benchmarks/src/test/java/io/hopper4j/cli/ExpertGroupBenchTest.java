package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.cli.BenchOperation.CaseList;
import java.util.List;
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

    @Test
    void listsWhatPeersPublish() {
        for (final ExpertGroupBench.Part part : ExpertGroupBench.Part.values()) {
            final ExpertGroupBench bench = new ExpertGroupBench(part);
            assertThat(bench.cases(CaseList.PEERS)).as(bench.name()).isNotEmpty();
            assertThat(bench.cases(CaseList.DEEPSEEK_V3)).isEmpty();
        }
    }
}
