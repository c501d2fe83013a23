package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.GateTolerance;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.Scores;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.reference.ExpertGate;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/** What {@code check} can judge of the ways of tokens to experts. */
final class CheckRouting {
    private CheckRouting() {}

    static List<CheckOperation> all() {
        return List.of(
                new CheckOperation(
                        List.of("moe_gate"),
                        "the experts of each token with their weights, within the bounds of GateTolerance",
                        List.of(
                                "logits       [tokens, experts] F32 or BF16",
                                "bias         [experts] F32; may be missing",
                                "disabled     [experts] U8; may be missing",
                                "top_k        8 if not given",
                                "groups       8 if not given",
                                "kept_groups  4 if not given",
                                "scores       sigmoid (if not given) or softmax",
                                "normalize    1 if not given",
                                "scale        2.5 if not given"),
                        List.of("ids          [tokens, top_k] I32", "weights      [tokens, top_k] F32"),
                        CheckRouting::gate),
                new CheckOperation(
                        List.of("moe_bias_update"),
                        "the bias of each expert after a step against its load, bit for bit",
                        List.of(
                                "counts       [experts] I32",
                                "bias         [experts] F32",
                                "step         0.001 if not given"),
                        List.of("bias         [experts] F32"),
                        CheckRouting::biasUpdate),
                new CheckOperation(
                        List.of("moe_permute"),
                        "a copy of each token's row for each of its experts, by expert, token and place, bit for bit",
                        List.of(
                                "ids          [tokens, top_k] I32; -1: nowhere",
                                "x            [tokens, hidden] BF16 or F8_E4M3",
                                "x_scales     [tokens, ceil(hidden/128)] F32, of F8_E4M3 rows",
                                "experts      how many there are; must be given",
                                "alignment    1 if not given: rows of each expert are a multiple",
                                "scale_kind   f32 (if not given) or power_of_two, where BF16 rows leave as F8_E4M3"),
                        List.of(
                                "out          [rows, hidden] BF16 or F8_E4M3, rows = tokens top_k and the padding of as many experts as there can be",
                                "out_scales   [rows, ceil(hidden/128)] F32, of F8_E4M3 rows",
                                "group_ends   [experts] I32",
                                "places       [tokens, top_k] I32: the row of each id, -1 for none"),
                        CheckRouting::permute),
                new CheckOperation(
                        List.of("moe_unpermute"),
                        "the (weighted) sum of each token's rows (+ residual), bit for bit",
                        List.of(
                                "x            [rows, hidden] BF16",
                                "places       [tokens, top_k] I32, as moe_permute writes it",
                                "weights      [tokens, top_k] F32; may be missing: 1",
                                "residual     [tokens, hidden] BF16; may be missing"),
                        List.of("out          [tokens, hidden] BF16"),
                        CheckRouting::unpermute));
    }

    /** Runs the reference once. */
    private static <P extends Plan> void run(
            final Function<Kernels<HostTensor>, P> plan, final Function<P, Launch> bind) {
        try (Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream();
                P planned = plan.apply(kernels);
                Launch launch = bind.apply(planned)) {
            launch.launch(stream);
            stream.synchronize();
        }
    }

    private static CheckMeasure equal(final String name, final HostTensor got, final HostTensor exact) {
        final CheckMeasure measure = new CheckMeasure(name);
        measure.addEqual(got, exact);
        return measure;
    }

    private static Judgement gate(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor logits = inputs.tensor("logits", 2, DType.F32, DType.BF16);
        final long tokens = logits.shape().size(0);
        final int experts = Math.toIntExact(logits.shape().size(1));
        final Scores scores = switch (inputs.attribute("scores").orElse("sigmoid")) {
            case "sigmoid" -> Scores.SIGMOID;
            case "softmax" -> Scores.SOFTMAX;
            default -> throw new CheckTensors.Misfit("scores: need sigmoid or softmax");
        };
        final GateSpec spec = GateSpec.of(tokens, experts, inputs.integer("top_k", 8))
                .withGroups(inputs.integer("groups", 8), inputs.integer("kept_groups", 4))
                .withLogits(logits.dtype())
                .withScores(scores)
                .withNormalize(inputs.integer("normalize", 1) != 0)
                .withScale(inputs.number("scale", 2.5f));
        final HostTensor bias = inputs.optional("bias", new long[] {experts}, DType.F32);
        final HostTensor disabled = inputs.optional("disabled", new long[] {experts}, DType.U8);
        final boolean[] off = new boolean[experts];
        for (int e = 0; e < experts && disabled != null; e++) {
            off[e] = disabled.getFloat(e) != 0;
        }
        final HostTensor ids = theirs.tensor("ids", new long[] {tokens, spec.topK()}, DType.I32);
        final HostTensor weights = theirs.tensor("weights", new long[] {tokens, spec.topK()}, DType.F32);
        final CheckMeasure ofIds = new CheckMeasure("ids");
        final CheckMeasure ofWeights = new CheckMeasure("weights");
        for (long t = 0; t < tokens; t++) {
            final ExpertGate.Choice exact =
                    ExpertGate.choose(spec, logits.select(0, t).toFloats(), bias == null ? null : bias.toFloats(), off);
            if (exact.margin() < GateTolerance.LEAST_MARGIN) {
                continue; // too close to tell
            }
            for (int j = 0; j < spec.topK(); j++) {
                ofIds.add(ids.getFloat(t, j), exact.id(j), 0, t, j);
                ofWeights.add(
                        weights.getFloat(t, j),
                        exact.weight(j),
                        GateTolerance.WEIGHT_RELATIVE * Math.abs(exact.weight(j)),
                        t,
                        j);
            }
        }
        return Judgement.of(ofIds, ofWeights);
    }

    private static Judgement biasUpdate(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor counts = inputs.tensor("counts", 1, DType.I32);
        final long experts = counts.shape().size(0);
        final HostTensor before = inputs.tensor("bias", new long[] {experts}, DType.F32);
        final BiasUpdateSpec spec = BiasUpdateSpec.of(Math.toIntExact(experts), inputs.number("step", 0.001f))
                .withClearCounts(false);
        try (Arena arena = Arena.ofShared()) {
            final HostTensor exact = HostTensor.allocate(arena, before.spec());
            exact.setFloats(before.toFloats());
            run(
                    kernels -> kernels.plan(spec),
                    (final BiasUpdatePlan<HostTensor> plan) -> plan.bind(new BiasUpdateOperands<>(counts, exact)));
            return new Judgement(
                    List.of(equal("bias", theirs.tensor("bias", new long[] {experts}, DType.F32), exact)), List.of());
        }
    }

    private static Judgement permute(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor ids = inputs.tensor("ids", 2, DType.I32);
        final long tokens = ids.shape().size(0);
        final HostTensor x = inputs.tensor("x", 2, DType.BF16, DType.F8_E4M3);
        final long hidden = x.shape().size(1);
        inputs.tensor("x", new long[] {tokens, hidden}, x.dtype());
        final HostTensor out = theirs.tensor("out", 2, DType.BF16, DType.F8_E4M3);
        PermuteSpec made = PermuteSpec.of(
                        tokens,
                        hidden,
                        inputs.integer("experts", 0),
                        Math.toIntExact(ids.shape().size(1)),
                        x.dtype())
                .withAlignment(inputs.integer("alignment", 1));
        if (x.dtype() == DType.BF16 && out.dtype() == DType.F8_E4M3) {
            made = made.withQuantize(CheckQuantized.scaleKind(inputs));
        }
        final PermuteSpec spec = made;
        theirs.tensor("out", new long[] {spec.rows(), hidden}, spec.outDType());
        final long[] scaleShape =
                Scaling.ACTIVATION_1X128.scaleShape(spec.rows(), hidden).toArray();
        try (Arena arena = Arena.ofShared()) {
            final HostTensor inScales = x.dtype() == DType.BF16
                    ? null
                    : activationScales(
                            arena,
                            inputs.tensor(
                                    "x_scales",
                                    Scaling.ACTIVATION_1X128
                                            .scaleShape(tokens, hidden)
                                            .toArray(),
                                    DType.F32));
            final HostTensor exactOut = HostTensor.allocate(arena, out.spec());
            final HostTensor exactScales = spec.outDType() == DType.BF16
                    ? null
                    : HostTensor.allocate(arena, Scaled.activationScaleSpec(spec.rows(), hidden));
            final HostTensor ends = HostTensor.allocate(arena, DType.I32, spec.experts());
            final HostTensor places = HostTensor.allocate(arena, ids.spec());
            run(
                    kernels -> kernels.plan(spec),
                    (final PermutePlan<HostTensor> plan) -> plan.bind(
                            new PermuteOperands<>(ids, x, inScales, exactOut, exactScales, ends, places, null)));
            final long used = (long) ends.getFloat(spec.experts() - 1L);
            final List<CheckMeasure> measures = new ArrayList<>(List.of(
                    equal("group_ends", theirs.tensor("group_ends", ends.shape().toArray(), DType.I32), ends),
                    equal("places", theirs.tensor("places", places.shape().toArray(), DType.I32), places),
                    equal("out", out.slice(0, 0, used), exactOut.slice(0, 0, used))));
            if (exactScales != null) {
                measures.add(equal(
                        "out_scales",
                        theirs.tensor("out_scales", scaleShape, DType.F32).slice(0, 0, used),
                        exactScales.slice(0, 0, used)));
            }
            return new Judgement(measures, List.of());
        }
    }

    /** The scales laid out as kernels read them. */
    private static HostTensor activationScales(final Arena arena, final HostTensor scales) {
        final HostTensor laidOut = HostTensor.allocate(
                arena,
                Scaled.activationScaleSpec(
                        scales.shape().size(0), scales.shape().size(1) * 128));
        laidOut.setFloats(scales.toFloats());
        return laidOut;
    }

    private static Judgement unpermute(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final HostTensor x = inputs.tensor("x", 2, DType.BF16);
        final long hidden = x.shape().size(1);
        final HostTensor places = inputs.tensor("places", 2, DType.I32);
        final long tokens = places.shape().size(0);
        final long topK = places.shape().size(1);
        final HostTensor weights = inputs.optional("weights", new long[] {tokens, topK}, DType.F32);
        final HostTensor residual = inputs.optional("residual", new long[] {tokens, hidden}, DType.BF16);
        final UnpermuteSpec spec = UnpermuteSpec.of(tokens, x.shape().size(0), hidden, Math.toIntExact(topK))
                .withWeights(weights != null)
                .withResidual(residual != null);
        final HostTensor out = theirs.tensor("out", new long[] {tokens, hidden}, DType.BF16);
        try (Arena arena = Arena.ofShared()) {
            final HostTensor exact = HostTensor.allocate(arena, out.spec());
            run(
                    kernels -> kernels.plan(spec),
                    (final UnpermutePlan<HostTensor> plan) ->
                            plan.bind(new UnpermuteOperands<>(x, places, weights, residual, exact)));
            return Judgement.of(equal("out", out, exact));
        }
    }
}
