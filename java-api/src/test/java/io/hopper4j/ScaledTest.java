package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.lang.foreign.Arena;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Quantised matrices: scales must fit values, and lie where the kernels read them. */
final class ScaledTest {
    private final Arena arena = Arena.ofConfined();

    @AfterEach
    void close() {
        arena.close();
    }

    private HostTensor tensor(final DType dtype, final long... dims) {
        return HostTensor.allocate(arena, dtype, dims);
    }

    @Test
    void shouldNameTheScaleShapeItNeeds() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Scaled.weight(tensor(DType.F8_E4M3, 2048, 7168), tensor(DType.F32, 16, 55)))
                .withMessage("scaled: scales: got shape [16,55], need [16,56] = ceil(2048/128) x ceil(7168/128)");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Scaled.activation(tensor(DType.F8_E4M3, 3, 130), tensor(DType.F32, 3, 1)))
                .withMessage("scaled: scales: got shape [3,1], need [3,2] = 3 x ceil(130/128)");
        assertThatIllegalArgumentException()
                .isThrownBy(() ->
                        new Scaled<>(tensor(DType.F8_E4M3, 3, 130), tensor(DType.F32, 3), new Scaling.PerTensor()))
                .withMessage("scaled: scales: got shape [3], need [1], one scale");
    }

    @Test
    void shouldRefuseOtherTypesAndRanks() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Scaled.weight(tensor(DType.BF16, 8, 128), tensor(DType.F32, 1, 1)))
                .withMessage("scaled: values: got dtype BF16, need F8_E4M3 or F8_E5M2");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Scaled.weight(tensor(DType.F8_E4M3, 8, 128), tensor(DType.F8_E8M0, 1, 1)))
                .withMessage("scaled: scales: got dtype F8_E8M0, need F32");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Scaled.weight(tensor(DType.F8_E4M3, 8), tensor(DType.F32, 1, 1)))
                .withMessage("scaled: values: got shape [8], need rank 2 or 3");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> new Scaling.Block(0, 128))
                .withMessage("scaling: block: got 0x128, need at least 1x1");
    }

    @Test
    void shouldLayActivationScalesOutColumnByColumn() {
        assertThat(Scaled.activationScaleSpec(65, 7168))
                .isEqualTo(TensorSpec.strided(DType.F32, new long[] {65, 56}, new long[] {1, 68}));
        assertThat(Scaled.activationScaleSpec(0, 16))
                .isEqualTo(TensorSpec.strided(DType.F32, new long[] {0, 1}, new long[] {1, 4}));
        assertThat(Scaled.weightScaleSpec(576, 7168)).isEqualTo(TensorSpec.packed(DType.F32, 5, 56));
    }
}
