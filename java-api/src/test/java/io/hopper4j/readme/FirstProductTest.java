package io.hopper4j.readme;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The program on the README's first screen compiles, because it is this package's, and does what its comments say. */
class FirstProductTest {
    /** Where Maven runs a module's tests: beside its pom. */
    private static final Path ROOT = Path.of("").toAbsolutePath().getParent();

    @Test
    @Tag("build")
    void shouldStandInTheReadme() throws IOException {
        final String program =
                Files.readString(ROOT.resolve("java-api/src/test/java/io/hopper4j/readme/FirstProduct.java"));
        final String body = program.substring(program.indexOf("import "));
        assertThat(Files.readString(ROOT.resolve("README.md"))).contains("```java\n" + body + "```");
    }

    @Test
    @Tag("gpu")
    void shouldPrintTheProduct() {
        final PrintStream console = System.out;
        final ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            FirstProduct.main();
        } finally {
            System.setOut(console);
        }
        assertThat(printed.toString(StandardCharsets.UTF_8)).isEqualTo("-6.0\n");
    }
}
