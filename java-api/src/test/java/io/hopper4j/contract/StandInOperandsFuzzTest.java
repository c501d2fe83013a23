package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.testing.Fuzz;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/**
 * Random operands of the CUDA kernels where there is no GPU: in a process whose driver is a stand-in, which copies and allocates, and runs no kernel. What is
 * refused, and how, is then the same as on a GPU.
 */
@Tag("build")
final class StandInOperandsFuzzTest {
    /** The random calls, in a process that the stand-in is loaded into. */
    static final class Program {
        private Program() {}

        public static void main(final String[] args) {
            new CudaOperandsFuzzTest().fuzz();
        }
    }

    @Test
    void shouldRefuseOnAStandInDriverToo() throws IOException, InterruptedException {
        assertThat(run(Program.class)).startsWith("fuzz of operands of the CUDA kernels");
    }

    /** {@return what a program prints that runs on the stand-in driver, and ends well} */
    static String run(final Class<?> program) throws IOException, InterruptedException {
        final String library = System.getProperty("hopper4j.library");
        assumeTrue(library != null, "the native library has not been built");
        final Path standIn = Path.of(String.valueOf(library)).resolveSibling("stand_in");
        assumeTrue(
                Files.exists(standIn.resolve("libhopper4j.so")), "the library has not been built on a stand-in driver");
        final ProcessBuilder java = new ProcessBuilder(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-Xmx1g",
                "-Dhopper4j.library=" + standIn.resolve("libhopper4j.so"),
                "-Dhopper4j.fuzz.seed=" + Fuzz.seed(),
                "-Dhopper4j.fuzz.factor=" + Fuzz.times(1),
                "-cp",
                System.getProperty("java.class.path"),
                program.getName()));
        java.environment().put("LD_LIBRARY_PATH", standIn.toString());
        final Process process = java.redirectErrorStream(true).start();
        final String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        System.out.print(out);
        assertThat(process.waitFor()).as(out).isZero();
        return out;
    }
}
