package io.hopper4j.attention;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;

/**
 * A plan of {@link MlaCacheWriteSpec}.
 *
 * @param <T> host or device tensors
 */
public interface MlaCacheWritePlan<T extends Tensor> extends Plan {
    @Override
    MlaCacheWriteSpec spec();

    /**
     * Binds the tensors of one layer.
     *
     * @param operands the tensors, with room for {@code maxTokens} tokens
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    MlaCacheWriteLaunch<T> bind(MlaCacheWriteOperands<T> operands);
}
