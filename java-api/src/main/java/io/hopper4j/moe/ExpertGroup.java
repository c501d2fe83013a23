package io.hopper4j.moe;

import io.hopper4j.Tensor;

/**
 * One rank of an expert-parallel group. Ranks are threads of one process or processes of one host; a {@link Rendezvous} brings them together when the
 * group opens. Every rank makes the same calls on a channel in the same order.
 *
 * <p>A peer that does not answer before the deadline never hangs a rank: the call ends, {@link #check} and later launches throw
 * {@link io.hopper4j.PeerTimeoutException}, and the group is to be closed and opened anew without the lost rank.
 *
 * <p>Several ranks of a process may share a GPU where their SMs fit side by side ({@link ExpertGroupSpec#smBudget}). Their kernels wait for each other, so each rank's
 * stream also needs a hardware queue of its own: where more than a few ranks share a GPU, start the process with {@code CUDA_DEVICE_MAX_CONNECTIONS=32}.
 *
 * <p>Opened by {@code Kernels.openGroup}. May be used from any thread.
 *
 * @param <T> host or device tensors
 */
public interface ExpertGroup<T extends Tensor> extends AutoCloseable {
    /** {@return what the ranks agree on} */
    ExpertGroupSpec spec();

    /** {@return this rank} */
    int rank();

    /**
     * {@return the memory of a channel}
     *
     * @param channel the channel
     * @throws IllegalArgumentException if there is no such channel
     */
    GroupBuffers<T> buffers(int channel);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec a call of this group
     * @throws IllegalArgumentException if the spec is of another group
     * @throws io.hopper4j.UnsupportedKernelException if no kernel serves it
     */
    DispatchPlan<T> plan(DispatchSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec a call of this group
     * @throws IllegalArgumentException if the spec is of another group
     * @throws io.hopper4j.UnsupportedKernelException if no kernel serves it
     */
    CombinePlan<T> plan(CombineSpec spec);

    /**
     * Says which ranks take part in launches from now on; all living ranks say the same. Tokens for others are dropped. A rank that is left out makes its
     * calls all the same, which then do nothing.
     *
     * @param ranks the ranks
     * @throws IllegalArgumentException if there is no such rank
     */
    void setActive(int... ranks);

    /**
     * Answers if no peer has failed to answer.
     *
     * @throws io.hopper4j.PeerTimeoutException if one has; the group is lost
     */
    void check();

    /**
     * Waits for this rank's calls and lets the group go; peers must have made all theirs. Closing a closed group does nothing.
     *
     * @throws IllegalStateException if plans are open; the message names them
     */
    @Override
    void close();
}
