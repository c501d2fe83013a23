package io.hopper4j.moe;

import io.hopper4j.internal.Arguments;
import io.hopper4j.quant.ScaleKind;
import java.util.Objects;

/**
 * The experts of a mixture-of-experts layer on one device, from routed tokens to combined ones:
 *
 * <pre>
 * out[t] = sum over j of weights[t,j] * down[e] (silu(gate[e] q(x[t])) * (up[e] q(x[t])))  (+ residual[t]),   e = ids[t,j]
 * </pre>
 *
 * where q quantises to E4M3 in 1x128 blocks, as the input of the down projection is quantised too. Both products are rounded to BF16.
 *
 * @param maxTokens tokens that tensors have room for; a launch may use fewer
 * @param hidden values of a token, a multiple of 16
 * @param intermediate values between the projections, a multiple of 16
 * @param experts experts that ids name
 * @param topK ids of a token
 * @param scaleKind of both quantisations
 * @param residual whether rows are added to the sums
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record ExpertLayerSpec(
        long maxTokens,
        long hidden,
        long intermediate,
        int experts,
        int topK,
        ScaleKind scaleKind,
        boolean residual,
        int smBudget) {
    /**
     * Checks what no kernel could ever serve; opening a layer checks the rest.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one
     */
    public ExpertLayerSpec {
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(maxTokens >= 0, "expert_layer: maxTokens", maxTokens, "at least 0");
        Arguments.require(hidden >= 1, "expert_layer: hidden", hidden, "at least 1");
        Arguments.require(intermediate >= 1, "expert_layer: intermediate", intermediate, "at least 1");
        Arguments.require(experts >= 1, "expert_layer: experts", experts, "at least 1");
        Arguments.require(topK >= 1, "expert_layer: topK", topK, "at least 1");
        Arguments.require(smBudget >= 0, "expert_layer: smBudget", smBudget, "at least 0");
    }

    /**
     * {@return a spec with F32 scales, no residual, and all SMs}
     *
     * @param maxTokens most tokens
     * @param hidden values of a token
     * @param intermediate values between the projections
     * @param experts experts that ids name
     * @param topK ids of a token
     */
    public static ExpertLayerSpec of(
            final long maxTokens, final long hidden, final long intermediate, final int experts, final int topK) {
        return new ExpertLayerSpec(maxTokens, hidden, intermediate, experts, topK, ScaleKind.F32, false, 0);
    }

    /** {@return this spec with another kind of scales} */
    public ExpertLayerSpec withScaleKind(final ScaleKind kind) {
        return new ExpertLayerSpec(maxTokens, hidden, intermediate, experts, topK, kind, residual, smBudget);
    }

    /** {@return this spec with a residual, or without} */
    public ExpertLayerSpec withResidual(final boolean on) {
        return new ExpertLayerSpec(maxTokens, hidden, intermediate, experts, topK, scaleKind, on, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public ExpertLayerSpec withSmBudget(final int sms) {
        return new ExpertLayerSpec(maxTokens, hidden, intermediate, experts, topK, scaleKind, residual, sms);
    }
}
