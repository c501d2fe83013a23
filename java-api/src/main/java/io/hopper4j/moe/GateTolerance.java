package io.hopper4j.moe;

/**
 * How far a gate may be from the exact one over the same logits and biases, in one place.
 *
 * <pre>
 * ids        equal, wherever no two numbers that the choice compares are within 2^-19 of each other unless equal
 * |w - ref| &lt;= 2^-17 |ref|        where the ids are equal
 * </pre>
 *
 * <p><b>Where the figures come from.</b> Scores are F32: an exponential of two units, of an argument that rounding moves by up to 2^-24 of logits around 16 in
 * size, a sum of up to 1024 terms, and two divisions stay below 2^-18 of a score. Where a score is near 1, which is what matters to a choice, its argument is
 * small or its exponential is, and it is off by at most 2^-22; two sums of two such choices that are farther apart than 2^-19 keep their order.
 */
public final class GateTolerance {
    /** Numbers at least so far apart are told apart by any correct gate. */
    public static final double LEAST_MARGIN = 0x1p-19;
    /** What a weight may be off, relative to itself. */
    public static final double WEIGHT_RELATIVE = 0x1p-17;

    private long choices;
    private long unclear;
    private long differingIds;
    private double worstRatio;

    /** A measure to which choices are added. */
    public GateTolerance() {}

    /**
     * Adds one of a token's choices.
     *
     * @param id what the kernel chose
     * @param weight what the kernel gave it
     * @param expectedId the exact choice
     * @param expectedWeight the exact weight
     * @param margin the least distance of two different numbers that the token's exact choices compared; below {@link #LEAST_MARGIN} they are only counted
     */
    public void add(
            final int id, final double weight, final int expectedId, final double expectedWeight, final double margin) {
        choices++;
        if (margin < LEAST_MARGIN) {
            unclear++;
        } else if (id != expectedId) {
            differingIds++;
        } else {
            final double error = Math.abs(weight - expectedWeight);
            // NaN stays the largest once it is there; a weight of 0 must be 0.
            worstRatio = Math.max(worstRatio, error == 0 ? 0 : error / (WEIGHT_RELATIVE * Math.abs(expectedWeight)));
        }
    }

    /** {@return what the choices added so far amount to} */
    public Result result() {
        return new Result(choices, unclear, differingIds, worstRatio, differingIds == 0 && worstRatio <= 1);
    }

    /**
     * The error of a gate.
     *
     * @param choices how many choices were added
     * @param unclear how many of them were too close to tell
     * @param differingIds ids that differ in the others
     * @param worstRatio largest |w - ref| / bound; at most 1 for a correct gate
     * @param withinBounds whether no id differs and the bound holds
     */
    public record Result(long choices, long unclear, long differingIds, double worstRatio, boolean withinBounds) {}
}
