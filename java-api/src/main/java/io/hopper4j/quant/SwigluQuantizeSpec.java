package io.hopper4j.quant;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * The pass between the two products of an expert: SwiGLU (arXiv 2002.05202), a weight a row where there is one, and quantisation to E4M3 with 1x128
 * scales.
 *
 * <pre>
 * g = in[r, c], u = in[r, cols + c]
 * v = g / (1 + exp(-g)) * u (* weights[r])          in F32
 * out, scales = v quantised as {@link QuantizeSpec} says
 * </pre>
 *
 * Nothing is rounded to less than F32 between the BF16 input and the scale and E4M3 value: where separate passes round v to BF16, this one does not. The
 * CUDA kernel's exponential and divisions are good to a few units of F32, which {@link QuantizeTolerance} allows for.
 *
 * <p>With {@code masked}, the rows lie in groups of {@code maxRows}, and device memory says how many of each are in use. Counts outside
 * 0..maxRows are cut, and the next call that waits for the device throws.
 *
 * @param groups groups of rows, 1 unless masked
 * @param maxRows rows of a group
 * @param cols columns of the output, a multiple of 8
 * @param weighted whether each row has a weight
 * @param masked whether device memory says how many rows of each group are in use
 * @param scaleKind F32 or power-of-two scales
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record SwigluQuantizeSpec(
        int groups, long maxRows, long cols, boolean weighted, boolean masked, ScaleKind scaleKind, int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, there are groups but no counts, or a matrix would hold
     *     2^60 elements or more
     */
    public SwigluQuantizeSpec {
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(groups >= 1, "swiglu_quantize: groups", groups, "at least 1");
        Arguments.require(masked || groups == 1, "swiglu_quantize: groups", groups, "1, as the spec is not masked");
        Arguments.require(maxRows >= 0, "swiglu_quantize: maxRows", maxRows, "at least 0");
        Arguments.require(cols >= 1, "swiglu_quantize: cols", cols, "at least 1");
        Arguments.require(smBudget >= 0, "swiglu_quantize: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("swiglu_quantize: in [groups*maxRows,2*cols]", groups, maxRows, 2, cols);
    }

    /**
     * {@return a spec whose launches say how many rows are in use, without weights, with F32 scales and all SMs}
     *
     * @param maxRows most rows
     * @param cols columns of the output
     */
    public static SwigluQuantizeSpec of(final long maxRows, final long cols) {
        return new SwigluQuantizeSpec(1, maxRows, cols, false, false, ScaleKind.F32, 0);
    }

    /**
     * {@return a spec with groups whose rows in use device memory counts, without weights, with F32 scales and all SMs}
     *
     * @param groups groups of rows
     * @param maxRows rows of a group
     * @param cols columns of the output
     */
    public static SwigluQuantizeSpec masked(final int groups, final long maxRows, final long cols) {
        return new SwigluQuantizeSpec(groups, maxRows, cols, false, true, ScaleKind.F32, 0);
    }

    /** {@return this spec with a weight for each row, or without} */
    public SwigluQuantizeSpec withWeights(final boolean weights) {
        return new SwigluQuantizeSpec(groups, maxRows, cols, weights, masked, scaleKind, smBudget);
    }

    /** {@return this spec with another kind of scales} */
    public SwigluQuantizeSpec withScaleKind(final ScaleKind kind) {
        return new SwigluQuantizeSpec(groups, maxRows, cols, weighted, masked, kind, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public SwigluQuantizeSpec withSmBudget(final int sms) {
        return new SwigluQuantizeSpec(groups, maxRows, cols, weighted, masked, scaleKind, sms);
    }

    /** {@return the rows that tensors have: those of all groups} */
    public long rows() {
        return groups * maxRows;
    }

    @Override
    public String operation() {
        return "swiglu_quantize";
    }
}
