package io.hopper4j.reference;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import java.lang.foreign.Arena;
import java.util.SplittableRandom;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The two forms of latent attention, merging, and what only the reference checks. */
final class LatentAttentionTest {
    private final Arena arena = Arena.ofConfined();
    private final SplittableRandom random = new SplittableRandom(9);

    @AfterEach
    void close() {
        arena.close();
    }

    private HostTensor normal(final DType dtype, final double size, final long... dims) {
        final HostTensor tensor = HostTensor.allocate(arena, dtype, dims);
        final float[] values = new float[Math.toIntExact(tensor.spec().elements())];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) (size * random.nextGaussian());
        }
        tensor.setFloats(values);
        return tensor;
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 2, 70})
    void shouldGiveTheSameInBothForms(final int length) {
        final HostTensor qNope = normal(DType.F32, 1, 128);
        final HostTensor qRope = normal(DType.F32, 1, 64);
        final HostTensor wUk = normal(DType.F32, 0.05, 128, VALUE_DIM);
        final HostTensor wUv = normal(DType.F32, 0.05, 128, VALUE_DIM);
        final HostTensor tokens = normal(DType.F32, 1, length, TOKEN_DIM);
        final double scale = 0.135;

        final AttentionRow expanded = LatentAttention.expanded(qNope, qRope, wUk, wUv, tokens, scale);
        final AttentionRow absorbed = LatentAttention.project(
                LatentAttention.absorbed(LatentAttention.absorb(qNope, qRope, wUk), tokens, scale), wUv);

        assertThat(absorbed.size()).isEqualTo(expanded.size()).isEqualTo(128);
        double largest = 0;
        for (int d = 0; d < 128; d++) {
            assertThat(absorbed.value(d)).as("value %s", d).isCloseTo(expanded.value(d), Offset.offset(1e-13));
            largest = Math.max(largest, Math.abs(expanded.value(d)));
        }
        if (length == 0) {
            assertThat(largest).isZero();
            assertThat(absorbed.logSumExp()).isEqualTo(Double.POSITIVE_INFINITY);
        } else {
            assertThat(largest).isGreaterThan(0.1);
            assertThat(absorbed.logSumExp()).isCloseTo(expanded.logSumExp(), Offset.offset(1e-12));
        }
    }

    @Test
    void shouldRefuseShapesThatDoNotFit() {
        final HostTensor tokens = normal(DType.F32, 1, 3, TOKEN_DIM);
        final HostTensor w = normal(DType.F32, 1, 16, VALUE_DIM);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> LatentAttention.absorbed(new double[512], tokens, 1))
                .withMessage("attention: q: got 512 values, need 576");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> LatentAttention.absorb(normal(DType.F32, 1, 8), normal(DType.F32, 1, 64), w))
                .withMessage("attention: qNope: got shape [8], need [16]");
        assertThatIllegalArgumentException()
                .isThrownBy(() ->
                        LatentAttention.expanded(normal(DType.F32, 1, 16), normal(DType.F32, 1, 32), w, w, tokens, 1))
                .withMessage("attention: qRope: got shape [32], need [64]");
        assertThatIllegalArgumentException()
                .isThrownBy(() ->
                        LatentAttention.project(LatentAttention.absorbed(new double[TOKEN_DIM], tokens, 1), tokens))
                .withMessage("attention: wUv: got shape [3,576], need [n,512]");
    }

    @Test
    void shouldWorkOutASmallCaseByHand() {
        // Two tokens whose scores are ln 3 and 0: weights 3/4 and 1/4.
        final HostTensor tokens = HostTensor.allocate(arena, DType.F32, 2, TOKEN_DIM);
        tokens.setFloat(1, 0, 575);
        tokens.setFloat(8, 0, 1);
        tokens.setFloat(4, 1, 1);
        final double[] q = new double[TOKEN_DIM];
        q[575] = Math.log(3);
        final AttentionRow row = LatentAttention.absorbed(q, tokens, 1);
        assertThat(row.value(0)).isZero();
        assertThat(row.value(1)).isCloseTo(7, Offset.offset(1e-12));
        assertThat(row.logSumExp()).isCloseTo(Math.log(4), Offset.offset(1e-12));
    }

    // ---- merging ----

    @Test
    void shouldMergePartsIntoTheWhole() {
        final int split = 20;
        final HostTensor tokens = normal(DType.F32, 1, 50, TOKEN_DIM);
        final HostTensor outA = HostTensor.allocate(arena, DType.F32, 1, 2, 1, VALUE_DIM);
        final HostTensor outB = HostTensor.allocate(arena, DType.F32, 1, 2, 1, VALUE_DIM);
        final HostTensor lseA = HostTensor.allocate(arena, DType.F32, 1, 1, 2);
        final HostTensor lseB = HostTensor.allocate(arena, DType.F32, 1, 1, 2);
        final AttentionRow[] whole = new AttentionRow[2];
        for (int t = 0; t < 2; t++) {
            final double[] q = LatentAttention.doubles(normal(DType.F32, 0.3, TOKEN_DIM));
            whole[t] = LatentAttention.absorbed(q, tokens, 0.1);
            store(LatentAttention.absorbed(q, tokens.slice(0, 0, split), 0.1), outA, lseA, t);
            store(LatentAttention.absorbed(q, tokens.slice(0, split, 50), 0.1), outB, lseB, t);
        }

        MlaMerge.merge(outA, lseA, outB, lseB, outA, lseA); // into a part

        for (int t = 0; t < 2; t++) {
            assertThat(lseA.getFloat(0, 0, t)).isCloseTo((float) whole[t].logSumExp(), Offset.offset(1e-6f));
            for (int d = 0; d < VALUE_DIM; d++) {
                assertThat(outA.getFloat(0, t, 0, d)).isCloseTo((float) whole[t].value(d), Offset.offset(1e-6f));
            }
        }
    }

    private static void store(final AttentionRow row, final HostTensor out, final HostTensor lse, final int token) {
        for (int d = 0; d < VALUE_DIM; d++) {
            out.setFloat((float) row.value(d), 0, token, 0, d);
        }
        lse.setFloat((float) row.logSumExp(), 0, 0, token);
    }

    @Test
    void shouldLeaveOutPartsWithoutKeys() {
        final HostTensor out = HostTensor.allocate(arena, DType.BF16, 1, 1, 3, 2);
        final HostTensor outA = HostTensor.allocate(arena, DType.BF16, 1, 1, 3, 2);
        final HostTensor outB = HostTensor.allocate(arena, DType.BF16, 1, 1, 3, 2);
        final HostTensor lseA = HostTensor.allocate(arena, DType.F32, 1, 3, 1);
        final HostTensor lseB = HostTensor.allocate(arena, DType.F32, 1, 3, 1);
        final HostTensor lse = HostTensor.allocate(arena, DType.F32, 1, 3, 1);
        final float none = Float.POSITIVE_INFINITY;
        outA.setFloats(Float.NaN, Float.NaN, 1, 2, Float.NaN, Float.NaN);
        outB.setFloats(3, 4, Float.NaN, Float.NaN, Float.NaN, Float.NaN);
        lseA.setFloats(none, -200, none);
        lseB.setFloats(300, none, none);
        MlaMerge.merge(outA, lseA, outB, lseB, out, lse);
        assertThat(out.toFloats()).containsExactly(3, 4, 1, 2, 0, 0);
        assertThat(lse.toFloats()).containsExactly(300, -200, none);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MlaMerge.merge(outA, lseA, outB, lse.transpose(1, 2), out, lse))
                .withMessage("mla_merge: lseB: got F32 [1,1,3], need F32 [1,3,1]");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> MlaMerge.merge(lse, lseA, outB, lseB, out, lse))
                .withMessage("mla_merge: outA: got shape [1,3,1], need rank 4");
    }

    // ---- only here ----

    @Test
    void shouldRefuseTheScheduleOfAnotherStep() {
        final MlaDecodeSpec spec = MlaDecodeSpec.of(1, 1, 1, 4, 4);
        try (Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream();
                MlaDecodePlan<HostTensor> plan = kernels.plan(spec)) {
            final HostTensor lengths = HostTensor.allocate(arena, DType.I32, 1);
            final HostTensor schedule = HostTensor.allocate(arena, DType.U8, plan.scheduleBytes());
            final MlaDecodeOperands<HostTensor> operands = MlaDecodeOperands.<HostTensor>builder()
                    .q(HostTensor.allocate(arena, DType.BF16, 1, 1, 1, TOKEN_DIM))
                    .cache(HostTensor.allocate(arena, DType.BF16, 4, 1, TOKEN_DIM))
                    .blockTable(HostTensor.allocate(arena, DType.I32, 1, 4))
                    .lengths(lengths)
                    .schedule(schedule)
                    .out(HostTensor.allocate(arena, DType.BF16, 1, 1, 1, VALUE_DIM))
                    .lse(HostTensor.allocate(arena, DType.F32, 1, 1, 1))
                    .build();
            try (MlaScheduleLaunch<HostTensor> first = plan.bindSchedule(lengths, null, schedule);
                    MlaDecodeLaunch<HostTensor> then = plan.bind(operands)) {
                first.launch(stream);
                then.launch(stream);
                lengths.setFloat(3, 0);
                assertThatIllegalStateException()
                        .isThrownBy(() -> then.launch(stream))
                        .withMessageStartingWith("mla_decode: schedule: got one that was not made from these lengths");
                first.launch(stream);
                then.launch(stream);
                assertThat(operands.lse().getFloat(0, 0, 0)).isEqualTo((float) Math.log(3));
            }
        }
    }
}
