package io.hopper4j.attention;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.Shape;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * Merge of two results of attention, over two disjoint sets of keys, into that over both, by their log-sum-exp:
 *
 * <pre>
 * lse = ln(exp(lseA) + exp(lseB)),  out = exp(lseA - lse) outA + exp(lseB - lse) outB
 * </pre>
 *
 * rounded once to the output type. A part whose log-sum-exp is positive infinity has no keys and counts for nothing, whatever its output holds; two
 * such parts give 0 and positive infinity. A sink, which belongs to the whole, must not be in the parts.
 *
 * @param outDType type of all three outputs, BF16 or F32
 * @param heads query heads
 * @param sQ query tokens of a request
 * @param smBudget at most how many SMs may be used; 0: all
 * @param maxBatch requests that tensors have room for; a launch may use fewer
 */
public record MlaMergeSpec(DType outDType, int heads, int sQ, int smBudget, long maxBatch) implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, or a tensor would hold 2^60 elements or more
     */
    public MlaMergeSpec {
        Objects.requireNonNull(outDType, "outDType");
        Arguments.require(heads >= 1, "mla_merge: heads", heads, "at least 1");
        Arguments.require(sQ >= 1, "mla_merge: sQ", sQ, "at least 1");
        Arguments.require(smBudget >= 0, "mla_merge: smBudget", smBudget, "at least 0");
        Arguments.require(maxBatch >= 0, "mla_merge: maxBatch", maxBatch, "at least 0");
        Arguments.tensorSize("mla_merge: out [maxBatch,sQ,heads,512]", maxBatch, sQ, heads, MlaDecodeSpec.VALUE_DIM);
    }

    /**
     * {@return a spec that may use all SMs}
     *
     * @param outDType type of all three outputs
     * @param heads query heads
     * @param sQ query tokens of a request
     * @param maxBatch most requests
     */
    public static MlaMergeSpec of(final DType outDType, final int heads, final int sQ, final long maxBatch) {
        return new MlaMergeSpec(outDType, heads, sQ, 0, maxBatch);
    }

    /**
     * {@return a spec that fits a result and may use all SMs}
     *
     * @param merged a result of rank 4 and 3
     * @throws IllegalArgumentException if the rank of its output is not 4
     */
    public static MlaMergeSpec of(final MlaResult<?> merged) {
        final Shape shape = merged.out().shape();
        Arguments.require(shape.rank() == 4, "mla_merge: merged.out", "shape " + shape, "rank 4");
        return of(merged.out().dtype(), Math.toIntExact(shape.size(2)), Math.toIntExact(shape.size(1)), shape.size(0));
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public MlaMergeSpec withSmBudget(final int sms) {
        return new MlaMergeSpec(outDType, heads, sQ, sms, maxBatch);
    }

    @Override
    public String operation() {
        return "mla_merge";
    }
}
