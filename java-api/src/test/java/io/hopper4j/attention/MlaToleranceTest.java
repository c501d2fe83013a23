package io.hopper4j.attention;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;

/** The bounds, each crossed by itself, and DeepSeek's softmax scale. */
final class MlaToleranceTest {
    private static boolean within(final double out, final double reference) {
        final MlaTolerance tolerance = new MlaTolerance();
        // Enough exact elements for the cosine not to matter.
        for (int i = 0; i < 100; i++) {
            tolerance.add(10, 10);
        }
        tolerance.add(out, reference);
        return tolerance.result().withinBounds();
    }

    private static boolean lseWithin(final double lse, final double reference) {
        final MlaTolerance tolerance = new MlaTolerance();
        tolerance.addLogSumExp(lse, reference);
        return tolerance.result().withinBounds();
    }

    @Test
    void shouldAllowTheLargerOfBothBounds() {
        assertThat(within(7.9e-4, 0)).isTrue();
        assertThat(within(8.1e-4, 0)).isFalse();
        assertThat(within(1 + 2 / 128.0, 1)).isTrue();
        assertThat(within(1 - 2.02 / 128.0, 1)).isFalse();
        assertThat(within(Double.NaN, 1)).isFalse();
        assertThat(within(Double.POSITIVE_INFINITY, Double.POSITIVE_INFINITY)).isFalse();
        assertThat(lseWithin(0.9e-6, 0)).isTrue();
        assertThat(lseWithin(1.1e-6, 0)).isFalse();
        assertThat(lseWithin(8 + 8 * 8 / 65536.0, 8)).isTrue();
        assertThat(lseWithin(8 + 8 * 8.02 / 65536.0, 8)).isFalse();
        assertThat(lseWithin(Double.NaN, 8)).isFalse();
        assertThat(lseWithin(Double.POSITIVE_INFINITY, Double.POSITIVE_INFINITY))
                .isTrue();
        assertThat(lseWithin(Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY))
                .isFalse();
        assertThat(lseWithin(1e30, Double.POSITIVE_INFINITY)).isFalse();
        assertThat(lseWithin(Double.POSITIVE_INFINITY, 8)).isFalse();
    }

    @Test
    void shouldSeeManyErrorsThatAreSmallAlone() {
        final MlaTolerance tolerance = new MlaTolerance();
        for (int i = 0; i < 1000; i++) {
            tolerance.add(i % 2 == 0 ? 1.01 : 0.99, 1);
        }
        assertThat(tolerance.result().worstRatio()).isLessThan(1);
        assertThat(tolerance.result().cosineDistance()).isGreaterThan(MlaTolerance.MAX_COSINE_DISTANCE);
        assertThat(tolerance.result().withinBounds()).isFalse();
    }

    @Test
    void shouldTakeTheSizeOfTheValues() {
        final MlaTolerance tolerance = new MlaTolerance(0.1);
        tolerance.add(1, 1);
        tolerance.add(1e-4, 0);
        assertThat(tolerance.result().withinBounds()).isFalse();
    }

    @Test
    void shouldGiveDeepSeeksScale() {
        assertThat(MlaSoftmaxScale.DEEPSEEK_V3).isCloseTo(0.1352338f, Offset.offset(5e-8f));
        assertThat(MlaSoftmaxScale.deepSeekV3(163840)).isEqualTo(MlaSoftmaxScale.DEEPSEEK_V3);
        assertThat(MlaSoftmaxScale.deepSeekV3(4096)).isEqualTo((float) (1 / Math.sqrt(192)));
        assertThat(MlaSoftmaxScale.yarn(64, 1, 1)).isEqualTo(0.125f);
        assertThat(MlaSoftmaxScale.yarn(64, Math.E, 10)).isEqualTo(0.5f);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MlaSoftmaxScale.plain(0))
                .withMessage("softmax scale: headDim: got 0, need at least 1");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MlaSoftmaxScale.yarn(64, 0, 1))
                .withMessage("softmax scale: factor: got 0.0, need above 0");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MlaSoftmaxScale.deepSeekV3(0))
                .withMessage("softmax scale: maxPositions: got 0, need at least 1");
    }
}
