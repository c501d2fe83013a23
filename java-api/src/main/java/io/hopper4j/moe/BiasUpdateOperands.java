package io.hopper4j.moe;

import io.hopper4j.Tensor;
import java.util.Objects;

/**
 * The tensors of a bias update, both contiguous.
 *
 * @param <T> host or device tensors
 * @param counts I32 {@code [experts]}, cleared where the spec says so
 * @param bias F32 {@code [experts]}, updated
 */
public record BiasUpdateOperands<T extends Tensor>(T counts, T bias) {
    /** Keeps the tensors; whether they fit a spec, {@link BiasUpdatePlan#bind} checks. */
    public BiasUpdateOperands {
        Objects.requireNonNull(counts, "counts");
        Objects.requireNonNull(bias, "bias");
    }
}
