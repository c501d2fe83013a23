package io.hopper4j.contract;

import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import java.util.List;
import java.util.SplittableRandom;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Merging results of attention over disjoint sets of keys. */
abstract class MlaMergeContractTest<T extends Tensor> {
    private static final int BATCH = 5;
    private static final int TOKENS = 3;
    private static final int HEADS = 7;
    private static final float NONE = Float.POSITIVE_INFINITY;

    private final Backend<T> backend;

    MlaMergeContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    private static TensorSpec outSpec(final DType dtype) {
        return TensorSpec.packed(dtype, BATCH, TOKENS, HEADS, VALUE_DIM);
    }

    private static TensorSpec lseSpec() {
        return TensorSpec.packed(DType.F32, BATCH, HEADS, TOKENS);
    }

    /** Parts with keys, without, and with sums far apart; outputs of parts without keys hold NaN. */
    private MlaResult<HostTensor> part(final DType dtype, final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final HostTensor out = HostTensor.allocate(backend.host, outSpec(dtype));
        final HostTensor lse = HostTensor.allocate(backend.host, lseSpec());
        final float[] row = new float[VALUE_DIM];
        for (int i = 0; i < BATCH * TOKENS * HEADS; i++) {
            final boolean empty = random.nextInt(4) == 0;
            for (int d = 0; d < VALUE_DIM; d++) {
                row[d] = empty ? Float.NaN : (float) random.nextGaussian();
            }
            final int request = i / (TOKENS * HEADS);
            final int token = i / HEADS % TOKENS;
            final int head = i % HEADS;
            out.select(0, request).select(0, token).select(0, head).setFloats(row);
            final double spread = random.nextInt(5) == 0 ? 200 : 2;
            lse.setFloat(empty ? NONE : (float) (spread * random.nextGaussian()), request, head, token);
        }
        return new MlaResult<>(out, lse);
    }

    private MlaResult<T> put(final MlaResult<HostTensor> result) {
        return new MlaResult<>(backend.put(result.out()), backend.put(result.lse()));
    }

    @ParameterizedTest
    @CsvSource({"BF16,false,20261126", "BF16,true,20261127", "F32,false,20261128", "F32,true,20261129"})
    void shouldWeighPartsByTheirSums(final DType dtype, final boolean inPlace, final long seed) {
        final MlaResult<HostTensor> a = part(dtype, seed);
        final MlaResult<HostTensor> b = part(dtype, seed + 100);
        final MlaResult<T> there = put(b);
        final MlaResult<T> merged =
                inPlace ? there : new MlaResult<>(backend.filled(outSpec(dtype), -77), backend.filled(lseSpec(), -77));

        backend.kernels().mlaMerge(put(a), there, merged, backend.stream());

        final HostTensor out = backend.get(merged.out());
        final HostTensor lse = backend.get(merged.lse());
        for (int i = 0; i < BATCH * TOKENS * HEADS; i++) {
            final int request = i / (TOKENS * HEADS);
            final int token = i / HEADS % TOKENS;
            final int head = i % HEADS;
            final float lseA = a.lse().getFloat(request, head, token);
            final float lseB = b.lse().getFloat(request, head, token);
            final float[] valuesA = row(a.out(), request, token, head);
            final float[] valuesB = row(b.out(), request, token, head);
            final double largest = Math.max(lseA == NONE ? -NONE : lseA, lseB == NONE ? -NONE : lseB);
            final double expA = lseA == NONE ? 0 : Math.exp(lseA - largest);
            final double expB = lseB == NONE ? 0 : Math.exp(lseB - largest);
            final float[] got = row(out, request, token, head);
            final float gotLse = lse.getFloat(request, head, token);
            if (expA + expB == 0) {
                assertThat(gotLse).isEqualTo(NONE);
                assertThat(got).containsOnly(0f);
            } else {
                final double expected = largest + Math.log(expA + expB);
                assertThat((double) gotLse).isCloseTo(expected, Offset.offset(1e-6 * (1 + Math.abs(expected))));
                for (int d = 0; d < VALUE_DIM; d++) {
                    final double value =
                            ((expA == 0 ? 0 : expA * valuesA[d]) + (expB == 0 ? 0 : expB * valuesB[d])) / (expA + expB);
                    final double bound = dtype == DType.BF16 ? Math.abs(value) / 256 + 1e-6 : 4e-6;
                    assertThat((double) got[d]).isCloseTo(value, Offset.offset(bound));
                }
            }
        }
    }

    private static float[] row(final HostTensor out, final int request, final int token, final int head) {
        return out.select(0, request).select(0, token).select(0, head).toFloats();
    }

    @Test
    void shouldWriteOnlyRequestsInUse() {
        final MlaResult<T> a = put(part(DType.F32, 1));
        final MlaResult<T> b = put(part(DType.F32, 2));
        final MlaResult<T> merged =
                new MlaResult<>(backend.filled(outSpec(DType.F32), -77), backend.filled(lseSpec(), -77));
        try (MlaMergePlan<T> plan = backend.kernels().plan(MlaMergeSpec.of(DType.F32, HEADS, TOKENS, BATCH));
                MlaMergeLaunch<T> launch = plan.bind(a, b, merged)) {
            launch.launch(backend.stream(), 0);
            assertThat(backend.get(merged.lse()).toFloats()).containsOnly(-77f);
            launch.launch(backend.stream(), 2);
            final HostTensor lse = backend.get(merged.lse());
            assertThat(lse.slice(0, 0, 2).toFloats()).doesNotContain(-77f);
            assertThat(lse.slice(0, 2, BATCH).toFloats()).containsOnly(-77f);
            assertThat(backend.get(merged.out()).slice(0, 2, BATCH).toFloats()).containsOnly(-77f);
            // The same launch with the parts exchanged gives the same.
            final float[] before = lse.toFloats();
            launch.rebind(b, a, merged);
            launch.launch(backend.stream(), 2);
            assertThat(backend.get(merged.lse()).toFloats()).isEqualTo(before);
        }
    }

    @Test
    void shouldNameWhatDoesNotFit() {
        final MlaMergeSpec spec = MlaMergeSpec.of(DType.BF16, HEADS, TOKENS, BATCH);
        final MlaResult<T> right = put(part(DType.BF16, 1));
        try (MlaMergePlan<T> plan = backend.kernels().plan(spec)) {
            final T lse = backend.filled(TensorSpec.packed(DType.F32, BATCH, TOKENS, HEADS), 0);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(right, new MlaResult<>(right.out(), lse), right))
                    .withMessage("mla_merge: b.lse: got shape [5,3,7], need [5,7,3]");
            final T wide = backend.filled(outSpec(DType.F32), 0);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(right, right, new MlaResult<>(wide, right.lse())))
                    .withMessage("mla_merge: merged.out: got dtype F32, need BF16");
        }
        assertThat(backend.kernels().support(MlaMergeSpec.of(DType.F16, 129, 1, 1)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("mla_merge: outDType", "F16", "BF16 or F32"),
                        new Support.Reason("mla_merge: heads", "129", "1..128"))));
    }
}
