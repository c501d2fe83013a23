package io.hopper4j.internal;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;

/** What ranks agree on when their group opens. */
final class MoeOperandsTest {
    private static float least(final float... rates) {
        final byte[][] told = new byte[rates.length][];
        Arrays.setAll(told, rank -> MoeOperands.link(rates[rank]));
        return MoeOperands.leastLink(Arrays.asList(told));
    }

    @Test
    void shouldPlanWithTheSlowestLink() {
        assertThat(least(351.5f, 349.25f, 350)).isEqualTo(349.25f);
        assertThat(least(160, 351)).isEqualTo(160);
    }

    @Test
    void shouldLeaveOutRanksWithoutPeersElsewhere() {
        assertThat(least(0, 351, 0)).isEqualTo(351);
        assertThat(least(351, 0)).isEqualTo(351);
        assertThat(least(0, 0)).isZero();
        assertThat(MoeOperands.leastLink(List.of())).isZero();
    }
}
