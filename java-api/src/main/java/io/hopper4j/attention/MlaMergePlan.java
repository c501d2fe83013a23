package io.hopper4j.attention;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;

/**
 * A plan of {@link MlaMergeSpec}.
 *
 * @param <T> host or device tensors
 */
public interface MlaMergePlan<T extends Tensor> extends Plan {
    @Override
    MlaMergeSpec spec();

    /**
     * Binds tensors with room for {@code maxBatch} requests, outputs of the spec's type.
     *
     * @param a one part
     * @param b the other part
     * @param merged written; may be one of the parts
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    MlaMergeLaunch<T> bind(MlaResult<T> a, MlaResult<T> b, MlaResult<T> merged);
}
