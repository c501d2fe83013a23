package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;

/**
 * One quantisation against the reference, bit for bit.
 *
 * @param spec the operation; tensors have its {@code maxRows} rows, {@code rows} of which are used
 * @param rows rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the matrix
 */
record QuantizeCase(QuantizeSpec spec, long rows, long gap, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s k=%d %s %s %s%s"
                .formatted(
                        HostData.rows(rows, spec.maxRows()),
                        spec.cols(),
                        spec.inDType(),
                        spec.scaling(),
                        spec.scaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor in = HostTensor.allocate(host, spec.inDType(), spec.maxRows(), spec.cols());
            HostData.fillForQuantization(in, random);
            final Gpu.Padded values = gpu.poisoned(arena, DType.F8_E4M3, spec.maxRows(), spec.cols(), gap);
            final Scaled<DeviceTensor> out = gpu.withPoisonedScales(arena, values, spec.scaling());
            try (QuantizePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    QuantizeLaunch<DeviceTensor> launch = plan.bind(gpu.upload(arena, in, gap), out)) {
                launch.launch(gpu.stream(), rows);
                final Scaled<HostTensor> result = HostData.quantized(host, spec.scaling(), spec.maxRows(), spec.cols());
                gpu.download(out.values(), result.values());
                gpu.download(out.scales(), result.scales());
                long differingValues = 0;
                long differingScales = 0;
                for (final HostData.Rows part : HostData.parts(random, rows, spec.cols())) {
                    final Scaled<HostTensor> expected =
                            HostData.quantized(host, spec.scaling(), part.count(), spec.cols());
                    BlockQuantization.quantize(part.of(in), expected, spec.scaleKind());
                    final Scaled<HostTensor> got = part.of(result);
                    differingValues += HostData.differing(got.values(), expected.values());
                    differingScales += HostData.differing(got.scales(), expected.scales());
                }
                final long usedScales = Math.ceilDiv(rows, ((Scaling.Block) spec.scaling()).rows());
                final long stray = gpu.strayWrites(values, rows)
                        + gpu.written(out.scales()
                                .slice(0, usedScales, out.scales().shape().size(0)));
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, rows),
                        new Row.Measure("values", (double) differingValues, 0),
                        new Row.Measure("scales", (double) differingScales, 0),
                        new Row.Measure("stray", (double) stray, 0));
            }
        }
    }
}
