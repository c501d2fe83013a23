package io.hopper4j.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.hopper4j.DType;
import io.hopper4j.Event;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.Support;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.SplittableRandom;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** What is particular to the reference: plain cases worked out by hand, sampling, and lifetimes without a GPU. */
final class ReferenceKernelsTest {
    private static final int M = 5;
    private static final int N = 136;
    private static final int K = 272;

    private final Arena arena = Arena.ofConfined();
    private final Kernels<HostTensor> kernels = Kernels.reference();
    private final Stream stream = kernels.openStream();
    private final Scaled<HostTensor> a = Scaled.activation(
            HostTensor.allocate(arena, DType.F8_E4M3, M, K),
            HostTensor.allocate(arena, Scaled.activationScaleSpec(M, K)));
    private final Scaled<HostTensor> b = Scaled.weight(
            HostTensor.allocate(arena, DType.F8_E4M3, N, K), HostTensor.allocate(arena, Scaled.weightScaleSpec(N, K)));
    private final HostTensor out = HostTensor.allocate(arena, DType.F32, M, N);

    ReferenceKernelsTest() {
        final SplittableRandom random = new SplittableRandom(5);
        fill(a.values(), random, 16);
        fill(b.values(), random, 16);
        fill(a.scales(), random, 1);
        fill(b.scales(), random, 1);
    }

    @AfterEach
    void close() {
        stream.close();
        kernels.close();
        arena.close();
    }

    private static void fill(final HostTensor tensor, final SplittableRandom random, final double size) {
        final float[] values = new float[(int) tensor.spec().elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) (size * random.nextGaussian());
        }
        tensor.setFloats(values);
    }

    /** The formula, one element at a time, through nothing but getFloat. */
    private double element(final int m, final int n) {
        double sum = 0;
        for (int k = 0; k < K; k++) {
            sum += (double) a.values().getFloat(m, k)
                    * b.values().getFloat(n, k)
                    * a.scales().getFloat(m, k / 128)
                    * b.scales().getFloat(n / 128, k / 128);
        }
        return sum;
    }

    @Test
    void multipliesAsTheFormulaSays() {
        kernels.gemm(a, b, out, stream);
        for (int m = 0; m < M; m++) {
            for (int n = 0; n < N; n++) {
                final double expected = element(m, n);
                assertThat((double) out.getFloat(m, n)).isCloseTo(expected, within(1e-6 * Math.abs(expected) + 1e-6));
            }
        }
    }

    private static Offset<Double> within(final double error) {
        return Offset.offset(error);
    }

    @Test
    void samplesWhatTheWholeProductHolds() {
        final HostTensor c = HostTensor.allocate(arena, DType.F32, M, N);
        fill(c, new SplittableRandom(6), 100);
        kernels.gemm(a, b, c, out, stream);
        final long[] rows = {4, 0, 2};
        final long[] columns = {0, 135, 127, 128, 64};
        final ProductSample sample = BlockScaledProduct.sample(a, b, c, rows, columns);
        assertThat(sample.rowCount()).isEqualTo(3);
        assertThat(sample.columnCount()).isEqualTo(5);
        for (int i = 0; i < rows.length; i++) {
            for (int j = 0; j < columns.length; j++) {
                assertThat((float) sample.value(i, j)).isEqualTo(out.getFloat(sample.row(i), sample.column(j)));
                double magnitude = Math.abs(c.getFloat(rows[i], columns[j]));
                for (int k = 0; k < K; k++) {
                    magnitude += Math.abs((double) a.values().getFloat(rows[i], k)
                            * b.values().getFloat(columns[j], k)
                            * a.scales().getFloat(rows[i], k / 128)
                            * b.scales().getFloat(columns[j] / 128, k / 128));
                }
                assertThat(sample.magnitude(i, j)).isCloseTo(magnitude, within(1e-9 * magnitude));
            }
        }
    }

    @Test
    void leavesRowsBeyondTheLaunchAlone() {
        out.setFloats(filled(-7));
        try (GemmPlan<HostTensor> plan = kernels.plan(GemmSpec.of(M, N, K).withOut(DType.F32));
                GemmLaunch<HostTensor> launch = plan.bind(a, b, out, null)) {
            launch.launch(stream, 0);
            assertThat(out.toFloats()).containsOnly(-7f);
            launch.launch(stream, 2);
            assertThat((double) out.getFloat(1, 7)).isCloseTo(element(1, 7), within(1e-3));
            assertThat(out.slice(0, 2, M).toFloats()).containsOnly(-7f);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> launch.launch(stream, M + 1))
                    .withMessage("gemm: rows: got 6, need 0..5, the rows bound");
        }
    }

    private static float[] filled(final float value) {
        final float[] values = new float[M * N];
        Arrays.fill(values, value);
        return values;
    }

    @Test
    void keepsCapturedWorkAndRunsItWhenLaunched() {
        out.setFloats(filled(-7));
        try (GemmPlan<HostTensor> plan = kernels.plan(GemmSpec.of(M, N, K).withOut(DType.F32))) {
            final GemmLaunch<HostTensor> launch = plan.bind(a, b, out, null);
            final Graph graph = stream.capture(launch::launch);
            assertThat(out.toFloats()).containsOnly(-7f);
            assertThatIllegalStateException().isThrownBy(plan::close).withMessageContaining("gemm launch");
            assertThatIllegalStateException().isThrownBy(kernels::close).withMessageContaining("gemm plan");
            launch.close();
            graph.launch(stream);
            assertThat((double) out.getFloat(3, 99)).isCloseTo(element(3, 99), within(1e-3));
            graph.close();
            assertThatIllegalStateException().isThrownBy(() -> graph.launch(stream));
            launch.close();
            assertThatIllegalStateException()
                    .isThrownBy(() -> launch.launch(stream))
                    .withMessage("gemm launch: got a closed one, need an open one");
        }
    }

    @Test
    void endsACaptureWhoseBodyThrows() {
        final IllegalArgumentException thrown = new IllegalArgumentException("from the body");
        assertThatThrownBy(() -> stream.capture(_ -> {
                    throw thrown;
                }))
                .isSameAs(thrown);
        kernels.gemm(a, b, out, stream);
        assertThat((double) out.getFloat(0, 0)).isCloseTo(element(0, 0), within(1e-3));
    }

    @Test
    void refusesToWaitForAStreamBeingCaptured() {
        assertThatIllegalStateException().isThrownBy(() -> stream.capture(Stream::synchronize));
        assertThatIllegalStateException().isThrownBy(() -> stream.capture(Stream::close));
        stream.synchronize();
    }

    @Test
    void givesEventsThatAreReached() {
        try (Event first = stream.record();
                Event second = stream.record()) {
            stream.await(first);
            assertThat(second.isReached()).isTrue();
            assertThat(second.elapsedSince(first).isNegative()).isFalse();
            assertThat(first.toCompletionStage().toCompletableFuture()).isCompleted();
        }
        final Event closed = stream.record();
        closed.close();
        assertThatIllegalStateException().isThrownBy(closed::isReached);
        assertThat(closed.toCompletionStage().toCompletableFuture()).isCompletedExceptionally();
        assertThatExceptionOfType(UnsupportedOperationException.class).isThrownBy(stream::handle);
    }

    @Test
    void namesEveryUnmetNeed() {
        final GemmSpec spec = GemmSpec.of(1, 12, 24).withOut(DType.F16);
        assertThat(kernels.support(spec))
                .isInstanceOfSatisfying(
                        Support.Unsupported.class,
                        unsupported -> assertThat(unsupported.reasons()).hasSize(3));
        assertThatExceptionOfType(UnsupportedKernelException.class)
                .isThrownBy(() -> kernels.plan(spec))
                .withMessageContaining("gemm: n: got 12, need a multiple of 8");
        assertThat(kernels.support(GemmSpec.of(1, 8, 16)).isSupported()).isTrue();
    }

    @Test
    void refusesUseAfterClose() {
        final Kernels<HostTensor> closed = Kernels.reference();
        final Stream itsStream = closed.openStream();
        closed.close();
        closed.close();
        assertThatIllegalStateException().isThrownBy(() -> closed.plan(GemmSpec.of(1, 8, 16)));
        itsStream.close();
        assertThatIllegalStateException().isThrownBy(itsStream::synchronize);
        assertThatIllegalStateException().isThrownBy(() -> kernels.gemm(a, b, out, itsStream));
        kernels.gemm(a, b, out, stream);
    }

    /** The calling thread alone touches tensors: a confined arena is fine however the work is spread. */
    @Test
    void quantizesTensorsOfAConfinedArena() {
        final HostTensor in = HostTensor.allocate(arena, DType.F32, 300, 256);
        fill(in, new SplittableRandom(8), 3);
        final Scaled<HostTensor> result = Scaled.activation(
                HostTensor.allocate(arena, DType.F8_E4M3, 300, 256),
                HostTensor.allocate(arena, Scaled.activationScaleSpec(300, 256)));
        kernels.quantize(in, ScaleKind.F32, result, stream);
        final HostTensor back = HostTensor.allocate(arena, TensorSpec.packed(DType.F32, 300, 256));
        kernels.dequantize(result, back, stream);
        for (int i = 0; i < 300; i += 7) {
            for (int j = 0; j < 256; j += 5) {
                // Half a step of E4M3: 2^-4 of the value, or of the smallest normal number 2^-6 of the block's scale.
                final double bound = Math.abs(in.getFloat(i, j)) * 0x1p-4
                        + 0x1p-10 * result.scales().getFloat(i, j / 128);
                assertThat((double) back.getFloat(i, j)).isCloseTo(in.getFloat(i, j), within(bound * 1.001));
            }
        }
    }
}
