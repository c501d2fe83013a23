package io.hopper4j;

import java.io.Serializable;
import java.util.List;
import java.util.stream.Collectors;

/** The native library could not be loaded. Lists every place that was tried and what happened there. */
public final class NativeLibraryException extends KernelException {
    private static final long serialVersionUID = 1L;

    private final Attempt[] attempts;

    /**
     * Made by the library.
     *
     * @param attempts what was tried, in order
     */
    public NativeLibraryException(final List<Attempt> attempts) {
        super(attempts.stream()
                .map(Attempt::toString)
                .collect(Collectors.joining("\n  ", "libhopper4j could not be loaded:\n  ", "")));
        this.attempts = attempts.toArray(Attempt[]::new);
    }

    /** {@return what was tried, in order} */
    public List<Attempt> attempts() {
        return List.of(attempts);
    }

    /**
     * One place where the library was looked for.
     *
     * @param source what named the place, such as {@code system property hopper4j.library}
     * @param place the path, or what stands for it
     * @param outcome what happened, in the words of the loader
     */
    public record Attempt(String source, String place, String outcome) implements Serializable {
        /** {@return one line of the message} */
        @Override
        public String toString() {
            return source + ": " + place + ": " + outcome;
        }
    }
}
