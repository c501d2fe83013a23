package io.hopper4j.testing;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

/** What became of the calls of a random test: how many were right, and how many were refused, by kind. */
public final class Tally {
    private final String test;
    private final Map<String, Long> refused = new TreeMap<>();
    private long right;

    /** @param test what is counted */
    public Tally(final String test) {
        this.test = test;
    }

    /** Counts a call whose result was right. */
    public void addRight() {
        right++;
    }

    /** Counts a call that was refused as documented. */
    public void addRefused(final String kind) {
        refused.merge(kind, 1L, Long::sum);
    }

    /** {@return how many results were right} */
    public long right() {
        return right;
    }

    /** {@return how many calls were refused} */
    public long refused() {
        return refused.values().stream().mapToLong(Long::longValue).sum();
    }

    /** {@return how many calls of a kind were refused} */
    public long refused(final String kind) {
        return refused.getOrDefault(kind, 0L);
    }

    /**
     * Runs a test in which nobody may print.
     *
     * @throws AssertionError if something was printed
     */
    @SuppressWarnings("DefaultCharset") // what a program prints by default is what is looked for
    public static void quietly(final Runnable test) {
        final PrintStream out = System.out;
        final PrintStream err = System.err;
        final ByteArrayOutputStream printed = new ByteArrayOutputStream();
        try (PrintStream kept = new PrintStream(printed, true, StandardCharsets.UTF_8)) {
            System.setOut(kept);
            System.setErr(kept);
            test.run();
        } finally {
            System.setOut(out);
            System.setErr(err);
        }
        if (printed.size() > 0) {
            throw new AssertionError("printed: " + printed.toString(StandardCharsets.UTF_8));
        }
    }

    /** Prints the seed and the counts. */
    public void print() {
        System.out.println("fuzz of " + test + ", hopper4j.fuzz.seed=" + Fuzz.seed() + ": " + (right() + refused())
                + " calls, " + right + " right, " + refused() + " refused: "
                + refused.entrySet().stream()
                        .map(kind -> kind.getKey() + " " + kind.getValue())
                        .collect(Collectors.joining(", ")));
    }
}
