package io.hopper4j.moe;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * Which experts a token goes to and how much each counts (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
 *
 * <pre>
 * s      = sigmoid(logit), or the softmax of the token's logits
 * choice = s + bias
 * weight = s / (sum of the s that were taken + 1e-20) * scale      s * scale where not normalised
 * </pre>
 *
 * Experts lie in groups of neighbours. The {@code keptGroups} groups with the largest sum of their two best choices stay; of their experts the {@code topK}
 * best choices are taken, best first. Among equals the lower number comes first; NaN counts as larger than any number. A disabled expert is never taken and
 * makes no group better. Where too few experts are left, ids end in -1 with weights of 0.
 *
 * @param maxTokens tokens that tensors have room for; a launch may use fewer
 * @param experts routed experts
 * @param groups groups of experts, a divisor of {@code experts}
 * @param keptGroups groups that a token's experts may come from
 * @param topK experts of a token
 * @param logitsDType F32 or BF16
 * @param scores sigmoid or softmax
 * @param normalize whether the weights of a token sum to {@code scale}
 * @param scale what weights are multiplied by
 * @param addCounts whether counts are added to what the tensor holds, rather than begun at 0, by a launch of no tokens too
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record GateSpec(
        long maxTokens,
        int experts,
        int groups,
        int keptGroups,
        int topK,
        DType logitsDType,
        Scores scores,
        boolean normalize,
        float scale,
        boolean addCounts,
        int smBudget)
        implements OpSpec {
    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, groups do not divide the experts, more experts are to be taken
     *     than the kept groups have, the scale is not a finite number above 0, or the logits would hold 2^60 elements or more
     */
    public GateSpec {
        Objects.requireNonNull(logitsDType, "logitsDType");
        Objects.requireNonNull(scores, "scores");
        Arguments.require(maxTokens >= 0, "moe_gate: maxTokens", maxTokens, "at least 0");
        Arguments.require(experts >= 1, "moe_gate: experts", experts, "at least 1");
        Arguments.require(
                groups >= 1 && experts % groups == 0,
                "moe_gate: groups",
                groups,
                "a divisor of " + experts + " experts");
        Arguments.require(keptGroups >= 1 && keptGroups <= groups, "moe_gate: keptGroups", keptGroups, "1.." + groups);
        final int most = keptGroups * (experts / groups);
        Arguments.require(topK >= 1 && topK <= most, "moe_gate: topK", topK, "1.." + most);
        Arguments.require(scale > 0 && Float.isFinite(scale), "moe_gate: scale", scale, "a finite number above 0");
        Arguments.require(smBudget >= 0, "moe_gate: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("moe_gate: logits [maxTokens,experts]", maxTokens, experts);
    }

    /**
     * {@return a spec with one group, sigmoid scores of F32 logits, normalised weights that sum to 1, counts from 0, and all SMs}
     *
     * @param maxTokens most tokens
     * @param experts routed experts
     * @param topK experts of a token
     */
    public static GateSpec of(final long maxTokens, final int experts, final int topK) {
        return new GateSpec(maxTokens, experts, 1, 1, topK, DType.F32, Scores.SIGMOID, true, 1, false, 0);
    }

    /** {@return the gate of DeepSeek-V3: top 8 of 256 experts out of 4 of 8 groups, weights that sum to 2.5} */
    public static GateSpec deepSeekV3(final long maxTokens) {
        return of(maxTokens, 256, 8).withGroups(8, 4).withScale(2.5f);
    }

    /** {@return this spec with groups, of which some are kept} */
    public GateSpec withGroups(final int all, final int kept) {
        return new GateSpec(
                maxTokens, experts, all, kept, topK, logitsDType, scores, normalize, scale, addCounts, smBudget);
    }

    /** {@return this spec with logits of another type} */
    public GateSpec withLogits(final DType dtype) {
        return new GateSpec(
                maxTokens, experts, groups, keptGroups, topK, dtype, scores, normalize, scale, addCounts, smBudget);
    }

    /** {@return this spec with another kind of scores} */
    public GateSpec withScores(final Scores kind) {
        return new GateSpec(
                maxTokens, experts, groups, keptGroups, topK, logitsDType, kind, normalize, scale, addCounts, smBudget);
    }

    /** {@return this spec with weights that are normalised, or are not} */
    public GateSpec withNormalize(final boolean on) {
        return new GateSpec(
                maxTokens, experts, groups, keptGroups, topK, logitsDType, scores, on, scale, addCounts, smBudget);
    }

    /** {@return this spec with another scale of the weights} */
    public GateSpec withScale(final float factor) {
        return new GateSpec(
                maxTokens,
                experts,
                groups,
                keptGroups,
                topK,
                logitsDType,
                scores,
                normalize,
                factor,
                addCounts,
                smBudget);
    }

    /** {@return this spec with counts that are added to what is there, or are not} */
    public GateSpec withAddCounts(final boolean on) {
        return new GateSpec(
                maxTokens, experts, groups, keptGroups, topK, logitsDType, scores, normalize, scale, on, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public GateSpec withSmBudget(final int sms) {
        return new GateSpec(
                maxTokens, experts, groups, keptGroups, topK, logitsDType, scores, normalize, scale, addCounts, sms);
    }

    @Override
    public String operation() {
        return "moe_gate";
    }
}
