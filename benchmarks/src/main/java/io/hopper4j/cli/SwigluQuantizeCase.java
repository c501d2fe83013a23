package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.reference.FusedQuantization;
import java.lang.foreign.Arena;
import java.util.Arrays;

/**
 * SwiGLU and quantisation against the reference.
 *
 * @param spec the operation
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record SwigluQuantizeCase(SwigluQuantizeSpec spec, long gap, long seed) implements VerifyCase {
    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "%sm=%d k=%d%s %s%s"
                .formatted(
                        spec.masked() ? "g=" + spec.groups() + " of " : "",
                        spec.maxRows(),
                        spec.cols(),
                        spec.weighted() ? " weighted" : "",
                        spec.scaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor in = HostTensor.allocate(host, DType.BF16, spec.rows(), 2 * spec.cols());
            HostData.fillWithNormal(in, random);
            final HostTensor weights = HostTensor.allocate(host, DType.F32, spec.rows());
            final HostTensor counts = HostTensor.allocate(host, DType.I32, spec.groups());
            final float[] w = new float[Math.toIntExact(spec.rows())];
            for (int i = 0; i < w.length; i++) {
                w[i] = (float) (2.5 * random.fraction());
            }
            weights.setFloats(w);
            final long[] used = new long[spec.groups()];
            Arrays.setAll(used, _ -> spec.masked() ? random.below(spec.maxRows() + 1) : spec.maxRows());
            for (int g = 0; g < used.length; g++) {
                counts.setFloat((float) used[g], g);
            }
            final Gpu.Padded values = gpu.poisoned(arena, DType.F8_E4M3, spec.rows(), spec.cols(), gap);
            final Scaled<DeviceTensor> out = gpu.withPoisonedScales(arena, values, Scaling.ACTIVATION_1X128);
            try (SwigluQuantizePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    SwigluQuantizeLaunch<DeviceTensor> launch = plan.bind(
                            gpu.upload(arena, in, gap),
                            spec.weighted() ? gpu.copy(arena, weights) : null,
                            spec.masked() ? gpu.copy(arena, counts) : null,
                            out)) {
                launch.launch(gpu.stream());
                final Scaled<HostTensor> got =
                        HostData.quantized(host, Scaling.ACTIVATION_1X128, spec.rows(), spec.cols());
                gpu.download(out.values(), got.values());
                gpu.download(out.scales(), got.scales());
                final QuantizeTolerance tolerance = new QuantizeTolerance(spec.scaleKind());
                long stray = spec.masked() ? 0 : gpu.strayWrites(values, spec.maxRows());
                for (int g = 0; g < used.length; g++) {
                    final long first = g * spec.maxRows();
                    for (final HostData.Rows part : HostData.parts(random, used[g], spec.cols())) {
                        for (long r = first + part.first(); r < first + part.first() + part.count(); r++) {
                            QuantizedRows.add(
                                    tolerance,
                                    got,
                                    r,
                                    FusedQuantization.swiglu(
                                            in.select(0, r).toFloats(), spec.weighted() ? w[(int) r] : 1));
                        }
                    }
                    final long from = first + used[g];
                    final long to = first + spec.maxRows();
                    stray += gpu.written(out.values().slice(0, from, to))
                            + gpu.written(out.scales().slice(0, from, to));
                }
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, spec.maxRows()),
                        new Row.Measure("values/bound", tolerance.worstValueRatio(), 1),
                        new Row.Measure("scales/bound", tolerance.worstScaleRatio(), 1),
                        new Row.Measure("stray", (double) stray, 0));
            }
        }
    }
}
