package io.hopper4j.internal.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.Scaled;
import io.hopper4j.TensorSpec;
import org.junit.jupiter.api.Test;

/** Which strides one copy can move. */
final class CopyShapeTest {
    private static CopyShape of(final TensorSpec device, final TensorSpec host) {
        return CopyShape.of("copyFrom", device, host);
    }

    private static TensorSpec f32(final long[] dims, final long... steps) {
        return TensorSpec.strided(DType.F32, dims, steps);
    }

    @Test
    void shouldMoveContiguousTensorsAtOnce() {
        final TensorSpec spec = TensorSpec.packed(DType.BF16, 3, 4, 5);
        assertThat(of(spec, spec)).isEqualTo(new CopyShape(120, 1, 120, 120));
        assertThat(of(TensorSpec.packed(DType.F32), TensorSpec.packed(DType.F32)))
                .as("a scalar")
                .isEqualTo(new CopyShape(4, 1, 4, 4));
        assertThat(of(TensorSpec.packed(DType.F32, 0, 3), TensorSpec.packed(DType.F32, 0, 3))
                        .rows())
                .isZero();
    }

    @Test
    void shouldMoveRowsWithAPitchOnEitherSide() {
        final TensorSpec packed = TensorSpec.packed(DType.F32, 3, 5);
        final TensorSpec padded = f32(new long[] {3, 5}, 8, 1);
        assertThat(of(padded, packed)).isEqualTo(new CopyShape(20, 3, 32, 20));
        assertThat(of(packed, padded)).isEqualTo(new CopyShape(20, 3, 20, 32));
        assertThat(of(padded, padded)).isEqualTo(new CopyShape(20, 3, 32, 32));
    }

    @Test
    void shouldMoveScalesThatLieColumnByColumn() {
        final TensorSpec scales = Scaled.activationScaleSpec(65, 512);
        assertThat(of(scales, scales)).isEqualTo(new CopyShape(260, 4, 272, 272));
    }

    @Test
    void shouldMoveEvenlySpacedElements() {
        assertThat(of(f32(new long[] {7}, 3), TensorSpec.packed(DType.F32, 7))).isEqualTo(new CopyShape(4, 7, 12, 4));
        final TensorSpec cube = f32(new long[] {2, 3, 4}, 24, 8, 1);
        assertThat(of(cube, TensorSpec.packed(DType.F32, 2, 3, 4))).isEqualTo(new CopyShape(16, 6, 32, 16));
    }

    @Test
    void shouldRefuseWhatNeedsMoreThanOneCopy() {
        final TensorSpec packed = TensorSpec.packed(DType.F32, 3, 5);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> of(packed, TensorSpec.packed(DType.F32, 5, 3).transpose(0, 1)))
                .withMessage(
                        "copyFrom: strides: got [5,1] on the device, [1,3] on the host, need contiguous, or rows or"
                                + " columns at one distance, in the same order on both sides");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> of(f32(new long[] {2, 3, 4}, 100, 8, 1), TensorSpec.packed(DType.F32, 2, 3, 4)));
        assertThatIllegalArgumentException().isThrownBy(() -> of(f32(new long[] {3, 5}, 0, 1), packed));
        assertThatIllegalArgumentException()
                .isThrownBy(() -> of(packed, TensorSpec.packed(DType.F32, 5, 3)))
                .withMessage("copyFrom: host tensor: got F32 [5,3], need F32 [3,5], as on the device");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> of(packed, TensorSpec.packed(DType.I32, 3, 5)))
                .withMessage("copyFrom: host tensor: got I32 [3,5], need F32 [3,5], as on the device");
    }
}
