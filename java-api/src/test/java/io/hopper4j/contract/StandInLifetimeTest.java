package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Lifetimes of the CUDA implementation where there is no GPU: the stand-in driver counts what a driver would not stand, such as destroyed objects. */
@Tag("build")
final class StandInLifetimeTest {
    /** The random calls, in a process that the stand-in is loaded into. */
    @SuppressWarnings("restricted")
    static final class Program {
        private Program() {}

        public static void main(final String[] args) throws Throwable {
            final CudaLifetimeTest test = new CudaLifetimeTest();
            test.stressOnPlatformThreads();
            try (Arena arena = Arena.ofConfined()) {
                final SymbolLookup driver = SymbolLookup.libraryLookup("libcuda.so.1", arena);
                final long misuses = (long) Linker.nativeLinker()
                        .downcallHandle(
                                driver.findOrThrow("h4j_stand_in_misuses"),
                                FunctionDescriptor.of(ValueLayout.JAVA_LONG))
                        .invokeExact();
                System.out.println("calls that a driver refuses: " + misuses);
            }
        }
    }

    @Test
    void shouldSurviveRandomCallsOnAStandInDriver() throws Exception {
        assertThat(StandInOperandsFuzzTest.run(Program.class)).contains("calls that a driver refuses: 0");
    }
}
