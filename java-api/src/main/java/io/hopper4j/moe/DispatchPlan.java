package io.hopper4j.moe;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;

/**
 * A plan of {@link DispatchSpec} in an open group.
 *
 * @param <T> host or device tensors
 */
public interface DispatchPlan<T extends Tensor> extends Plan {
    @Override
    DispatchSpec spec();

    /** {@return memory of the handle in bytes} */
    long handleBytes();

    /** {@return rows of {@code out} in the layout EXPERT that are enough in every case, for each expert where it is a latency call} */
    long outRows();

    /**
     * Binds tensors. {@code rows} of {@code launch} is the number of this rank's tokens; every rank makes the call, also one without tokens.
     *
     * @param operands the tensors, with room for all tokens of the spec
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan, the group or the arena of a tensor is closed
     */
    DispatchLaunch<T> bind(DispatchOperands<T> operands);
}
