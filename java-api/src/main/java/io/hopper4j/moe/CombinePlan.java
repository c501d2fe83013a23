package io.hopper4j.moe;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;

/**
 * A plan of {@link CombineSpec} in an open group.
 *
 * @param <T> host or device tensors
 */
public interface CombinePlan<T extends Tensor> extends Plan {
    @Override
    CombineSpec spec();

    /**
     * Binds tensors. {@code rows} of {@code launch} is the number of this rank's tokens; every rank makes the call, also one without tokens.
     *
     * @param operands the tensors, with room for all tokens of the spec
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan, the group or the arena of a tensor is closed
     */
    CombineLaunch<T> bind(CombineOperands<T> operands);
}
