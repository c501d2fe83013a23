package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** Host tensors: storage, elements of every type, views. */
final class HostTensorTest {
    private final Arena arena = Arena.ofConfined();

    @AfterEach
    void close() {
        if (arena.scope().isAlive()) {
            arena.close();
        }
    }

    @ParameterizedTest
    @EnumSource
    void shouldHoldSmallIntegersOfEveryType(final DType type) {
        final HostTensor tensor = HostTensor.allocate(arena, type, 2, 2);
        assertThat(tensor.segment().byteSize()).isEqualTo(4L * type.size());
        tensor.setFloat(2, 1, 0);
        tensor.setFloat(1, 0, 1);
        assertThat(tensor.getFloat(1, 0)).isEqualTo(2);
        assertThat(tensor.getFloat(0, 1)).isEqualTo(1);
        assertThat(tensor.getFloat(1, 1)).isEqualTo(type == DType.F8_E8M0 ? 0x1p-127f : 0);
    }

    @ParameterizedTest
    @CsvSource({
        "F16, 70000, Infinity",
        "F16, 0.1, 0.099975586",
        "BF16, 1.00390625, 1.0",
        "BF16, 1.01171875, 1.015625",
        "F8_E4M3, 1e9, 448",
        "F8_E4M3, -Infinity, -448",
        "F8_E4M3, NaN, NaN",
        "F8_E5M2, 3.2, 3.0",
        "F8_E8M0, 3.1, 4",
        "F8_E8M0, NaN, NaN",
        "I32, 2.5, 2",
        "I32, 1e12, 2147483647",
        "I32, NaN, 0",
        "I64, -3.5, -4",
        "U8, 256, 255",
        "U8, -1, 0",
        "U8, NaN, 0"
    })
    void shouldRoundToNearestEvenAndSaturate(final DType type, final float in, final float out) {
        final HostTensor tensor = HostTensor.allocate(arena, type, 1);
        tensor.setFloat(in, 0);
        assertThat(tensor.getFloat(0)).isEqualTo(Float.valueOf(out));
    }

    @Test
    void shouldShareStorageWithViews() {
        final HostTensor matrix = HostTensor.allocate(arena, DType.F32, 3, 4);
        matrix.setFloats(0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23);
        assertThat(matrix.slice(1, 1, 3).toFloats()).containsExactly(1, 2, 11, 12, 21, 22);
        assertThat(matrix.slice(0, 1, 3).slice(1, 2, 4).toFloats()).containsExactly(12, 13, 22, 23);
        assertThat(matrix.transpose(0, 1).toFloats()).startsWith(0, 10, 20, 1);
        assertThat(matrix.select(1, 3).toFloats()).containsExactly(3, 13, 23);
        assertThat(matrix.select(0, 2).select(0, 1).getFloat()).as("a scalar").isEqualTo(21);
        assertThat(matrix.reshape(2, 6).select(0, 1).getFloat(0)).isEqualTo(12);
        assertThat(matrix.slice(0, 3, 3).toFloats())
                .as("an empty view at the end")
                .isEmpty();

        matrix.transpose(0, 1).slice(0, 3, 4).setFloat(-1, 0, 2);
        assertThat(matrix.getFloat(2, 3)).isEqualTo(-1);
        assertThat(matrix.slice(1, 1, 3).segment().address())
                .isEqualTo(matrix.segment().address() + 4);
    }

    @Test
    void shouldWriteOnlyTheElementsOfAView() {
        final HostTensor matrix = HostTensor.allocate(arena, DType.U8, 2, 3);
        matrix.slice(1, 0, 2).setFloats(1, 2, 3, 4);
        assertThat(matrix.toFloats()).containsExactly(1, 2, 0, 3, 4, 0);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> matrix.setFloats(1, 2))
                .withMessage("setFloats: values: got 2, need 6 for shape [2,3]");
    }

    @Test
    void shouldWrapMemoryWithoutCopying() {
        final float[] heap = {1, 2, 3, 4};
        final HostTensor tensor = HostTensor.wrap(MemorySegment.ofArray(heap), TensorSpec.packed(DType.F32, 2, 2));
        tensor.setFloat(9, 1, 1);
        assertThat(heap).containsExactly(1, 2, 3, 9);
        final MemorySegment odd = arena.allocate(9).asSlice(1);
        odd.set(ValueLayout.JAVA_FLOAT_UNALIGNED, 4, 7);
        assertThat(HostTensor.wrap(odd, TensorSpec.packed(DType.F32, 2)).getFloat(1))
                .as("unaligned, as in a mapped file")
                .isEqualTo(7);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> HostTensor.wrap(odd, TensorSpec.packed(DType.F32, 3)))
                .withMessage("tensor: segment: got 8 bytes, need at least 12 bytes for F32 [3]");
    }

    @Test
    void shouldKeepReadOnlyMemory() {
        final HostTensor tensor = HostTensor.wrap(arena.allocate(4).asReadOnly(), TensorSpec.packed(DType.U8, 4));
        assertThatIllegalArgumentException().isThrownBy(() -> tensor.setFloat(1, 0));
        assertThat(tensor.getFloat(0)).isZero();
    }

    @Test
    void shouldEndWithItsArena() {
        final HostTensor tensor = HostTensor.allocate(arena, DType.F32, 2);
        arena.close();
        assertThatIllegalStateException().isThrownBy(() -> tensor.getFloat(0));
    }

    @Test
    void shouldKeepTheThreadOfItsArena() throws InterruptedException {
        final HostTensor tensor = HostTensor.allocate(arena, DType.F32, 2);
        final Throwable[] thrown = new Throwable[1];
        final Thread other = Thread.ofPlatform().start(() -> {
            try {
                tensor.getFloat(0);
            } catch (RuntimeException e) {
                thrown[0] = e;
            }
        });
        other.join();
        assertThat(thrown[0]).isInstanceOf(WrongThreadException.class);
        assertThatExceptionOfType(IllegalArgumentException.class)
                .isThrownBy(() -> tensor.getFloat(2))
                .withMessage("index: got [2], need inside shape [2]");
    }
}
