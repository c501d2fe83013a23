package io.hopper4j.moe;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * Rows to the ranks that hold their experts. A token crosses to a rank once, whatever number of its experts are there; an expert number of -1 selects
 * nothing, one given twice counts twice; in latency calls, where an expert has a slot for each token, once. A number that does not exist
 * selects nothing and is told of when the stream is next waited for.
 *
 * <ul>
 *   <li>Throughput, {@link MoeLayout#RANK}: rows land in {@link GroupBuffers#rows}.
 *   <li>Throughput, {@link MoeLayout#EXPERT}: rows are placed in {@code out}, each expert's beginning at a multiple of {@code alignment}; rows between one
 *       expert's end and the next one's beginning stay as they are.
 *   <li>Latency: {@code out} is {@code [localExperts, ranks * latencyTokens, hidden]}, for a masked grouped GEMM.
 * </ul>
 *
 * @param group the group's spec
 * @param mode throughput or latency
 * @param layout of the rows at the receiver; latency: {@link MoeLayout#EXPERT}
 * @param half the whole call, or a half of it
 * @param inDType BF16, which is cast where the group's rows are FP8, or the type of the group's rows
 * @param alignment rows, a power of two up to 256, that an expert's beginning is a multiple of
 * @param channel the channel
 * @param reuse whether the routing is that of the handle, so that only rows are sent; throughput, {@link MoeLayout#RANK}
 */
public record DispatchSpec(
        ExpertGroupSpec group,
        MoeMode mode,
        MoeLayout layout,
        MoeHalf half,
        DType inDType,
        int alignment,
        int channel,
        boolean reuse)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve.
     *
     * @throws IllegalArgumentException if a combination makes no sense
     */
    public DispatchSpec {
        Objects.requireNonNull(group, "group");
        Objects.requireNonNull(mode, "mode");
        Objects.requireNonNull(layout, "layout");
        Objects.requireNonNull(half, "half");
        Arguments.require(
                inDType == DType.BF16 || inDType == group.rowDType(),
                "moe_dispatch: inDType",
                inDType,
                "BF16 or the group's " + group.rowDType());
        Arguments.require(
                mode == MoeMode.THROUGHPUT || layout == MoeLayout.EXPERT,
                "moe_dispatch: layout",
                layout,
                "EXPERT for latency calls");
        Arguments.require(
                alignment >= 1 && alignment <= 256 && Integer.bitCount(alignment) == 1,
                "moe_dispatch: alignment",
                alignment,
                "a power of two, 1..256");
        Arguments.require(
                channel >= 0 && channel < group.channels(),
                "moe_dispatch: channel",
                channel,
                "0.." + (group.channels() - 1));
        Arguments.require(
                !reuse || layout == MoeLayout.RANK, "moe_dispatch: reuse", reuse, "false in the EXPERT layout");
        Arguments.require(maxTokens(group, mode) > 0, "moe_dispatch: mode", mode, "one that the group has tokens for");
    }

    static int maxTokens(final ExpertGroupSpec group, final MoeMode mode) {
        return mode == MoeMode.LATENCY ? group.latencyTokens() : group.maxTokens();
    }

    /**
     * {@return a throughput call into the group's buffers}
     *
     * @param group the group's spec
     * @param inDType type of the tokens' rows
     */
    public static DispatchSpec of(final ExpertGroupSpec group, final DType inDType) {
        return new DispatchSpec(group, MoeMode.THROUGHPUT, MoeLayout.RANK, MoeHalf.WHOLE, inDType, 128, 0, false);
    }

    /**
     * {@return a latency call}
     *
     * @param group the group's spec
     * @param inDType type of the tokens' rows
     */
    public static DispatchSpec latency(final ExpertGroupSpec group, final DType inDType) {
        return new DispatchSpec(group, MoeMode.LATENCY, MoeLayout.EXPERT, MoeHalf.WHOLE, inDType, 128, 0, false);
    }

    /** {@return this spec with another layout} */
    public DispatchSpec withLayout(final MoeLayout rows) {
        return new DispatchSpec(group, mode, rows, half, inDType, alignment, channel, reuse);
    }

    /** {@return this spec for a half of the call} */
    public DispatchSpec withHalf(final MoeHalf part) {
        return new DispatchSpec(group, mode, layout, part, inDType, alignment, channel, reuse);
    }

    /** {@return this spec with another alignment} */
    public DispatchSpec withAlignment(final int rows) {
        return new DispatchSpec(group, mode, layout, half, inDType, rows, channel, reuse);
    }

    /** {@return this spec on another channel} */
    public DispatchSpec withChannel(final int number) {
        return new DispatchSpec(group, mode, layout, half, inDType, alignment, number, reuse);
    }

    /** {@return this spec with the routing that the handle has} */
    public DispatchSpec withReuse(final boolean known) {
        return new DispatchSpec(group, mode, layout, half, inDType, alignment, channel, known);
    }

    /** {@return most tokens of a rank} */
    public int maxTokens() {
        return maxTokens(group, mode);
    }

    /** {@return whether rows are cast to FP8} */
    public boolean isCast() {
        return inDType != group.rowDType();
    }

    @Override
    public String operation() {
        return "moe_dispatch";
    }

    @Override
    public int smBudget() {
        return group.smBudget();
    }
}
