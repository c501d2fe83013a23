package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.moe.BiasUpdateLaunch;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import java.lang.foreign.Arena;

/**
 * One bias update against the reference, bit for bit.
 *
 * @param spec the operation
 * @param seed of the operands
 */
record BiasUpdateCase(BiasUpdateSpec spec, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "e=%d%s".formatted(spec.experts(), spec.clearCounts() ? " clearing" : "");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                Kernels<HostTensor> reference = Kernels.reference();
                Stream here = reference.openStream()) {
            final HostTensor counts = HostTensor.allocate(host, DType.I32, spec.experts());
            final HostTensor bias = HostTensor.allocate(host, DType.F32, spec.experts());
            for (int e = 0; e < spec.experts(); e++) {
                counts.setFloat((float) random.below(5), e);
                bias.setFloat((float) random.fraction(), e);
            }
            final DeviceTensor thereCounts = arena.copyOf(counts, gpu.stream());
            final DeviceTensor thereBias = arena.copyOf(bias, gpu.stream());
            final HostTensor gotCounts = HostTensor.allocate(host, counts.spec());
            final HostTensor gotBias = HostTensor.allocate(host, bias.spec());
            try (BiasUpdatePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    BiasUpdateLaunch<DeviceTensor> launch =
                            plan.bind(new BiasUpdateOperands<>(thereCounts, thereBias));
                    BiasUpdatePlan<HostTensor> exact = reference.plan(spec);
                    BiasUpdateLaunch<HostTensor> expected = exact.bind(new BiasUpdateOperands<>(counts, bias))) {
                launch.launch(gpu.stream());
                expected.launch(here);
                gpu.download(thereCounts, gotCounts);
                gpu.download(thereBias, gotBias);
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, 1),
                        new Row.Measure("bias", (double) HostData.differing(gotBias, bias), 0),
                        new Row.Measure("counts", (double) HostData.differing(gotCounts, counts), 0));
            }
        }
    }
}
