package io.hopper4j.safetensors;

import java.io.IOException;
import java.io.Serial;
import java.nio.file.Path;

/** A file that is not a well-formed safetensors file. The message names the file, the place in it, what was found and what is allowed there. */
public final class SafeTensorsException extends IOException {
    @Serial
    private static final long serialVersionUID = 1L;

    private final String file;
    private final String place;
    private final String got;
    private final String allowed;

    SafeTensorsException(final Path file, final String place, final String got, final String allowed) {
        super("safetensors: %s: %s: got %s, need %s".formatted(file, place, got, allowed));
        this.file = file.toString();
        this.place = place;
        this.got = got;
        this.allowed = allowed;
    }

    /** {@return the file as it was named when it was opened} */
    public String file() {
        return file;
    }

    /** {@return the place in the file: a byte offset, or a tensor's name and field} */
    public String place() {
        return place;
    }

    /** {@return what was found there} */
    public String got() {
        return got;
    }

    /** {@return what is allowed there} */
    public String allowed() {
        return allowed;
    }
}
