package io.hopper4j.moe;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * The way back: {@code out[t]} is the sum over ranks, in rank order, of the rank's partial row of token t, plus {@code residual[t]} where there is one;
 * summed in F32, rounded once to BF16.
 *
 * <p>In {@link MoeLayout#RANK} the partial rows stand in {@link GroupBuffers#partials}. In {@link MoeLayout#EXPERT} a rank's partial row is the sum over k of
 * {@code weights[t][k] * x[row of (t, k)]} in F32, rounded to BF16; this rank's own part is not rounded, and is the first in the sum.
 *
 * @param group the group's spec
 * @param mode throughput or latency, as dispatch had it
 * @param layout as dispatch had it
 * @param half the whole call, or a half of it
 * @param residual whether there are rows to add
 * @param channel the channel
 */
public record CombineSpec(
        ExpertGroupSpec group, MoeMode mode, MoeLayout layout, MoeHalf half, boolean residual, int channel)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve.
     *
     * @throws IllegalArgumentException if a combination makes no sense
     */
    public CombineSpec {
        Objects.requireNonNull(group, "group");
        Objects.requireNonNull(mode, "mode");
        Objects.requireNonNull(layout, "layout");
        Objects.requireNonNull(half, "half");
        Arguments.require(
                mode == MoeMode.THROUGHPUT || layout == MoeLayout.EXPERT,
                "moe_combine: layout",
                layout,
                "EXPERT for latency calls");
        Arguments.require(
                channel >= 0 && channel < group.channels(),
                "moe_combine: channel",
                channel,
                "0.." + (group.channels() - 1));
        Arguments.require(
                DispatchSpec.maxTokens(group, mode) > 0,
                "moe_combine: mode",
                mode,
                "one that the group has tokens for");
    }

    /**
     * {@return the way back from a dispatch, without residual rows}
     *
     * @param dispatch the call whose handle combine is given
     */
    public static CombineSpec of(final DispatchSpec dispatch) {
        return new CombineSpec(
                dispatch.group(), dispatch.mode(), dispatch.layout(), MoeHalf.WHOLE, false, dispatch.channel());
    }

    /** {@return this spec with or without rows to add} */
    public CombineSpec withResidual(final boolean added) {
        return new CombineSpec(group, mode, layout, half, added, channel);
    }

    /** {@return this spec for a half of the call} */
    public CombineSpec withHalf(final MoeHalf part) {
        return new CombineSpec(group, mode, layout, part, residual, channel);
    }

    /** {@return most tokens of a rank} */
    public int maxTokens() {
        return DispatchSpec.maxTokens(group, mode);
    }

    @Override
    public String operation() {
        return "moe_combine";
    }

    @Override
    public int smBudget() {
        return group.smBudget();
    }
}
