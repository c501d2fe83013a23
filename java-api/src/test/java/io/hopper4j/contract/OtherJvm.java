package io.hopper4j.contract;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Another JVM with the class path and library of this one. */
final class OtherJvm {
    private OtherJvm() {}

    /** Starts a program; what it writes to its error stream is written to this JVM's. */
    static Process start(final Class<?> program, final String... args) throws IOException {
        final List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED"));
        final String library = System.getProperty("hopper4j.library");
        if (library != null) { // else the other process finds it where this one did
            command.add("-Dhopper4j.library=" + library);
        }
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), program.getName()));
        command.addAll(List.of(args));
        return new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
    }
}
