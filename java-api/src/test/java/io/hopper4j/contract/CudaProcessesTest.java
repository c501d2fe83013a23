package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Two JVMs on one GPU: each gets right results while the other works, and when the other is killed in the middle of it. */
@Tag("gpu")
final class CudaProcessesTest {
    private static final int ROUNDS = 100;

    /** Prints a checksum of the product, round after round; without an argument until it is killed. */
    static final class Program {
        private Program() {}

        public static void main(final String[] args) {
            try (Products products = new Products()) {
                for (int i = 0; args.length == 0 || i < Integer.parseInt(args[0]); i++) {
                    System.out.println(products.checksum());
                }
            }
        }
    }

    /** The same product in every process. */
    private static final class Products implements AutoCloseable {
        private final CudaBackend backend = new CudaBackend();
        private final Scaled<DeviceTensor> a = operand(Scaling.ACTIVATION_1X128, 300, 41);
        private final Scaled<DeviceTensor> b = operand(Scaling.WEIGHT_128X128, 1024, 42);

        private Scaled<DeviceTensor> operand(final Scaling scaling, final long rows, final long seed) {
            final Scaled<HostTensor> matrix = Data.quantized(backend.host, scaling, rows, 1024, seed);
            return backend.put(matrix);
        }

        int checksum() {
            final DeviceTensor out = backend.filled(TensorSpec.packed(DType.BF16, 300, 1024), Float.NaN);
            backend.kernels().gemm(a, b, out, backend.stream());
            return Arrays.hashCode(Expected.bits(backend.get(out)));
        }

        @Override
        public void close() {
            backend.close();
        }
    }

    @Test
    void shouldWorkBesideAnotherProcess() throws IOException, InterruptedException {
        final Process other = OtherJvm.start(Program.class, Integer.toString(ROUNDS));
        try (Products products = new Products();
                BufferedReader lines = other.inputReader(StandardCharsets.UTF_8)) {
            final String expected = Integer.toString(products.checksum());
            for (int i = 0; i < ROUNDS; i++) {
                assertThat(products.checksum()).hasToString(expected);
                assertThat(lines.readLine()).isEqualTo(expected);
            }
            assertThat(lines.readLine()).isNull();
            assertThat(other.waitFor()).isZero();
        } finally {
            other.destroyForcibly();
        }
    }

    @Test
    void shouldSurviveTheKillOfAnotherProcess() throws IOException, InterruptedException {
        final Process other = OtherJvm.start(Program.class);
        try (Products products = new Products();
                BufferedReader lines = other.inputReader(StandardCharsets.UTF_8)) {
            final int expected = products.checksum();
            assertThat(lines.readLine()).isEqualTo(Integer.toString(expected));
            for (int i = 0; i < ROUNDS; i++) {
                if (i == ROUNDS / 2) {
                    other.destroyForcibly();
                }
                assertThat(products.checksum()).isEqualTo(expected);
            }
            assertThat(other.waitFor(10, TimeUnit.SECONDS)).isTrue();
            assertThat(products.checksum()).isEqualTo(expected);
        } finally {
            other.destroyForcibly();
        }
    }
}
