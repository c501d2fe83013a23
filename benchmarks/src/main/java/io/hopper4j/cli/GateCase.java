package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.GateTolerance;
import io.hopper4j.reference.ExpertGate;
import java.lang.foreign.Arena;

/**
 * One gate against the reference.
 *
 * @param spec the operation
 * @param tokens tokens in use
 * @param disabled how many of 100 experts are disabled
 * @param seed of the operands
 */
record GateCase(GateSpec spec, long tokens, long disabled, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "t=%s e=%d %d/%d top %d %s %s%s"
                .formatted(
                        HostData.rows(tokens, spec.maxTokens()),
                        spec.experts(),
                        spec.keptGroups(),
                        spec.groups(),
                        spec.topK(),
                        spec.logitsDType(),
                        spec.scores(),
                        disabled == 0 ? "" : " disabled " + disabled + "%");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                GatePlan<DeviceTensor> plan = gpu.kernels().plan(spec)) {
            final HostTensor logits = HostTensor.allocate(host, spec.logitsDType(), spec.maxTokens(), spec.experts());
            HostData.fillWithNormal(logits, random);
            final HostTensor bias = HostTensor.allocate(host, DType.F32, spec.experts());
            final HostTensor off = HostTensor.allocate(host, DType.U8, spec.experts());
            final boolean[] flags = new boolean[spec.experts()];
            for (int e = 0; e < flags.length; e++) {
                bias.setFloat((float) (0.4 * random.fraction() - 0.2), e);
                flags[e] = random.below(100) < disabled;
                off.setFloat(flags[e] ? 1 : 0, e);
            }
            final GateOperands<DeviceTensor> x = new GateOperands<>(
                    arena.copyOf(logits, gpu.stream()),
                    arena.copyOf(bias, gpu.stream()),
                    arena.copyOf(off, gpu.stream()),
                    arena.allocate(DType.I32, spec.maxTokens(), spec.topK()),
                    arena.allocate(DType.F32, spec.maxTokens(), spec.topK()),
                    arena.allocate(DType.I32, spec.experts()));
            try (GateLaunch<DeviceTensor> launch = plan.bind(x)) {
                final double microseconds = gpu.microseconds(launch, tokens);
                launch.launch(gpu.stream(), tokens);
                final HostTensor ids = HostTensor.allocate(host, x.ids().spec());
                final HostTensor weights = HostTensor.allocate(host, x.weights().spec());
                final HostTensor counts = HostTensor.allocate(host, DType.I32, spec.experts());
                gpu.download(x.ids(), ids);
                gpu.download(x.weights(), weights);
                final DeviceTensor there = x.counts();
                if (there != null) {
                    gpu.download(there, counts);
                }
                final long[] taken = new long[spec.experts()];
                final GateTolerance.Result result = compare(logits, bias, flags, ids, weights, taken);
                long differingCounts = 0;
                for (int e = 0; e < taken.length; e++) {
                    differingCounts += taken[e] == (long) counts.getFloat(e) ? 0 : 1;
                }
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        microseconds,
                        new Row.Measure("ids", (double) result.differingIds(), 0),
                        new Row.Measure("weights/bound", result.worstRatio(), 1),
                        new Row.Measure("counts", (double) differingCounts, 0));
            }
        }
    }

    /** Compares every token and tallies the ids. */
    GateTolerance.Result compare(
            final HostTensor logits,
            final HostTensor bias,
            final boolean[] flags,
            final HostTensor ids,
            final HostTensor weights,
            final long[] taken) {
        final GateTolerance tolerance = new GateTolerance();
        final float[] biases = bias.toFloats();
        for (long t = 0; t < tokens; t++) {
            final ExpertGate.Choice expected =
                    ExpertGate.choose(spec, logits.select(0, t).toFloats(), biases, flags);
            for (int j = 0; j < spec.topK(); j++) {
                final int id = (int) ids.getFloat(t, j);
                tolerance.add(id, weights.getFloat(t, j), expected.id(j), expected.weight(j), expected.margin());
                if (id >= 0 && id < taken.length) {
                    taken[id]++;
                }
            }
        }
        return tolerance.result();
    }
}
