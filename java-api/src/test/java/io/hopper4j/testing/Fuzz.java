package io.hopper4j.testing;

import java.util.SplittableRandom;

/** Seeds and amounts of the random tests, which system properties set. */
public final class Fuzz {
    private Fuzz() {}

    /** {@return the seed: {@code hopper4j.fuzz.seed}, or always the same one} */
    public static long seed() {
        return Long.getLong("hopper4j.fuzz.seed", 20261125);
    }

    /** {@return random numbers for a round, which messages name} */
    public static SplittableRandom random(final long round) {
        return new SplittableRandom(seed() + round);
    }

    /** {@return how often to do what is done {@code usually} times: {@code hopper4j.fuzz.factor} times as often, such as 10} */
    public static long times(final long usually) {
        return usually * Long.getLong("hopper4j.fuzz.factor", 1);
    }
}
