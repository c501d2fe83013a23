package io.hopper4j.attention;

import io.hopper4j.Plan;
import io.hopper4j.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * A plan of {@link MlaDecodeSpec}. A decode step is one launch of the schedule, then one launch of the decode for each layer; both may be
 * captured and replayed while lengths grow.
 *
 * <p>{@snippet :
 * try (MlaDecodePlan<DeviceTensor> plan = kernels.plan(MlaDecodeSpec.of(128, 64, 32, 8192, 4096));
 *         MlaScheduleLaunch<DeviceTensor> schedule = plan.bindSchedule(lengths, null, scheduleBytes);
 *         MlaDecodeLaunch<DeviceTensor> decode = plan.bind(operands)) {
 *     schedule.launch(stream, batch);
 *     decode.launch(stream, batch);      // and those of the other layers
 * }
 * }
 *
 * @param <T> host or device tensors
 */
public interface MlaDecodePlan<T extends Tensor> extends Plan {
    @Override
    MlaDecodeSpec spec();

    /** {@return memory in bytes of the schedule} */
    long scheduleBytes();

    /**
     * Binds the launch that makes the schedule.
     *
     * @param lengths I32 {@code [maxBatch]}, contiguous: cached tokens of each request, those of its query tokens included
     * @param qTokens I32 {@code [maxBatch]}, contiguous: query tokens in use of each request, cut to 0..sQ; null: sQ for all
     * @param schedule written: at least {@link #scheduleBytes()} of U8, contiguous
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    MlaScheduleLaunch<T> bindSchedule(T lengths, @Nullable T qTokens, T schedule);

    /**
     * Binds the attention of one layer.
     *
     * @param operands the tensors, with room for {@code maxBatch} requests
     * @return a launch, which the caller closes
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the plan or the arena of a tensor is closed
     */
    MlaDecodeLaunch<T> bind(MlaDecodeOperands<T> operands);
}
