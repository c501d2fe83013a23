package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.TransposeQuantizeLaunch;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;

/**
 * Transposition and quantisation against the reference, bit for bit.
 *
 * @param spec the operation; the input has its {@code maxRows} rows, {@code rows} of which are used
 * @param rows rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the matrix
 */
record TransposeQuantizeCase(TransposeQuantizeSpec spec, long rows, long gap, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s k=%d %s%s"
                .formatted(
                        HostData.rows(rows, spec.maxRows()),
                        spec.cols(),
                        spec.scaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor in = HostTensor.allocate(host, DType.BF16, spec.maxRows(), spec.cols());
            HostData.fillForQuantization(in, random);
            final Gpu.Padded values = gpu.poisoned(arena, DType.F8_E4M3, spec.cols(), spec.maxRows(), gap);
            final Scaled<DeviceTensor> out = gpu.withPoisonedScales(arena, values, Scaling.ACTIVATION_1X128);
            try (TransposeQuantizePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    TransposeQuantizeLaunch<DeviceTensor> launch = plan.bind(gpu.upload(arena, in, gap), out)) {
                launch.launch(gpu.stream(), rows);
                final Scaled<HostTensor> result =
                        HostData.quantized(host, Scaling.ACTIVATION_1X128, spec.cols(), spec.maxRows());
                gpu.download(out.values(), result.values());
                gpu.download(out.scales(), result.scales());
                final HostTensor transposed = in.slice(0, 0, rows).transpose(0, 1);
                final long blocks = Math.ceilDiv(rows, 128);
                long differingValues = 0;
                long differingScales = 0;
                for (final HostData.Rows part : HostData.parts(random, spec.cols(), Math.max(1, rows))) {
                    final Scaled<HostTensor> expected =
                            HostData.quantized(host, Scaling.ACTIVATION_1X128, part.count(), rows);
                    BlockQuantization.quantize(part.of(transposed), expected, spec.scaleKind());
                    differingValues +=
                            HostData.differing(part.of(result.values()).slice(1, 0, rows), expected.values());
                    differingScales +=
                            HostData.differing(part.of(result.scales()).slice(1, 0, blocks), expected.scales());
                }
                final long stray = gpu.strayWrites(values, spec.cols())
                        + gpu.written(out.values().slice(1, rows, spec.maxRows()))
                        + gpu.written(out.scales().slice(1, blocks, Math.ceilDiv(spec.maxRows(), 128)));
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
