package io.hopper4j.cli;

import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;

/**
 * One dequantisation against the reference, bit for bit.
 *
 * @param spec the operation; tensors have its {@code maxRows} rows, {@code rows} of which are used
 * @param rows rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the matrix
 */
record DequantizeCase(DequantizeSpec spec, long rows, long gap, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s k=%d %s %s%s"
                .formatted(
                        HostData.rows(rows, spec.maxRows()),
                        spec.cols(),
                        spec.outDType(),
                        spec.scaling(),
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final Scaled<HostTensor> in =
                    HostData.anyQuantized(host, random, spec.scaling(), spec.maxRows(), spec.cols());
            final Gpu.Padded out = gpu.poisoned(arena, spec.outDType(), spec.maxRows(), spec.cols(), gap);
            try (DequantizePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    DequantizeLaunch<DeviceTensor> launch = plan.bind(gpu.upload(arena, in, gap), out.matrix())) {
                launch.launch(gpu.stream(), rows);
                final HostTensor result = HostTensor.allocate(host, spec.outDType(), spec.maxRows(), spec.cols());
                gpu.download(out.matrix(), result);
                long differing = 0;
                for (final HostData.Rows part : HostData.parts(random, rows, spec.cols())) {
                    final HostTensor expected = HostTensor.allocate(host, spec.outDType(), part.count(), spec.cols());
                    BlockQuantization.dequantize(part.of(in), expected);
                    differing += HostData.differing(part.of(result), expected);
                }
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, rows),
                        new Row.Measure("values", (double) differing, 0),
                        new Row.Measure("stray", (double) gpu.strayWrites(out, rows), 0));
            }
        }
    }
}
