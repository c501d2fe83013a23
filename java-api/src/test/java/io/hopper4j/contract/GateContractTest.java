package io.hopper4j.contract;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import io.hopper4j.DType;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.BiasUpdateLaunch;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.GateTolerance;
import io.hopper4j.moe.Scores;
import io.hopper4j.reference.ExpertGate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The gate within {@link GateTolerance} of the formula of {@link GateSpec}, counts and the bias update exactly. */
abstract class GateContractTest<T extends Tensor> {
    private static final long SEED = 20261126;

    private final Backend<T> backend;

    GateContractTest(final Backend<T> backend) {
        this.backend = backend;
    }

    @AfterEach
    void close() {
        backend.close();
    }

    /** Equal logits abound where there are levels; the seed is part of a case's name. */
    record Case(GateSpec spec, int levels, boolean biased, double disabled, long seed) {}

    static Stream<Case> cases() {
        final List<Case> cases = new ArrayList<>();
        final SplittableRandom random = new SplittableRandom(SEED);
        cases.add(new Case(GateSpec.deepSeekV3(300), 0, true, 0, random.nextLong()));
        cases.add(new Case(GateSpec.deepSeekV3(100), 3, false, 0, random.nextLong()));
        cases.add(new Case(GateSpec.deepSeekV3(100), 0, true, 0.3, random.nextLong()));
        cases.add(new Case(GateSpec.deepSeekV3(40), 0, true, 0.97, random.nextLong()));
        cases.add(new Case(GateSpec.of(40, 1024, 32), 4, false, 0.1, random.nextLong()));
        int turn = 0;
        for (final int[] shape : new int[][] {
            {1, 1, 1, 1},
            {8, 1, 1, 2},
            {60, 1, 1, 4},
            {160, 8, 3, 6},
            {320, 5, 2, 9},
            {512, 32, 7, 10},
            {1020, 17, 5, 32}
        }) {
            for (final Scores scores : Scores.values()) {
                final GateSpec spec = GateSpec.of(21, shape[0], shape[3])
                        .withGroups(shape[1], shape[2])
                        .withScores(scores)
                        .withLogits(turn % 3 == 0 ? DType.BF16 : DType.F32)
                        .withNormalize(turn % 4 != 1)
                        .withScale(turn % 2 == 0 ? 1 : 16)
                        .withAddCounts(turn % 2 == 1)
                        .withSmBudget(turn % 5 == 0 ? 1 : 0);
                cases.add(new Case(spec, 0, turn % 3 != 0, 0, random.nextLong()));
                turn++;
            }
        }
        for (int i = 0; i < 10; i++) {
            final int groups = random.nextInt(1, 33);
            final int inGroup = random.nextInt(1, 1024 / groups + 1);
            final int kept = random.nextInt(1, groups + 1);
            final GateSpec spec = GateSpec.of(
                            random.nextInt(1, 60),
                            groups * inGroup,
                            random.nextInt(1, Math.min(32, kept * inGroup) + 1))
                    .withGroups(groups, kept)
                    .withScores(random.nextBoolean() ? Scores.SIGMOID : Scores.SOFTMAX);
            cases.add(new Case(spec, 0, true, random.nextInt(2) * 0.2, random.nextLong()));
        }
        return cases.stream();
    }

    private GateOperands<T> operands(
            final GateSpec spec,
            final HostTensor logits,
            final float @Nullable [] bias,
            final float @Nullable [] disabled) {
        final TensorSpec each = TensorSpec.packed(DType.F32, spec.experts());
        return new GateOperands<>(
                backend.put(logits),
                bias == null ? null : backend.put(backend.hostTensor(each, bias)),
                disabled == null
                        ? null
                        : backend.put(backend.hostTensor(TensorSpec.packed(DType.U8, spec.experts()), disabled)),
                backend.filled(TensorSpec.packed(DType.I32, spec.maxTokens(), spec.topK()), 7777),
                backend.filled(TensorSpec.packed(DType.F32, spec.maxTokens(), spec.topK()), -5),
                backend.filled(TensorSpec.packed(DType.I32, spec.experts()), 10));
    }

    private HostTensor logits(final GateSpec spec, final float... values) {
        return backend.hostTensor(TensorSpec.packed(spec.logitsDType(), spec.maxTokens(), spec.experts()), values);
    }

    private void run(final GateSpec spec, final GateOperands<T> operands) {
        try (GatePlan<T> plan = backend.kernels().plan(spec);
                GateLaunch<T> launch = plan.bind(operands)) {
            launch.launch(backend.stream());
            backend.stream().synchronize();
        }
    }

    private T counts(final GateOperands<T> operands) {
        return Objects.requireNonNull(operands.counts());
    }

    @ParameterizedTest
    @MethodSource("cases")
    void shouldChooseAsTheFormulaSays(final Case c) {
        final GateSpec spec = c.spec;
        final SplittableRandom random = new SplittableRandom(c.seed);
        final float[] values = new float[Math.toIntExact(spec.maxTokens() * spec.experts())];
        for (int i = 0; i < values.length; i++) {
            values[i] = c.levels == 0 ? (float) (2 * random.nextGaussian()) : random.nextInt(c.levels) * 0.5f - 1;
        }
        final float[] bias = new float[spec.experts()];
        final float[] disabled = new float[spec.experts()];
        final boolean[] flags = new boolean[spec.experts()];
        for (int e = 0; e < bias.length; e++) {
            bias[e] = (float) random.nextDouble(-0.2, 0.2);
            flags[e] = random.nextDouble() < c.disabled;
            disabled[e] = flags[e] ? 1 + random.nextInt(255) : 0;
        }
        final HostTensor logits = logits(spec, values);
        final GateOperands<T> operands =
                operands(spec, logits, c.biased ? bias : null, c.disabled > 0 ? disabled : null);

        run(spec, operands);

        final float[] ids = backend.get(operands.ids()).toFloats();
        final float[] weights = backend.get(operands.weights()).toFloats();
        final float[] counts = new float[spec.experts()];
        Arrays.fill(counts, spec.addCounts() ? 10 : 0);
        final GateTolerance tolerance = new GateTolerance();
        for (int t = 0; t < spec.maxTokens(); t++) {
            final ExpertGate.Choice expected =
                    ExpertGate.choose(spec, logits.select(0, t).toFloats(), c.biased ? bias : null, flags);
            for (int j = 0; j < spec.topK(); j++) {
                final int id = (int) ids[t * spec.topK() + j];
                assertThat(id).as("id %d of token %d", j, t).isBetween(-1, spec.experts() - 1);
                if (id >= 0) {
                    counts[id]++;
                }
                tolerance.add(id, weights[t * spec.topK() + j], expected.id(j), expected.weight(j), expected.margin());
            }
        }
        final GateTolerance.Result result = tolerance.result();
        assertThat(result.withinBounds()).as(result.toString()).isTrue();
        assertThat(result.unclear()).as(result.toString()).isLessThanOrEqualTo(result.choices() / 2 + 32);
        assertThat(backend.get(counts(operands)).toFloats()).as("counts").containsExactly(counts);
    }

    @Test
    void shouldTakeTheLowerNumberOfEquals() {
        final GateSpec spec = GateSpec.of(2, 8, 4);
        final GateOperands<T> operands =
                operands(spec, logits(spec, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 0, 2, 0, 2, 0, 2), null, null);
        run(spec, operands);
        assertThat(backend.get(operands.ids()).toFloats()).containsExactly(0, 1, 2, 3, 1, 3, 5, 7);
        assertThat(backend.get(operands.weights()).toFloats()).containsOnly(0.25f);
    }

    @Test
    void shouldKeepTheGroupsOfTheTwoBest() {
        // Group 1 has the best expert, groups 0 and 2 better pairs; of group 0 both experts are taken, of group 2 the
        // better one.
        final GateSpec spec = GateSpec.of(1, 6, 3).withGroups(3, 2).withNormalize(false);
        final GateOperands<T> operands = operands(spec, logits(spec, 2, 1, 3, -9, 1.5f, 0.5f), null, null);
        run(spec, operands);
        assertThat(backend.get(operands.ids()).toFloats()).containsExactly(0, 4, 1);
    }

    @Test
    void shouldUseTheBiasToChooseAndNotToWeigh() {
        final GateSpec spec = GateSpec.of(1, 4, 2).withNormalize(false).withScale(2);
        final GateOperands<T> operands = operands(spec, logits(spec, 0, 0, 0, 0), new float[] {0, -1, 1, 0.5f}, null);
        run(spec, operands);
        assertThat(backend.get(operands.ids()).toFloats()).containsExactly(2, 3);
        assertThat(backend.get(operands.weights()).toFloats()).containsExactly(1, 1);
    }

    @Test
    void shouldEndInNothingWhereTooFewAreLeft() {
        final GateSpec spec = GateSpec.of(1, 4, 3);
        final GateOperands<T> operands = operands(spec, logits(spec, 5, 0, 4, 3), null, new float[] {255, 0, 1, 1});
        run(spec, operands);
        assertThat(backend.get(operands.ids()).toFloats()).containsExactly(1, -1, -1);
        assertThat(backend.get(operands.weights()).toFloats()).containsExactly(1, 0, 0);
        assertThat(backend.get(counts(operands)).toFloats()).containsExactly(0, 1, 0, 0);
    }

    @Test
    void shouldTakeNaNFirstAndShowIt() {
        final GateSpec spec = GateSpec.of(1, 4, 2).withNormalize(false);
        final GateOperands<T> operands = operands(spec, logits(spec, 5, 0, Float.NaN, 9), null, null);
        run(spec, operands);
        assertThat(backend.get(operands.ids()).toFloats()).containsExactly(2, 3);
        assertThat(backend.get(operands.weights()).toFloats()[0]).isNaN();
    }

    @Test
    void shouldLaunchFewerTokensRebindAndCapture() {
        final GateSpec spec = GateSpec.of(3, 4, 1);
        final GateOperands<T> first = operands(spec, logits(spec, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), null, null);
        final GateOperands<T> second = operands(spec, logits(spec, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1), null, null);
        try (GatePlan<T> plan = backend.kernels().plan(spec);
                GateLaunch<T> launch = plan.bind(first)) {
            launch.launch(backend.stream(), 0);
            assertThat(backend.get(counts(first)).toFloats()).as("no tokens").containsOnly(0);
            launch.launch(backend.stream(), 2);
            assertThat(backend.get(first.ids()).toFloats()).containsExactly(0, 1, 7777);
            assertThat(backend.get(counts(first)).toFloats()).containsExactly(1, 1, 0, 0);
            launch.rebind(second);
            try (Graph graph = backend.stream().capture(launch::launch)) {
                graph.launch(backend.stream());
                graph.launch(backend.stream());
                assertThat(backend.get(second.ids()).toFloats()).containsOnly(3);
                assertThat(backend.get(counts(second)).toFloats()).containsExactly(0, 0, 0, 3);
            }
        }
    }

    @Test
    void shouldStepTheBiasAgainstTheLoad() {
        final T counts = backend.put(backend.hostTensor(TensorSpec.packed(DType.I32, 4), 3, 2, 1, 2));
        final T bias = backend.put(backend.hostTensor(TensorSpec.packed(DType.F32, 4), 0, 1, 2, 3));
        final BiasUpdateSpec spec = BiasUpdateSpec.of(4, 0.5f);
        try (BiasUpdatePlan<T> plan = backend.kernels().plan(spec.withClearCounts(false));
                BiasUpdateLaunch<T> launch = plan.bind(new BiasUpdateOperands<>(counts, bias))) {
            launch.launch(backend.stream(), 0);
            launch.launch(backend.stream());
            assertThat(backend.get(bias).toFloats()).containsExactly(-0.5f, 1, 2.5f, 3);
            assertThat(backend.get(counts).toFloats()).containsExactly(3, 2, 1, 2);
        }
        try (BiasUpdatePlan<T> plan = backend.kernels().plan(spec);
                BiasUpdateLaunch<T> launch = plan.bind(new BiasUpdateOperands<>(counts, bias))) {
            launch.launch(backend.stream());
            launch.launch(backend.stream()); // all counts are 0 now
            assertThat(backend.get(bias).toFloats()).containsExactly(-1, 1, 3, 3);
            assertThat(backend.get(counts).toFloats()).containsOnly(0);
        }
    }

    @Test
    void shouldRefuseWhatDoesNotFit() {
        final GateSpec spec = GateSpec.of(2, 4, 2);
        final GateOperands<T> good = operands(spec, logits(spec, new float[8]), new float[4], null);
        try (GatePlan<T> plan = backend.kernels().plan(spec)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(
                            new GateOperands<>(good.logits(), good.ids(), null, good.ids(), good.weights(), null)))
                    .withMessageStartingWith("moe_gate: bias: got ")
                    .withMessageEndingWith("need contiguous F32 [4]");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> plan.bind(new GateOperands<>(
                            backend.allocate(TensorSpec.packed(DType.F32, 2, 5)),
                            null,
                            null,
                            good.ids(),
                            good.weights(),
                            null)))
                    .withMessage("moe_gate: logits: got shape [2,5], need [2,4]");
            plan.bind(good).close();
        }
        assertThatIllegalArgumentException()
                .isThrownBy(() -> GateSpec.of(1, 256, 8).withGroups(7, 2))
                .withMessage("moe_gate: groups: got 7, need a divisor of 256 experts");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> GateSpec.of(1, 64, 9).withGroups(8, 1))
                .withMessage("moe_gate: topK: got 9, need 1..8");
        assertThat(backend.kernels()
                        .support(GateSpec.of(1, 1088, 34).withLogits(DType.F16).withGroups(34, 34)))
                .isEqualTo(new Support.Unsupported(List.of(
                        new Support.Reason("moe_gate: logits", "dtype F16", "F32 or BF16"),
                        new Support.Reason("moe_gate: experts", "1088", "at most 1024"),
                        new Support.Reason("moe_gate: groups", "34", "at most 32"),
                        new Support.Reason("moe_gate: topK", "34", "at most 32"))));
    }
}
