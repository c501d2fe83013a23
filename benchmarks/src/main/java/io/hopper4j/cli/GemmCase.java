package io.hopper4j.cli;

import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.ProductSample;
import java.lang.foreign.Arena;
import org.jspecify.annotations.Nullable;

/**
 * One product against the reference.
 *
 * @param spec the operation; tensors have its {@code maxM} rows, {@code m} of which are used
 * @param m rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record GemmCase(GemmSpec spec, long m, long gap, long seed) implements VerifyCase {
    /** Multiply-adds of the sample that is compared: about 2 GFLOP. */
    private static final long BUDGET = 1_000_000_000L;

    private static final long WIDEST = 512;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "m=%s n=%d k=%d %s%s%s"
                .formatted(
                        HostData.rows(m, spec.maxM()),
                        spec.n(),
                        spec.k(),
                        spec.outDType(),
                        spec.accumulate() ? " accumulate" : "",
                        gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final Scaled<HostTensor> a = HostData.randomQuantized(host, random, spec.aScaling(), spec.maxM(), spec.k());
            final Scaled<HostTensor> b = HostData.randomQuantized(host, random, spec.bScaling(), spec.n(), spec.k());
            final @Nullable HostTensor c = spec.accumulate() ? addend(host, random) : null;
            final Gpu.Padded out = gpu.poisoned(arena, spec.outDType(), spec.maxM(), spec.n(), gap);
            final @Nullable DeviceTensor deviceC = c == null ? null : gpu.upload(arena, c, gap);
            try (GemmPlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    GemmLaunch<DeviceTensor> launch = plan.bind(
                            gpu.upload(arena, a, gap),
                            gpu.upload(arena, b, gap),
                            deviceC,
                            out.matrix(),
                            gpu.workspace(arena, plan))) {
                launch.launch(gpu.stream(), m);
                final HostTensor result = HostTensor.allocate(host, spec.outDType(), spec.maxM(), spec.n());
                gpu.download(out.matrix(), result);
                final long stray = gpu.strayWrites(out, m);
                final GemmTolerance.Result error = compare(a, b, c, result, random);
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, m),
                        new Row.Measure("error/bound", error.worstRatio(), 1),
                        new Row.Measure("1-cos", error.cosineDistance(), error.maxCosineDistance()),
                        new Row.Measure("stray", (double) stray, 0));
            }
        }
    }

    private HostTensor addend(final Arena host, final SplitMix64 random) {
        final HostTensor c = HostTensor.allocate(host, spec.outDType(), spec.maxM(), spec.n());
        HostData.fillWithNormal(c, random); // of the size of the product, so that neither hides the other
        return c;
    }

    private GemmTolerance.Result compare(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor result,
            final SplitMix64 random) {
        final long elements = BUDGET / spec.k();
        final long[] columns = HostData.sample(random, spec.n(), m * spec.n() <= elements ? spec.n() : WIDEST);
        final long[] rows = HostData.sample(random, m, Math.max(4, elements / columns.length));
        return compare(BlockScaledProduct.sample(a, b, c, rows, columns), result);
    }

    /** {@return the error of a product against a sample of the exact one} */
    static GemmTolerance.Result compare(final ProductSample exact, final HostTensor result) {
        final GemmTolerance error = GemmTolerance.of(result.dtype());
        for (int i = 0; i < exact.rowCount(); i++) {
            for (int j = 0; j < exact.columnCount(); j++) {
                error.add(result.getFloat(exact.row(i), exact.column(j)), exact.value(i, j), exact.magnitude(i, j));
            }
        }
        return error.result();
    }
}
