package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Types, shapes, strides and the arithmetic of views. */
final class TensorSpecTest {
    private static final TensorSpec MATRIX = TensorSpec.packed(DType.BF16, 4, 6);

    @ParameterizedTest
    @EnumSource
    void shouldFindEveryTypeByItsCode(final DType type) {
        assertThat(DType.ofCode(type.code())).isSameAs(type);
        assertThat(type.safetensorsTag()).isEqualTo(type.name());
    }

    @Test
    void shouldKeepTheCodesOfTheAbi() {
        assertThat(DType.values())
                .extracting(DType::code)
                .as("F32, F16, BF16, E4M3, E5M2, E8M0, I32, I64, U8")
                .containsExactly(1, 2, 3, 4, 5, 6, 7, 8, 9);
        assertThat(DType.values()).extracting(DType::size).containsExactly(4, 2, 2, 1, 1, 1, 4, 8, 1);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> DType.ofCode(10))
                .withMessage("dtype: code: got 10, need 1..9");
    }

    @Test
    void shouldCountElementsAndBytes() {
        assertThat(MATRIX.elements()).isEqualTo(24);
        assertThat(MATRIX.byteSpan()).isEqualTo(48);
        assertThat(TensorSpec.packed(DType.F32).elements()).as("a scalar").isEqualTo(1);
        assertThat(TensorSpec.packed(DType.F32, 0, 7).byteSpan()).as("empty").isZero();
        assertThat(TensorSpec.strided(DType.F32, new long[] {3, 2}, new long[] {10, 1})
                        .span())
                .isEqualTo(22);
        assertThat(TensorSpec.strided(DType.U8, new long[] {5, 3}, new long[] {0, 1})
                        .span())
                .as("one row, five times")
                .isEqualTo(3);
    }

    @Test
    void shouldKnowWhatIsContiguous() {
        assertThat(MATRIX.isContiguous()).isTrue();
        assertThat(MATRIX.slice(0, 1, 3).isContiguous()).as("rows").isTrue();
        assertThat(MATRIX.slice(1, 1, 3).isContiguous()).as("columns").isFalse();
        assertThat(MATRIX.slice(1, 1, 3).slice(0, 2, 3).isContiguous())
                .as("part of one row")
                .isTrue();
        assertThat(MATRIX.transpose(0, 1).isContiguous()).isFalse();
        assertThat(TensorSpec.strided(DType.F32, new long[] {0, 5}, new long[] {9, 3})
                        .isContiguous())
                .as("empty")
                .isTrue();
    }

    @Test
    void shouldMakeViews() {
        assertThat(MATRIX.slice(1, 2, 5))
                .isEqualTo(TensorSpec.strided(DType.BF16, new long[] {4, 3}, new long[] {6, 1}));
        assertThat(MATRIX.select(0, 3)).isEqualTo(TensorSpec.packed(DType.BF16, 6));
        assertThat(MATRIX.transpose(0, 1))
                .isEqualTo(TensorSpec.strided(DType.BF16, new long[] {6, 4}, new long[] {1, 6}));
        assertThat(MATRIX.reshape(2, 2, 6)).isEqualTo(TensorSpec.packed(DType.BF16, 2, 2, 6));
        assertThat(MATRIX.offsetOf(2, 3)).isEqualTo(15);
    }

    @Test
    void shouldRefuseImpossibleViews() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.slice(1, 3, 7))
                .withMessage("slice: range: got 3..7 of dim 1, need 0 <= from <= to <= 6 of shape [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.slice(2, 0, 1))
                .withMessage("slice: dim: got 2, need 0..1 of shape [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.select(0, 4))
                .withMessage("select: index: got 4 of dim 0, need inside shape [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.transpose(0, -1))
                .withMessage("transpose: dim: got -1, need 0..1 of shape [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.reshape(5, 5))
                .withMessage("reshape: shape: got [5,5], need 24 elements as in [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.transpose(0, 1).reshape(24))
                .withMessage("reshape: strides: got [1,6] of shape [6,4], need a contiguous tensor: views never copy");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.offsetOf(1))
                .withMessage("index: got rank 1, need rank 2 of shape [4,6]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MATRIX.offsetOf(1, 6))
                .withMessage("index: got [1,6], need inside shape [4,6]");
    }

    @Test
    void shouldRefuseNegativeAndOverflowingSizes() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Shape.of(3, -1))
                .withMessage("shape: got [3,-1], need sizes of at least 0");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Shape.of(1L << 40, 1L << 40))
                .withMessage("shape: got 1099511627776 * 1099511627776, need a product below 2^63");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Strides.of(1, -2))
                .withMessage("strides: got [1,-2], need steps of at least 0");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> TensorSpec.packed(DType.I64, 1L << 61))
                .withMessage("tensor: bytes: got 2305843009213693952 * 8, need a product below 2^63");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> TensorSpec.strided(DType.U8, new long[] {3, 2}, new long[] {Long.MAX_VALUE, 1}))
                .withMessage("tensor: span: got 2 * 9223372036854775807, need a product below 2^63");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> TensorSpec.strided(DType.U8, new long[] {3, 2}, new long[] {1}))
                .withMessage("tensor: strides: got [1] of rank 1, need rank 2 of shape [3,2]");
    }

    @Test
    void shouldShowStridesOnlyWhereTheyMatter() {
        assertThat(MATRIX).hasToString("BF16 [4,6]");
        assertThat(MATRIX.transpose(0, 1)).hasToString("BF16 [6,4] strides [1,6]");
    }
}
