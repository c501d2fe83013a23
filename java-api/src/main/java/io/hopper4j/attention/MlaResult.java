package io.hopper4j.attention;

import io.hopper4j.Tensor;
import java.util.Objects;

/**
 * A result of attention, of all keys or of a part of them: what a decode writes.
 *
 * @param <T> host or device tensors
 * @param out {@code [b, sQ, heads, 512]}, contiguous
 * @param lse F32 {@code [b, heads, sQ]}, contiguous: natural logarithms of sums of exponentials; positive infinity where there is no key
 */
public record MlaResult<T extends Tensor>(T out, T lse) {
    /** Keeps the tensors; whether they fit a spec, {@link MlaMergePlan#bind} checks. */
    public MlaResult {
        Objects.requireNonNull(out, "out");
        Objects.requireNonNull(lse, "lse");
    }
}
