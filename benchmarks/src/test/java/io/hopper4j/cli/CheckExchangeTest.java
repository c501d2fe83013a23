package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.CombineLaunch;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombinePlan;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchLaunch;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchPlan;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import io.hopper4j.moe.Rendezvous;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

/** What ranks of the reference sent each other is judged right, and a planted fault is found. */
final class CheckExchangeTest extends CheckTesting {
    private static final int RANKS = 3;
    private static final int TOKENS = 5;
    private static final int HIDDEN = 256;
    private static final int TOP_K = 3;
    /** Three for each rank, the last has two. */
    private static final int EXPERTS = 8;
    /** Rank 1 sends nothing. */
    private static final int[] COUNTS = {TOKENS, 0, 4};

    private static final ExpertGroupSpec GROUP = ExpertGroupSpec.of(RANKS, EXPERTS, TOP_K, HIDDEN, TOKENS);

    /** What all ranks give. */
    private record Tokens(
            HostTensor x, @Nullable HostTensor scales, HostTensor ids, HostTensor weights, HostTensor counts) {
        SafeTensorsFile file() {
            return new SafeTensorsFile()
                    .with("ids", ids)
                    .with("counts", counts)
                    .withMetadata("experts", Integer.toString(EXPERTS));
        }
    }

    private Tokens tokens(final DType type) {
        final HostTensor x = HostTensor.allocate(arena, type, RANKS, TOKENS, HIDDEN);
        HostTensor scales = null;
        if (type == DType.BF16) {
            HostData.fillWithNormal(x.reshape((long) RANKS * TOKENS, HIDDEN), random);
        } else {
            final Scaled<HostTensor> rows =
                    HostData.randomQuantized(arena, random, Scaling.ACTIVATION_1X128, (long) RANKS * TOKENS, HIDDEN);
            x.setFloats(rows.values().toFloats());
            scales = HostTensor.allocate(arena, DType.F32, RANKS, TOKENS, HIDDEN / 128);
            scales.setFloats(rows.scales().toFloats());
        }
        final HostTensor ids = HostTensor.allocate(arena, DType.I32, RANKS, TOKENS, TOP_K);
        final float[] experts = new float[RANKS * TOKENS * TOP_K];
        for (int i = 0; i < experts.length; i++) {
            experts[i] = random.below(EXPERTS + 1) - 1f;
        }
        experts[1] = experts[0]; // an expert named twice
        ids.setFloats(experts);
        final HostTensor weights = HostTensor.allocate(arena, DType.F32, RANKS, TOKENS, TOP_K);
        HostData.fillWithNormal(weights.reshape((long) RANKS * TOKENS, TOP_K), random);
        return new Tokens(x, scales, ids, weights, ints(COUNTS[0], COUNTS[1], COUNTS[2]));
    }

    /** What one rank got back; tensors of the layout only. */
    private record Got(
            HostTensor rows,
            @Nullable HostTensor scales,
            @Nullable HostTensor expertRows,
            HostTensor received,
            HostTensor partials,
            HostTensor sums) {}

    private Got run(
            final DispatchSpec call, final Rendezvous rendezvous, final Tokens given, final HostTensor residual) {
        final int rank = rendezvous.rank();
        try (Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream();
                ExpertGroup<HostTensor> group = kernels.openGroup(call.group(), rendezvous);
                DispatchPlan<HostTensor> plan = group.plan(call);
                CombinePlan<HostTensor> back = group.plan(CombineSpec.of(call).withResidual(true))) {
            final boolean byRank = call.layout() == MoeLayout.RANK;
            final DispatchOperands<HostTensor> operands = operands(plan, given, rank);
            try (DispatchLaunch<HostTensor> launch = plan.bind(operands)) {
                launch.launch(stream, COUNTS[rank]);
            }
            final HostTensor rows = byRank ? copy(group.buffers(0).rows()) : Objects.requireNonNull(operands.out());
            final HostTensor made = byRank
                    ? group.buffers(0).partials()
                    : HostTensor.allocate(
                            arena, TensorSpec.packed(DType.BF16, rows.shape().toArray()));
            HostData.fillWithNormal(made.reshape(made.spec().elements() / HIDDEN, HIDDEN), new SplitMix64(rank));
            final HostTensor sums = HostTensor.allocate(arena, DType.BF16, TOKENS, HIDDEN);
            try (CombineLaunch<HostTensor> launch =
                    back.bind(new CombineOperands<>(operands.handle(), byRank ? null : made, residual, sums))) {
                launch.launch(stream, COUNTS[rank]);
            }
            return new Got(
                    rows,
                    byRank ? null : operands.outScales(),
                    operands.expertRows(),
                    Objects.requireNonNull(operands.received()),
                    copy(made),
                    sums);
        }
    }

    private HostTensor copy(final HostTensor tensor) {
        final HostTensor copy = HostTensor.allocate(
                arena, TensorSpec.packed(tensor.dtype(), tensor.shape().toArray()));
        copy.setFloats(tensor.toFloats());
        return copy;
    }

    private DispatchOperands<HostTensor> operands(
            final DispatchPlan<HostTensor> plan, final Tokens given, final int rank) {
        final DispatchSpec call = plan.spec();
        HostTensor scales = null;
        if (given.scales() != null) {
            scales = HostTensor.allocate(arena, Scaled.activationScaleSpec(TOKENS, HIDDEN));
            scales.setFloats(given.scales().select(0, rank).toFloats());
        }
        final DispatchOperands<HostTensor> operands = DispatchOperands.of(
                        given.x().select(0, rank),
                        scales,
                        given.ids().select(0, rank),
                        given.weights().select(0, rank),
                        HostTensor.allocate(arena, DType.U8, plan.handleBytes()))
                .withReceived(HostTensor.allocate(arena, DType.I32, RANKS + 1L));
        if (call.layout() == MoeLayout.RANK) {
            return operands;
        }
        final int local = GROUP.localExperts(rank);
        final long slots = plan.outRows();
        final boolean latency = call.mode() == MoeMode.LATENCY;
        final TensorSpec scaleSpec = latency
                ? TensorSpec.strided(DType.F32, new long[] {local, slots, 2}, new long[] {2 * slots, 1, slots})
                : Scaled.activationScaleSpec(slots, HIDDEN);
        final DType type = call.group().rowDType();
        return operands.withOut(
                latency
                        ? HostTensor.allocate(arena, type, local, slots, HIDDEN)
                        : HostTensor.allocate(arena, type, slots, HIDDEN),
                call.group().isScaled() ? HostTensor.allocate(arena, scaleSpec) : null,
                latency
                        ? HostTensor.allocate(arena, DType.I32, local)
                        : HostTensor.allocate(arena, DType.I32, local, 2));
    }

    /** What every rank got, each a thread of its own. */
    private List<Got> exchange(final DispatchSpec call, final Tokens given, final HostTensor residual)
            throws Exception {
        final List<Future<Got>> running = new ArrayList<>();
        final List<Got> got = new ArrayList<>();
        try (ExecutorService threads = Executors.newFixedThreadPool(RANKS)) {
            for (final Rendezvous end : Rendezvous.inProcess(RANKS)) {
                running.add(threads.submit(() -> run(call, end, given, residual)));
            }
            for (final Future<Got> one : running) {
                got.add(one.get());
            }
        }
        return got;
    }

    /** Judges what the last rank received, and what the first summed. */
    private void assertExchanged(final DispatchSpec call, final String layout) throws Exception {
        final Tokens given = tokens(call.inDType());
        final HostTensor residual = normal(DType.BF16, TOKENS, HIDDEN);
        final List<Got> got = exchange(call, given, residual);
        final int rank = RANKS - 1;
        final Got last = got.get(rank);
        final SafeTensorsFile inputs = given.file()
                .with("x", given.x())
                .withMetadata("rank", Integer.toString(rank))
                .withMetadata("layout", layout)
                .withMetadata("alignment", "4");
        if (given.scales() != null) {
            inputs.with("x_scales", given.scales());
        }
        final SafeTensorsFile output = new SafeTensorsFile().with("out", last.rows());
        if (last.expertRows() == null) {
            output.with("received", last.received().slice(0, 0, RANKS));
        } else {
            output.with("expert_rows", last.expertRows());
        }
        if (last.scales() != null) {
            output.with("out_scales", last.scales());
        }
        // The first row of the rank's second expert, or of all.
        final long row = last.expertRows() == null || call.mode() == MoeMode.LATENCY
                ? 0
                : (long) last.expertRows().getFloat(1, 0);
        final long[] at = call.mode() == MoeMode.LATENCY ? new long[] {1, row, 255} : new long[] {row, 255};
        assertJudged("moe_dispatch", inputs, output, last.rows(), "out", at);
        if (last.expertRows() != null) {
            assertCombined(layout, given, residual, got);
        }
    }

    private void assertCombined(final String layout, final Tokens given, final HostTensor residual, final List<Got> got)
            throws IOException {
        final long rows = got.stream()
                .mapToLong(each -> each.partials().spec().elements() / HIDDEN)
                .max()
                .orElse(0);
        final HostTensor x = HostTensor.allocate(arena, DType.BF16, RANKS, rows, HIDDEN);
        for (int rank = 0; rank < RANKS; rank++) {
            final HostTensor made = got.get(rank).partials();
            final long of = made.spec().elements() / HIDDEN;
            x.select(0, rank).slice(0, 0, of).setFloats(made.toFloats());
        }
        final HostTensor sums = got.getFirst().sums();
        assertJudged(
                "moe_combine",
                given.file()
                        .with("x", x)
                        .with("weights", given.weights())
                        .with("residual", residual)
                        .withMetadata("layout", layout)
                        .withMetadata("alignment", "4"),
                new SafeTensorsFile().with("out", sums),
                sums,
                "out",
                3,
                17);
    }

    @Test
    void shouldJudgeRowsByExpert() throws Exception {
        assertExchanged(
                DispatchSpec.of(GROUP.withRows(DType.BF16), DType.BF16)
                        .withLayout(MoeLayout.EXPERT)
                        .withAlignment(4),
                "expert");
    }

    @Test
    void shouldJudgeFp8Rows() throws Exception {
        assertExchanged(
                DispatchSpec.of(GROUP, DType.F8_E4M3)
                        .withLayout(MoeLayout.EXPERT)
                        .withAlignment(4),
                "expert");
    }

    @Test
    void shouldJudgeRowsThatAreCast() throws Exception {
        assertExchanged(
                DispatchSpec.of(GROUP, DType.BF16).withLayout(MoeLayout.EXPERT).withAlignment(4), "expert");
    }

    @Test
    void shouldJudgeRowsByRank() throws Exception {
        assertExchanged(DispatchSpec.of(GROUP.withRows(DType.BF16), DType.BF16), "rank");
    }

    @Test
    void shouldJudgeLatencyCalls() throws Exception {
        assertExchanged(DispatchSpec.latency(GROUP.withLatencyTokens(TOKENS), DType.BF16), "latency");
    }
}
