package io.hopper4j.quant;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import org.junit.jupiter.api.Test;

final class QuantizeToleranceTest {
    private static QuantizeTolerance of(
            final ScaleKind kind, final float value, final float scale, final double exact) {
        final QuantizeTolerance tolerance = new QuantizeTolerance(kind);
        tolerance.add(new float[] {448, value}, scale, new double[] {448, exact});
        return tolerance;
    }

    @Test
    void allowsHalfAStepAndNoMore() {
        // Around 17 the neighbours are 16 and 18.
        assertThat(of(ScaleKind.F32, 16, 1, 17).withinBounds()).isTrue();
        assertThat(of(ScaleKind.F32, 18, 1, 17).withinBounds()).isTrue();
        assertThat(of(ScaleKind.F32, 16, 1, 17.0002).withinBounds()).isTrue();
        assertThat(of(ScaleKind.F32, 16, 1, 17.01).withinBounds()).isFalse();
        assertThat(of(ScaleKind.F32, 20, 1, 17).withinBounds()).isFalse();
        assertThat(of(ScaleKind.F32, Float.NaN, 1, 17).withinBounds()).isFalse();
        // Below 2^-6 the distance is 2^-9 throughout.
        assertThat(of(ScaleKind.F32, 0, 1, 0x0.fp-10).withinBounds()).isTrue();
        assertThat(of(ScaleKind.F32, 0, 1, 0x1.1p-10).withinBounds()).isFalse();
    }

    @Test
    void knowsWhichScalesAreRight() {
        assertThat(of(ScaleKind.F32, 0, 1.0001f, 0).worstScaleRatio()).isGreaterThan(1);
        assertThat(of(ScaleKind.F32, 0, Math.nextUp(1f), 0).worstScaleRatio()).isLessThan(1);
        // 1 is a power of two: a number a little larger may take the next.
        assertThat(of(ScaleKind.POWER_OF_TWO, 0, 1, 0).worstScaleRatio()).isZero();
        assertThat(of(ScaleKind.POWER_OF_TWO, 0, 2, 0).worstScaleRatio()).isZero();
        assertThat(of(ScaleKind.POWER_OF_TWO, 0, 4, 0).worstScaleRatio()).isGreaterThan(1);
        assertThat(of(ScaleKind.POWER_OF_TWO, 0, 0.5f, 0).worstScaleRatio()).isGreaterThan(1);
        assertThat(of(ScaleKind.POWER_OF_TWO, 0, 1.5f, 0).worstScaleRatio()).isInfinite();
    }

    @Test
    void takesTheSmallestAmax() {
        final QuantizeTolerance tolerance = new QuantizeTolerance(ScaleKind.F32);
        tolerance.add(new float[] {0}, 1e-4f / 448, new double[] {0});
        assertThat(tolerance.withinBounds()).isTrue();
        assertThat(tolerance.count()).isEqualTo(1);
    }

    @Test
    void refusesBlocksOfTwoSizes() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> new QuantizeTolerance(ScaleKind.F32).add(new float[1], 1, new double[2]))
                .withMessage("quantize: tolerance: got 1 values and 2 slacks, need 2");
    }
}
