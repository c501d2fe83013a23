package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.RmsNorm;
import java.lang.foreign.Arena;

/**
 * RMSNorm and quantisation against the reference.
 *
 * @param spec the operation; tensors have its {@code maxRows} rows, {@code rows} of which are used
 * @param rows rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record RmsNormQuantizeCase(RmsNormQuantizeSpec spec, long rows, long gap, long seed) implements VerifyCase {
    /** Half a unit of BF16, and a few of F32. */
    private static final double BF16_BOUND = 0x1.02p-8;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s k=%d %s%s%s %s%s"
                .formatted(
                        HostData.rows(rows, spec.maxRows()),
                        spec.cols(),
                        spec.weightDType(),
                        spec.residual() ? " residual" : "",
                        spec.normalized() ? " normalized" : "",
                        spec.scaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor in = HostTensor.allocate(host, DType.BF16, spec.maxRows(), spec.cols());
            final HostTensor residual = HostTensor.allocate(host, DType.BF16, spec.maxRows(), spec.cols());
            final HostTensor weight = HostTensor.allocate(host, spec.weightDType(), 1, spec.cols());
            HostData.fillWithNormal(in, random);
            HostData.fillWithNormal(residual, random);
            HostData.fillWithNormal(weight, random);
            final Gpu.Padded values = gpu.poisoned(arena, DType.F8_E4M3, spec.maxRows(), spec.cols(), gap);
            final Scaled<DeviceTensor> out = gpu.withPoisonedScales(arena, values, Scaling.ACTIVATION_1X128);
            final Gpu.Padded normalized = gpu.poisoned(arena, DType.BF16, spec.maxRows(), spec.cols(), gap);
            final DeviceTensor sums = gpu.upload(arena, residual, gap);
            try (RmsNormQuantizePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    RmsNormQuantizeLaunch<DeviceTensor> launch = plan.bind(
                            gpu.upload(arena, in, gap),
                            spec.residual() ? sums : null,
                            gpu.copy(arena, weight.select(0, 0)),
                            out,
                            spec.normalized() ? normalized.matrix() : null)) {
                launch.launch(gpu.stream(), rows);
                final Scaled<HostTensor> got =
                        HostData.quantized(host, Scaling.ACTIVATION_1X128, spec.maxRows(), spec.cols());
                gpu.download(out.values(), got.values());
                gpu.download(out.scales(), got.scales());
                final HostTensor gotNormalized = HostTensor.allocate(host, DType.BF16, spec.maxRows(), spec.cols());
                final HostTensor gotSums = HostTensor.allocate(host, DType.BF16, spec.maxRows(), spec.cols());
                gpu.download(normalized.matrix(), gotNormalized);
                gpu.download(sums, gotSums);
                final QuantizeTolerance tolerance = new QuantizeTolerance(spec.scaleKind());
                final float[] w = weight.toFloats();
                double worst = 0;
                long differing = 0;
                for (final HostData.Rows part : HostData.parts(random, rows, spec.cols())) {
                    for (long r = part.first(); r < part.first() + part.count(); r++) {
                        final HostTensor x = spec.residual()
                                ? sum(
                                        host,
                                        in.select(0, r).toFloats(),
                                        residual.select(0, r).toFloats())
                                : in.select(0, r);
                        final double[] exact = RmsNorm.normalize(x.toFloats(), w, spec.eps());
                        QuantizedRows.add(tolerance, got, r, exact);
                        if (spec.residual()) {
                            differing += HostData.differing(gotSums.select(0, r), x);
                        }
                        if (spec.normalized()) {
                            final float[] y = gotNormalized.select(0, r).toFloats();
                            for (int c = 0; c < y.length; c++) {
                                // An exact 0, where residual and input cancel, must be 0.
                                final double bound = Math.max(BF16_BOUND * Math.abs(exact[c]), Double.MIN_NORMAL);
                                worst = Math.max(worst, Math.abs(y[c] - exact[c]) / bound);
                            }
                        }
                    }
                }
                final long stray = gpu.strayWrites(values, rows)
                        + gpu.strayWrites(normalized, spec.normalized() ? rows : 0)
                        + gpu.written(out.scales().slice(0, rows, spec.maxRows()));
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, rows),
                        new Row.Measure("values/bound", tolerance.worstValueRatio(), 1),
                        new Row.Measure("scales/bound", tolerance.worstScaleRatio(), 1),
                        new Row.Measure("norm/bound", worst, 1),
                        new Row.Measure("sums", (double) differing, 0),
                        new Row.Measure("stray", (double) stray, 0));
            }
        }
    }

    private static HostTensor sum(final Arena host, final float[] x, final float[] y) {
        final float[] sums = x.clone();
        for (int c = 0; c < sums.length; c++) {
            sums[c] += y[c];
        }
        final HostTensor rounded = HostTensor.allocate(host, DType.BF16, sums.length);
        rounded.setFloats(sums);
        return rounded;
    }
}
