package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.reference.MatrixProduct;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * {@code bf16_gemm_nt}: D = A B^T of BF16 matrices, BF16 out; m, n, k. {@code bf16_gemm_batched}: many of them, whose rows of A and D lie in turn as the
 * heads of MLA do; batch, m, n, k.
 */
final class Bf16GemmBench implements BenchOperation {
    private static final long SAMPLED_ROWS = 16;
    private static final long SAMPLED_COLUMNS = 512;
    private static final long SAMPLED_PRODUCTS = 4;

    /** N and K of what DeepSeek-V3 keeps in BF16: the router and the head. */
    private static final long[][] LAYERS = {{256, 7168}, {129280, 7168}};

    private static final long[] LAYER_ROWS = {1, 64, 128, 4096};

    /** N and K of the shapes that peers are measured on. */
    private static final long[][] PUBLIC = {
        {2112, 7168}, {576, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168}, {7168, 2048}
    };

    private static final long[] PUBLIC_ROWS = {4096, 64, 128, 1};

    /** Heads of DeepSeek-V3, and N and K of their absorbed projections of keys and of values. */
    private static final long HEADS = 128;

    private static final long[][] ABSORBED = {{128, 512}, {512, 128}};
    private static final long[] REQUESTS = {1, 16, 64, 128, 256};

    private final boolean batched;

    Bf16GemmBench(final boolean batched) {
        this.batched = batched;
    }

    @Override
    public String name() {
        return batched ? "bf16_gemm_batched" : "bf16_gemm_nt";
    }

    @Override
    public String family() {
        return "gemm";
    }

    @Override
    public List<String> keys() {
        return batched ? List.of("batch", "m", "n", "k") : List.of("m", "n", "k");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (batched) {
            if (list == CaseList.DEEPSEEK_V3) {
                for (final long[] matrix : ABSORBED) {
                    for (final long m : REQUESTS) {
                        shapes.add(BenchShape.of("batch", HEADS, "m", m)
                                .with("n", matrix[0])
                                .with("k", matrix[1]));
                    }
                }
            }
            return shapes;
        }
        for (final long m : list == CaseList.PEERS ? PUBLIC_ROWS : LAYER_ROWS) {
            for (final long[] matrix : list == CaseList.PEERS ? PUBLIC : LAYERS) {
                shapes.add(BenchShape.of("m", m, "n", matrix[0]).with("k", matrix[1]));
            }
        }
        return shapes;
    }

    private Bf16GemmSpec spec(final BenchShape shape) {
        return Bf16GemmSpec.batched(batched ? shape.get("batch") : 1, shape.get("m"), shape.get("n"), shape.get("k"));
    }

    @Override
    public Work work(final BenchShape shape) {
        final Bf16GemmSpec spec = spec(shape);
        final double batch = spec.batch();
        final double m = spec.maxM();
        final double n = spec.n();
        final double k = spec.k();
        return Work.bf16(2 * batch * (m * k + n * k + m * n), 2 * batch * m * n * k);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Products(gpu, spec(shape), seed);
    }

    /** Bound products with their operands, on both sides. */
    private static final class Products implements Prepared {
        private final BenchGpu gpu;
        private final Bf16GemmSpec spec;
        private final SplitMix64 random;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final Bf16Operands x;
        private final DeviceTensor a;
        private final DeviceTensor b;
        private final DeviceTensor out;
        private final Bf16GemmPlan<DeviceTensor> plan;
        private final Bf16GemmLaunch<DeviceTensor> launch;
        private NativeBench.Session.@Nullable Product product;

        Products(final BenchGpu gpu, final Bf16GemmSpec spec, final long seed) {
            this.gpu = gpu;
            this.spec = spec;
            this.random = new SplitMix64(seed);
            this.plan = gpu.kernels().plan(spec);
            this.device = gpu.openArena();
            this.x = Bf16Operands.random(host, random, spec.batch(), spec.maxM(), spec.n(), spec.k());
            this.a = gpu.upload(device, x.a());
            this.b = gpu.upload(device, x.b());
            this.out = device.allocate(DType.BF16, spec.maxM() * spec.batch(), spec.n());
            this.launch = plan.bind(
                    Bf16Operands.inTurn(device, a, spec.batch()),
                    Bf16Operands.stacked(device, b, spec.batch()),
                    Bf16Operands.inTurn(device, out, spec.batch()),
                    gpu.gpu().workspace(device, plan));
        }

        @Override
        public String kernel() {
            return plan.kernel();
        }

        @Override
        public void run() {
            launch.launch(gpu.stream());
        }

        @Override
        public Deviation check() {
            final GemmTolerance error = GemmTolerance.ofBf16(DType.BF16, spec.k());
            final HostTensor line = HostTensor.allocate(host, DType.BF16, 1, spec.n());
            final long[] columns = HostData.sample(random, spec.n(), SAMPLED_COLUMNS);
            for (final long z : HostData.sample(random, spec.batch(), SAMPLED_PRODUCTS)) {
                final long[] rows = HostData.sample(random, spec.maxM(), SAMPLED_ROWS);
                line.segment().fill((byte) 0xFF); // NaN: what is not written is found
                for (final long row : rows) {
                    line(row, z).copyFrom(line, gpu.stream());
                }
                gpu.stream().synchronize();
                run();
                final HostTensor rowsOfA = x.a(z);
                final var exact = MatrixProduct.sample(rowsOfA, x.b(z), null, rows, columns);
                for (int i = 0; i < rows.length; i++) {
                    gpu.gpu().download(line(rows[i], z), line);
                    for (int j = 0; j < columns.length; j++) {
                        error.add(line.getFloat(0, columns[j]), exact.value(i, j), exact.magnitude(i, j));
                    }
                }
            }
            final GemmTolerance.Result result = error.result();
            return new Deviation(
                    "cosine",
                    result.cosineDistance(),
                    result.maxCosineDistance(),
                    result.worstRatio(),
                    result.withinBounds());
        }

        private DeviceTensor line(final long row, final long product) {
            final long at = row * spec.batch() + product;
            return out.slice(0, at, at + 1);
        }

        @Override
        public List<Peer> peers() {
            final String name = "cublaslt_bf16";
            if (spec.batch() != 1) {
                return List.of();
            }
            try {
                final DeviceTensor peerOut = device.allocate(DType.BF16, spec.maxM(), spec.n());
                final NativeBench.Session.Product opened = gpu.session()
                        .open(
                                NativeBench.Matmul.BF16,
                                spec.maxM(),
                                spec.n(),
                                spec.k(),
                                a.address(),
                                0,
                                b.address(),
                                0,
                                peerOut.address());
                product = opened;
                // Some algorithms are offered and then refuse the shape.
                opened.run(gpu.stream().handle());
                gpu.stream().synchronize();
                return List.of(new Peer(name, () -> opened.run(gpu.stream().handle()), ""));
            } catch (final NativeBench.Failure e) {
                return List.of(Peer.skipped(name, String.valueOf(e.getMessage())));
            }
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            if (product != null) {
                product.close();
            }
            launch.close();
            plan.close();
            device.close();
            host.close();
        }
    }
}
