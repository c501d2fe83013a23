package io.hopper4j.cli;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.moe.ExpertLayer;
import io.hopper4j.moe.ExpertLayerOperands;
import io.hopper4j.moe.ExpertLayerSpec;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.GateTolerance;
import io.hopper4j.moe.Scores;
import io.hopper4j.reference.ExpertGate;
import io.hopper4j.safetensors.SafeTensors;
import java.lang.foreign.Arena;
import java.util.List;

/** The reference of the gate against transformers' DeepseekV3TopkRouter and torch's softmax, and of the expert layer against torch. */
final class MoeGoldenChecks {
    private static final String LOGITS = "logits.";
    private static final String LAYER = "expert_layer";

    /** Relative squared error of a layer: roundings to BF16 that fall the other way. */
    private static final double LAYER_BOUND = 5e-6;

    private MoeGoldenChecks() {}

    /** {@return all checks} */
    static List<GoldenChecks.Check> all() {
        return List.of(
                new GoldenChecks.Check("moe_gate", MoeGoldenChecks::gate),
                new GoldenChecks.Check(LAYER, MoeGoldenChecks::layer));
    }

    private static Row gate() {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, "moe_gate")) {
            final GateTolerance tolerance = new GateTolerance();
            for (final String name : file.names()) {
                if (name.startsWith(LOGITS)) {
                    gate(file, name.substring(LOGITS.length()), tolerance);
                }
            }
            final GateTolerance.Result result = tolerance.result();
            return Row.measured(
                    "moe_gate",
                    "transformers and torch, " + result.choices() + " choices",
                    GoldenChecks.REFERENCE,
                    Double.NaN,
                    new Row.Measure("ids", (double) result.differingIds(), 0),
                    new Row.Measure("weights/bound", result.worstRatio(), 1),
                    // Golden tokens are few enough that most must be clear, or nothing would be checked.
                    new Row.Measure("unclear", (double) result.unclear() / result.choices(), 0.1));
        }
    }

    /** One case as its name says: {@code scores.experts.groups.keptGroups.topK.normalize.scale}. */
    private static void gate(final SafeTensors file, final String name, final GateTolerance tolerance) {
        final String[] parts = name.split("\\.", 7);
        final HostTensor logits = GoldenChecks.tensor(file, LOGITS + name);
        final HostTensor ids = GoldenChecks.tensor(file, "ids." + name);
        final HostTensor weights = GoldenChecks.tensor(file, "weights." + name);
        final float[] bias = GoldenChecks.tensor(file, "bias." + name).toFloats();
        final long tokens = logits.shape().size(0);
        final GateSpec spec = GateSpec.of(tokens, Integer.parseInt(parts[1]), Integer.parseInt(parts[4]))
                .withScores(Scores.valueOf(parts[0]))
                .withGroups(Integer.parseInt(parts[2]), Integer.parseInt(parts[3]))
                .withNormalize(parts[5].equals("1"))
                .withScale(Float.parseFloat(parts[6]));
        for (long t = 0; t < tokens; t++) {
            final ExpertGate.Choice choice =
                    ExpertGate.choose(spec, logits.select(0, t).toFloats(), bias, null);
            for (int j = 0; j < spec.topK(); j++) {
                tolerance.add(
                        (int) ids.getFloat(t, j),
                        weights.getFloat(t, j),
                        choice.id(j),
                        choice.weight(j),
                        choice.margin());
            }
        }
    }

    private static Row layer() {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, LAYER);
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            final HostTensor x = GoldenChecks.tensor(file, "x");
            final HostTensor ids = GoldenChecks.tensor(file, "ids");
            final Scaled<HostTensor> gateUp = weight(file, "gate_up");
            final Scaled<HostTensor> down = weight(file, "down");
            final HostTensor expected = GoldenChecks.tensor(file, "out");
            final HostTensor out = HostTensor.allocate(arena, expected.spec());
            final ExpertLayerSpec spec = ExpertLayerSpec.of(
                    x.shape().size(0),
                    x.shape().size(1),
                    down.cols(),
                    Math.toIntExact(gateUp.values().shape().size(0)),
                    Math.toIntExact(ids.shape().size(1)));
            try (ExpertLayer<HostTensor> layer = ExpertLayer.open(
                    kernels,
                    spec,
                    new ExpertLayerOperands<>(x, ids, GoldenChecks.tensor(file, "weights"), gateUp, down, null, out),
                    wanted -> HostTensor.allocate(arena, wanted))) {
                layer.launch(stream);
            }
            final float[] got = out.toFloats();
            final float[] wanted = expected.toFloats();
            double error = 0;
            double size = 0;
            for (int i = 0; i < wanted.length; i++) {
                error += Math.pow((double) got[i] - wanted[i], 2);
                size += Math.pow(wanted[i], 2);
            }
            return Row.measured(
                    LAYER,
                    "torch, " + spec.maxTokens() + " tokens",
                    GoldenChecks.REFERENCE,
                    Double.NaN,
                    new Row.Measure("squared", error / size, LAYER_BOUND));
        }
    }

    private static Scaled<HostTensor> weight(final SafeTensors file, final String name) {
        return Scaled.weight(GoldenChecks.tensor(file, name), GoldenChecks.tensor(file, name + "_scales"));
    }
}
