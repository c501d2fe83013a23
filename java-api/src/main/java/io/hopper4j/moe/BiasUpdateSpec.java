package io.hopper4j.moe;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;

/**
 * A step of the gate's bias against the load (arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437, section 2.1.2): {@code bias[e] -= step} where an expert's
 * count is above the mean of all counts, {@code bias[e] += step} where it is below, compared exactly. A launch of 0 rows does nothing, of 1 row all.
 *
 * @param experts routed experts
 * @param step how far a bias moves
 * @param clearCounts whether counts are 0 afterwards
 * @param smBudget one SM is used whatever this is
 */
public record BiasUpdateSpec(int experts, float step, boolean clearCounts, int smBudget) implements OpSpec {
    /**
     * Checks what no kernel could ever serve.
     *
     * @throws IllegalArgumentException if there are no experts, or the step is negative or not finite
     */
    public BiasUpdateSpec {
        Arguments.require(experts >= 1, "moe_bias_update: experts", experts, "at least 1");
        Arguments.require(
                step >= 0 && Float.isFinite(step), "moe_bias_update: step", step, "a finite number, at least 0");
        Arguments.require(smBudget >= 0, "moe_bias_update: smBudget", smBudget, "at least 0");
    }

    /** {@return a spec that clears the counts} */
    public static BiasUpdateSpec of(final int experts, final float step) {
        return new BiasUpdateSpec(experts, step, true, 0);
    }

    /** {@return this spec with counts that are cleared, or are not} */
    public BiasUpdateSpec withClearCounts(final boolean on) {
        return new BiasUpdateSpec(experts, step, on, smBudget);
    }

    @Override
    public String operation() {
        return "moe_bias_update";
    }
}
