package io.hopper4j.quant;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaling;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * Quantisation of a matrix to E4M3 with one scale a block, the variant published with DeepSeek-V3.2-Exp (inference/kernel.py):
 *
 * <pre>
 * amax = max(max |x| over the block, 1e-4), NaN left out
 * s    = amax * (1/448) in F32;  power of two: 2^ceil(log2(amax * (1/448))), by exponent bits
 * q    = E4M3(x / s), F32 division, rounded to nearest even, saturating to +-448; NaN gives 0x7F
 * </pre>
 *
 * Blocks at the right and bottom edges use only their own elements. The result is defined bit for bit.
 *
 * @param maxRows rows that tensors have; a launch may use fewer
 * @param cols columns, a multiple of 8
 * @param inDType type of the input: F32, F16 or BF16
 * @param scaling the blocks: 1x128 or 128x128
 * @param scaleKind F32 or power-of-two scales
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record QuantizeSpec(long maxRows, long cols, DType inDType, Scaling scaling, ScaleKind scaleKind, int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, there are no columns, or the matrix would hold 2^60 elements or more
     */
    public QuantizeSpec {
        Objects.requireNonNull(inDType, "inDType");
        Objects.requireNonNull(scaling, "scaling");
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(maxRows >= 0, "quantize: maxRows", maxRows, "at least 0");
        Arguments.require(cols >= 1, "quantize: cols", cols, "at least 1");
        Arguments.require(smBudget >= 0, "quantize: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("quantize: in [maxRows,cols]", maxRows, cols);
    }

    /**
     * {@return a spec with F32 scales and all SMs}
     *
     * @param maxRows most rows
     * @param cols columns
     * @param inDType type of the input
     * @param scaling the blocks
     */
    public static QuantizeSpec of(final long maxRows, final long cols, final DType inDType, final Scaling scaling) {
        return new QuantizeSpec(maxRows, cols, inDType, scaling, ScaleKind.F32, 0);
    }

    /**
     * {@return this spec with another kind of scales}
     *
     * @param kind F32 or power-of-two scales
     */
    public QuantizeSpec withScaleKind(final ScaleKind kind) {
        return new QuantizeSpec(maxRows, cols, inDType, scaling, kind, smBudget);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public QuantizeSpec withSmBudget(final int sms) {
        return new QuantizeSpec(maxRows, cols, inDType, scaling, scaleKind, sms);
    }

    @Override
    public String operation() {
        return "quantize";
    }
}
