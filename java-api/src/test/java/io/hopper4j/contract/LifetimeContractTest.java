package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.testing.Fuzz;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.Function;
import org.junit.jupiter.api.Test;

/** Closing in every order, from every thread, again and again; see {@link LifetimeStress}. */
abstract class LifetimeContractTest<T extends Tensor> {
    private static final int THREADS = 8;

    private final Kernels<T> kernels;
    private final Function<Stream, LifetimeStress.Owner<T>> memory;

    LifetimeContractTest(final Kernels<T> kernels, final Function<Stream, LifetimeStress.Owner<T>> memory) {
        this.kernels = kernels;
        this.memory = memory;
    }

    private void stress(final long calls, final ExecutorService executor) throws InterruptedException {
        try (executor) {
            final LifetimeStress.Counts counts = new LifetimeStress<>(kernels, memory).run(calls, THREADS, executor);
            assertThat(counts.done() + counts.refused()).isEqualTo(calls / THREADS * THREADS);
            assertThat(counts.done()).as("calls that were done, not refused").isGreaterThan(calls / 2);
        }
        kernels.close();
    }

    @Test
    void shouldSurviveRandomCallsOnEightThreads() throws InterruptedException {
        stressOnPlatformThreads();
    }

    final void stressOnPlatformThreads() throws InterruptedException {
        stress(Fuzz.times(100_000), Executors.newFixedThreadPool(THREADS));
    }

    @Test
    void shouldSurviveRandomCallsOnVirtualThreads() throws InterruptedException {
        stress(Fuzz.times(20_000), Executors.newVirtualThreadPerTaskExecutor());
    }

    /** Memory that is never given back is found by the stress. */
    @Test
    void shouldCatchPlantedFaults() {
        final LifetimeStress<T> stress =
                new LifetimeStress<>(kernels, stream -> new Unclosable<>(memory.apply(stream)));
        assertThatExceptionOfType(AssertionError.class)
                .isThrownBy(() -> stress.cycle(0))
                .withMessageStartingWith("cannot be closed: ");
    }

    private record Unclosable<T extends Tensor>(LifetimeStress.Owner<T> owner) implements LifetimeStress.Owner<T> {
        @Override
        public T allocate(final TensorSpec spec) {
            return owner.allocate(spec);
        }

        @Override
        public void close() {
            throw new IllegalStateException("planted: got open [something], need it closed before");
        }
    }

    /** Memory of the device; 0 where there is none. */
    long deviceBytesInUse() {
        return 0;
    }

    /**
     * A leak grows in every part of the run, whereas the compilers' and the collector's own memory grows in some: the
     * growth of the middle part is judged. A leak of 8 KB a cycle would show as 16 MB.
     */
    @Test
    void shouldStayFlatOverTenThousandCycles() throws IOException {
        final LifetimeStress<T> stress = new LifetimeStress<>(kernels, memory);
        final int parts = 6;
        final int cycles = 2_000;
        final long[] heap = new long[parts];
        final long[] resident = new long[parts];
        final long[] device = new long[parts];
        for (int part = 0; part < parts; part++) {
            for (int turn = 0; turn < cycles; turn++) {
                stress.cycle(part * cycles + turn);
            }
            heap[part] = heapAfterCollection();
            resident[part] = resident();
            device[part] = deviceBytesInUse();
        }
        assertThat(medianGrowth(heap))
                .as("growth of what is alive in the Java heap %s", Arrays.toString(heap))
                .isLessThan(1 << 20);
        assertThat(medianGrowth(resident))
                .as("growth of the process %s", Arrays.toString(resident))
                .isLessThan(16 << 20);
        assertThat(medianGrowth(device))
                .as("growth of device memory %s", Arrays.toString(device))
                .isLessThan(1 << 20);
        kernels.close();
    }

    /** The growth from one value to the next, the middle one of all; the first value is the state after warming up. */
    private static long medianGrowth(final long[] values) {
        final long[] growth = new long[values.length - 1];
        for (int part = 0; part < growth.length; part++) {
            growth[part] = values[part + 1] - values[part];
        }
        Arrays.sort(growth);
        return growth[growth.length / 2];
    }

    private static long heapAfterCollection() {
        System.gc();
        return Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
    }

    private static long resident() throws IOException {
        return 4096
                * Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ", -1)[1]);
    }
}
