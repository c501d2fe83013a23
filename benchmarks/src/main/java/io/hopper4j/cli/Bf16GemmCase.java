package io.hopper4j.cli;

import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.reference.MatrixProduct;
import io.hopper4j.reference.ProductSample;
import java.lang.foreign.Arena;
import org.jspecify.annotations.Nullable;

/**
 * BF16 products against the reference; those of a batch lie as the heads of MLA do.
 *
 * @param spec the operation; tensors have its {@code maxM} rows a product, {@code m} of which are used
 * @param m rows in use
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record Bf16GemmCase(Bf16GemmSpec spec, long m, long gap, long seed) implements VerifyCase {
    /** Multiply-adds of the sample that is compared: about 2 GFLOP. */
    private static final long BUDGET = 1_000_000_000L;

    private static final long WIDEST = 512;
    private static final long MOST_PRODUCTS = 8;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "%sm=%s n=%d k=%d %s%s%s"
                .formatted(
                        spec.batch() == 1 ? "" : "batch=" + spec.batch() + " ",
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
        final long batch = spec.batch();
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final Bf16Operands x = Bf16Operands.random(host, random, batch, spec.maxM(), spec.n(), spec.k());
            final HostTensor result = HostTensor.allocate(host, spec.outDType(), spec.maxM() * batch, spec.n());
            final @Nullable HostTensor c = spec.accumulate()
                    ? HostTensor.allocate(host, spec.outDType(), spec.maxM() * batch, spec.n())
                    : null;
            if (c != null) {
                HostData.fillWithNormal(c, random);
            }
            final Gpu.Padded out = gpu.poisoned(arena, spec.outDType(), spec.maxM() * batch, spec.n(), gap);
            final @Nullable DeviceTensor deviceC =
                    c == null ? null : Bf16Operands.inTurn(arena, gpu.upload(arena, c, gap), batch);
            try (Bf16GemmPlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    Bf16GemmLaunch<DeviceTensor> launch = plan.bind(
                            Bf16Operands.inTurn(arena, gpu.upload(arena, x.a(), gap), batch),
                            Bf16Operands.stacked(arena, gpu.upload(arena, x.b(), gap), batch),
                            deviceC,
                            Bf16Operands.inTurn(arena, out.matrix(), batch),
                            gpu.workspace(arena, plan))) {
                launch.launch(gpu.stream(), m);
                gpu.download(out.matrix(), result);
                final long stray = gpu.strayWrites(out, m * batch);
                final GemmTolerance.Result error = compare(x, c, result, random);
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

    private GemmTolerance.Result compare(
            final Bf16Operands x, final @Nullable HostTensor c, final HostTensor result, final SplitMix64 random) {
        final GemmTolerance error = GemmTolerance.ofBf16(spec.outDType(), spec.k());
        final long[] products = HostData.sample(random, spec.batch(), MOST_PRODUCTS);
        final long elements = BUDGET / spec.k() / Math.max(1, products.length);
        for (final long z : products) {
            final long[] columns = HostData.sample(random, spec.n(), m * spec.n() <= elements ? spec.n() : WIDEST);
            final long[] rows = HostData.sample(random, m, Math.max(4, elements / columns.length));
            add(
                    error,
                    MatrixProduct.sample(x.a(z), x.b(z), c == null ? null : x.product(c, z), rows, columns),
                    x.product(result, z));
        }
        return error.result();
    }

    /** Adds the elements of a sample to an error. */
    static void add(final GemmTolerance error, final ProductSample exact, final HostTensor result) {
        for (int i = 0; i < exact.rowCount(); i++) {
            for (int j = 0; j < exact.columnCount(); j++) {
                error.add(result.getFloat(exact.row(i), exact.column(j)), exact.value(i, j), exact.magnitude(i, j));
            }
        }
    }
}
