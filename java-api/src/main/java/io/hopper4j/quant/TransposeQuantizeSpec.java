package io.hopper4j.quant;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * A matrix transposed and quantised to E4M3 with 1x128 scales in one pass: what {@link QuantizeSpec} gives for the transposed matrix, bit for bit. A
 * scale belongs to one column of the input and 128 of its rows, which are the K of a weight gradient.
 *
 * @param maxRows rows that the input has; a launch may use fewer
 * @param cols columns of the input, a multiple of 8
 * @param scaleKind F32 or power-of-two scales
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record TransposeQuantizeSpec(long maxRows, long cols, ScaleKind scaleKind, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, there are no columns, or the matrix would hold 2^60 elements or more
     */
    public TransposeQuantizeSpec {
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(maxRows >= 0, "transpose_quantize: maxRows", maxRows, "at least 0");
        Arguments.require(cols >= 1, "transpose_quantize: cols", cols, "at least 1");
        Arguments.require(smBudget >= 0, "transpose_quantize: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("transpose_quantize: in [maxRows,cols]", maxRows, cols);
    }

    /**
     * {@return a spec with F32 scales and all SMs}
     *
     * @param maxRows most rows of the input
     * @param cols columns of the input
     */
    public static TransposeQuantizeSpec of(final long maxRows, final long cols) {
        return new TransposeQuantizeSpec(maxRows, cols, ScaleKind.F32, 0);
    }

    /** {@return this spec with another kind of scales} */
    public TransposeQuantizeSpec withScaleKind(final ScaleKind kind) {
        return new TransposeQuantizeSpec(maxRows, cols, kind, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public TransposeQuantizeSpec withSmBudget(final int sms) {
        return new TransposeQuantizeSpec(maxRows, cols, scaleKind, sms);
    }

    @Override
    public String operation() {
        return "transpose_quantize";
    }
}
