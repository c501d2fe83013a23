package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.ProductSample;
import java.lang.foreign.Arena;
import java.util.stream.LongStream;

/**
 * One product with quantised output against the reference.
 *
 * @param spec the operation; tensors have its {@code maxM} rows, {@code m} of which are used
 * @param m rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record QuantizedGemmCase(GemmSpec spec, long m, long gap, long seed) implements VerifyCase {
    /** Multiply-adds of the rows that are compared. */
    private static final long BUDGET = 200_000_000L;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s n=%d k=%d %s %s%s"
                .formatted(
                        HostData.rows(m, spec.maxM()),
                        spec.n(),
                        spec.k(),
                        spec.outDType(),
                        spec.outScaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final Scaled<HostTensor> a = HostData.randomQuantized(host, random, spec.aScaling(), spec.maxM(), spec.k());
            final Scaled<HostTensor> b = HostData.randomQuantized(host, random, spec.bScaling(), spec.n(), spec.k());
            final Gpu.Padded values = gpu.poisoned(arena, DType.F8_E4M3, spec.maxM(), spec.n(), gap);
            final Scaled<DeviceTensor> out = gpu.withPoisonedScales(arena, values, Scaling.ACTIVATION_1X128);
            try (GemmPlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    GemmLaunch<DeviceTensor> launch = plan.bind(
                            gpu.upload(arena, a, gap), gpu.upload(arena, b, gap), out, gpu.workspace(arena, plan))) {
                launch.launch(gpu.stream(), m);
                final Scaled<HostTensor> got =
                        HostData.quantized(host, Scaling.ACTIVATION_1X128, spec.maxM(), spec.n());
                gpu.download(out.values(), got.values());
                gpu.download(out.scales(), got.scales());
                final QuantizeTolerance error = new QuantizeTolerance(spec.outScaleKind());
                final long[] rows = HostData.sample(random, m, Math.max(4, BUDGET / (spec.n() * spec.k())));
                add(
                        error,
                        BlockScaledProduct.sample(
                                a, b, null, rows, LongStream.range(0, spec.n()).toArray()),
                        got);
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, m),
                        new Row.Measure("values/bound", error.worstValueRatio(), 1),
                        new Row.Measure("scales/bound", error.worstScaleRatio(), 1),
                        new Row.Measure(
                                "stray",
                                (double) gpu.strayWrites(values, m)
                                        + gpu.written(out.scales().slice(0, m, spec.maxM())),
                                0));
            }
        }
    }

    /** Adds whole rows of a product to a measure. */
    static void add(final QuantizeTolerance error, final ProductSample exact, final Scaled<HostTensor> got) {
        final GemmTolerance sums = GemmTolerance.of(DType.F32);
        for (int i = 0; i < exact.rowCount(); i++) {
            final double[] value = new double[exact.columnCount()];
            final double[] slack = new double[value.length];
            for (int j = 0; j < value.length; j++) {
                value[j] = exact.value(i, j);
                slack[j] = sums.bound(value[j], exact.magnitude(i, j));
            }
            QuantizedRows.add(error, got, exact.row(i), value, slack);
        }
    }
}
