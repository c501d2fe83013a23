package io.hopper4j.gemm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.internal.codec.Bf16;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;

/** The tolerance lets through what rounding does, and nothing that a defect does. */
final class GemmToleranceTest {
    @Test
    void shouldPassExactSumsRoundedToNearest() {
        final SplittableRandom random = new SplittableRandom(11);
        final GemmTolerance tolerance = GemmTolerance.of(DType.BF16);
        for (int i = 0; i < 100_000; i++) {
            final double exact = random.nextGaussian();
            tolerance.add(Bf16.toFloat(Bf16.fromDouble(exact)), exact, 0);
        }
        final GemmTolerance.Result result = tolerance.result();
        assertThat(result.withinBounds()).as("%s", result).isTrue();
        assertThat(result.worstRatio()).as("the bound is tight").isGreaterThan(0.99);
    }

    @Test
    void shouldCatchOneBadElementAmongMany() {
        final GemmTolerance tolerance = GemmTolerance.of(DType.F32);
        for (int i = 0; i < 1000; i++) {
            tolerance.add(1, 1, 16);
        }
        assertThat(tolerance.result().withinBounds()).isTrue();
        tolerance.add(1 + 0x1p-6, 1, 16);
        assertThat(tolerance.result().worstRatio()).isEqualTo(2);
        assertThat(tolerance.result().withinBounds()).isFalse();
    }

    @Test
    void shouldCatchASmallErrorOfAll() {
        final GemmTolerance tolerance = GemmTolerance.of(DType.F32);
        final SplittableRandom random = new SplittableRandom(12);
        for (int i = 0; i < 1000; i++) {
            final double exact = random.nextGaussian();
            tolerance.add(exact + 0.003 * random.nextGaussian(), exact, 1000);
        }
        assertThat(tolerance.result().worstRatio()).isLessThan(1);
        assertThat(tolerance.result().cosineDistance()).isGreaterThan(1e-6);
        assertThat(tolerance.result().withinBounds()).isFalse();
    }

    @Test
    void shouldCatchNanAndAnOutputOfZeros() {
        final GemmTolerance nan = GemmTolerance.of(DType.F32);
        nan.add(Double.NaN, 1, 1e9);
        assertThat(nan.result().withinBounds()).isFalse();
        final GemmTolerance zeros = GemmTolerance.of(DType.F32);
        zeros.add(0, 1, 1e9);
        assertThat(zeros.result().cosineDistance()).isEqualTo(1);
        assertThat(zeros.result().withinBounds()).isFalse();
    }

    @Test
    void shouldPassNothingAndZerosThatAreMeant() {
        final GemmTolerance tolerance = GemmTolerance.of(DType.BF16);
        assertThat(tolerance.result().withinBounds()).as("M = 0").isTrue();
        tolerance.add(0, 0, 0);
        assertThat(tolerance.result().withinBounds()).isTrue();
        tolerance.add(1e-30, 0, 0);
        assertThat(tolerance.result().withinBounds()).isFalse();
    }

    @Test
    void shouldStateItsLimits() {
        assertThat(GemmTolerance.of(DType.F32).maxCosineDistance()).isEqualTo(1e-6);
        assertThat(GemmTolerance.of(DType.BF16).maxCosineDistance()).isEqualTo(1e-6 + 0x1p-17);
        assertThat(GemmTolerance.of(DType.BF16).bound(-256, 2048)).isEqualTo(2);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> GemmTolerance.of(DType.F16))
                .withMessage("gemm: tolerance: dtype: got F16, need BF16 or F32");
    }
}
