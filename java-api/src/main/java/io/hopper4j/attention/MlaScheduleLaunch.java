package io.hopper4j.attention;

import io.hopper4j.Launch;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * Makes the schedule of a decode step on the device, from the lengths that the device holds when the work runs: nothing is read back, so a
 * captured launch follows lengths that grow. {@code rows} of {@link Launch#launch} is the number of requests in use.
 *
 * @param <T> host or device tensors
 */
public interface MlaScheduleLaunch<T extends Tensor> extends Launch {
    /**
     * Exchanges the tensors. On failure the old ones stay bound.
     *
     * @param lengths as in {@link MlaDecodePlan#bindSchedule}
     * @param qTokens as in {@link MlaDecodePlan#bindSchedule}
     * @param schedule as in {@link MlaDecodePlan#bindSchedule}
     * @throws IllegalArgumentException as {@link MlaDecodePlan#bindSchedule}
     * @throws IllegalStateException if the launch or the arena of a tensor is closed, or another thread is inside {@code launch}
     */
    void rebind(T lengths, @Nullable T qTokens, T schedule);
}
