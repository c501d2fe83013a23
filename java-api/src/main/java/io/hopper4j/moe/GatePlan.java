package io.hopper4j.moe;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;

/**
 * A plan of {@link GateSpec}.
 *
 * @param <T> host or device tensors
 */
public interface GatePlan<T extends Tensor> extends Plan {
    @Override
    GateSpec spec();

    /**
     * Binds tensors with room for all that the spec allows.
     *
     * @param operands the tensors
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    GateLaunch<T> bind(GateOperands<T> operands);
}
