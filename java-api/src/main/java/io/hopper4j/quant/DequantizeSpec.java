package io.hopper4j.quant;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaling;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * The numbers that a quantised matrix stands for: {@code out = float(q) * s} in F32, rounded to nearest even to the output type. Defined
 * bit for bit.
 *
 * @param maxRows rows that tensors have; a launch may use fewer
 * @param cols columns, a multiple of 8
 * @param scaling the blocks: 1x128 or 128x128
 * @param outDType type of the output: F32, F16 or BF16
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record DequantizeSpec(long maxRows, long cols, Scaling scaling, DType outDType, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, there are no columns, or the matrix would hold 2^60 elements or more
     */
    public DequantizeSpec {
        Objects.requireNonNull(scaling, "scaling");
        Objects.requireNonNull(outDType, "outDType");
        Arguments.require(maxRows >= 0, "dequantize: maxRows", maxRows, "at least 0");
        Arguments.require(cols >= 1, "dequantize: cols", cols, "at least 1");
        Arguments.require(smBudget >= 0, "dequantize: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("dequantize: out [maxRows,cols]", maxRows, cols);
    }

    /**
     * {@return a spec with all SMs}
     *
     * @param maxRows most rows
     * @param cols columns
     * @param scaling the blocks
     * @param outDType type of the output
     */
    public static DequantizeSpec of(final long maxRows, final long cols, final Scaling scaling, final DType outDType) {
        return new DequantizeSpec(maxRows, cols, scaling, outDType, 0);
    }

    /**
     * {@return this spec with at most so many SMs}
     *
     * @param sms how many; 0: all
     */
    public DequantizeSpec withSmBudget(final int sms) {
        return new DequantizeSpec(maxRows, cols, scaling, outDType, sms);
    }

    @Override
    public String operation() {
        return "dequantize";
    }
}
