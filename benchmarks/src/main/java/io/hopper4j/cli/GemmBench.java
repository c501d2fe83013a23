package io.hopper4j.cli;

import io.hopper4j.DType;
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
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * {@code fp8_gemm_nt}: D = A B^T with 1x128 scales of A and 128x128 scales of B, BF16 out; m, n, k. With one row a plain read of B is timed beside it.
 * {@code fp8_gemm_nt_batch_invariant}: the same with that option, and the product without it as its peer.
 */
final class GemmBench implements BenchOperation {
    private static final long BLOCK = 128;
    private static final long SAMPLED_ROWS = 16;
    private static final long SAMPLED_COLUMNS = 512;

    /** What cuBLASLt pads the rows of 128x128 scales to. */
    private static final long PEER_SCALE_UNIT = 4;

    /** N and K of DeepSeek-V3's linear layers in FP8, fused as they are run; the router and the head are not FP8. */
    private static final long[][] LAYERS = {
        {1536, 7168}, // q_a
        {576, 7168}, // kv_a with the rotary key
        {2112, 7168}, // q_a and kv_a
        {24576, 1536}, // q_b
        {32768, 512}, // kv_b
        {7168, 16384}, // o
        {36864, 7168}, // gate and up of the dense layers
        {7168, 18432}, // down of the dense layers
        {4096, 7168}, // gate and up of an expert
        {7168, 2048}, // down of an expert
    };

    private static final long[] LAYER_ROWS = {1, 64, 128, 4096};

    private static final long[][] PUBLIC = {
        {2112, 7168}, {576, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168}, {7168, 2048}
    };

    private static final long[] PUBLIC_ROWS = {64, 128, 4096, 1};
    private static final long[] INVARIANT_ROWS = {64, 128, 4096};

    private final boolean batchInvariant;

    GemmBench(final boolean batchInvariant) {
        this.batchInvariant = batchInvariant;
    }

    @Override
    public String name() {
        return batchInvariant ? "fp8_gemm_nt_batch_invariant" : "fp8_gemm_nt";
    }

    @Override
    public String family() {
        return "gemm";
    }

    @Override
    public List<String> keys() {
        return List.of("m", "n", "k");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        return switch (list) {
            case DEEPSEEK_V3 -> batchInvariant ? List.of() : cross(LAYER_ROWS, LAYERS);
            case PEERS -> cross(batchInvariant ? INVARIANT_ROWS : PUBLIC_ROWS, PUBLIC);
        };
    }

    private static List<BenchShape> cross(final long[] rows, final long[][] matrices) {
        final List<BenchShape> shapes = new ArrayList<>();
        for (final long m : rows) {
            for (final long[] matrix : matrices) {
                shapes.add(BenchShape.of("m", m, "n", matrix[0]).with("k", matrix[1]));
            }
        }
        return shapes;
    }

    @Override
    public Work work(final BenchShape shape) {
        final double m = shape.get("m");
        final double n = shape.get("n");
        final double k = shape.get("k");
        final double blocks = Math.ceilDiv(shape.get("k"), BLOCK);
        final double scales = 4 * blocks * (m + Math.ceilDiv(shape.get("n"), BLOCK));
        return new Work(m * k + n * k + 2 * m * n + scales, 2 * m * n * k);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final GemmSpec spec = GemmSpec.of(shape.get("m"), shape.get("n"), shape.get("k"));
        return new Product(gpu, spec.withBatchInvariant(batchInvariant), seed);
    }

    /** One bound product with its operands, on both sides. */
    static final class Product implements Prepared {
        private final BenchGpu gpu;
        private final GemmSpec spec;
        private final SplitMix64 random;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final Scaled<HostTensor> a;
        private final Scaled<HostTensor> b;
        private final Scaled<DeviceTensor> deviceA;
        private final Scaled<DeviceTensor> deviceB;
        private final DeviceTensor out;
        private final GemmPlan<DeviceTensor> plan;
        private final GemmLaunch<DeviceTensor> launch;
        private final List<NativeBench.Session.Product> products = new ArrayList<>();
        private final List<Runnable> others = new ArrayList<>();

        Product(final BenchGpu gpu, final GemmSpec spec, final long seed) {
            this.gpu = gpu;
            this.spec = spec;
            this.random = new SplitMix64(seed);
            this.plan = gpu.kernels().plan(spec);
            this.device = gpu.openArena();
            this.a = HostData.randomQuantized(host, random, spec.aScaling(), spec.maxM(), spec.k());
            this.b = HostData.randomQuantized(host, random, spec.bScaling(), spec.n(), spec.k());
            this.deviceA = gpu.upload(device, a);
            this.deviceB = gpu.upload(device, b);
            this.out = device.allocate(DType.BF16, spec.maxM(), spec.n());
            this.launch = plan.bind(deviceA, deviceB, out, gpu.gpu().workspace(device, plan));
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
            final long[] rows = HostData.sample(random, spec.maxM(), SAMPLED_ROWS);
            final long[] columns = HostData.sample(random, spec.n(), SAMPLED_COLUMNS);
            final HostTensor line = HostTensor.allocate(host, DType.BF16, 1, spec.n());
            line.segment().fill((byte) 0xFF); // NaN: what is not written is found
            for (final long row : rows) {
                out.slice(0, row, row + 1).copyFrom(line, gpu.stream());
            }
            run();
            final ProductSample exact = BlockScaledProduct.sample(a, b, null, rows, columns);
            final GemmTolerance error = GemmTolerance.of(DType.BF16);
            for (int i = 0; i < rows.length; i++) {
                gpu.gpu().download(out.slice(0, rows[i], rows[i] + 1), line);
                for (int j = 0; j < columns.length; j++) {
                    error.add(line.getFloat(0, columns[j]), exact.value(i, j), exact.magnitude(i, j));
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

        @Override
        public List<Peer> peers() {
            if (spec.batchInvariant()) {
                final GemmLaunch<DeviceTensor> ordinary = bind(spec.withBatchInvariant(false));
                return List.of(new Peer("fp8_gemm_nt", () -> ordinary.launch(gpu.stream()), ""));
            }
            final List<Peer> peers = new ArrayList<>();
            if (spec.maxM() == 1) {
                final DeviceTensor values = deviceB.values();
                final long bytes = spec.n() * spec.k();
                peers.add(new Peer(
                        "read_of_b", () -> gpu.session().readAll(gpu.stream().handle(), values.address(), bytes), ""));
            }
            for (final NativeBench.Matmul kind : NativeBench.Matmul.values()) {
                final String name = "cublaslt_" + kind.name().toLowerCase(Locale.ROOT);
                try {
                    final NativeBench.Session.Product product = open(kind);
                    products.add(product);
                    // Some algorithms are offered and then refuse the shape.
                    product.run(gpu.stream().handle());
                    gpu.stream().synchronize();
                    peers.add(new Peer(name, () -> product.run(gpu.stream().handle()), ""));
                } catch (final NativeBench.Failure e) {
                    peers.add(Peer.skipped(name, String.valueOf(e.getMessage())));
                }
            }
            return peers;
        }

        /** {@return a launch of another plan on the same operands, closed with this} */
        GemmLaunch<DeviceTensor> bind(final GemmSpec other) {
            final GemmPlan<DeviceTensor> otherPlan = gpu.kernels().plan(other);
            final GemmLaunch<DeviceTensor> otherLaunch =
                    otherPlan.bind(deviceA, deviceB, out, gpu.gpu().workspace(device, otherPlan));
            others.add(otherLaunch::close);
            others.add(otherPlan::close);
            return otherLaunch;
        }

        private NativeBench.Session.Product open(final NativeBench.Matmul kind) {
            final long m = spec.maxM();
            final long n = spec.n();
            final long k = spec.k();
            final DeviceTensor peerOut = device.allocate(DType.BF16, m, n);
            if (kind == NativeBench.Matmul.BF16) {
                return gpu.session()
                        .open(
                                kind,
                                m,
                                n,
                                k,
                                bf16(deviceA).address(),
                                0,
                                bf16(deviceB).address(),
                                0,
                                peerOut.address());
            }
            return gpu.session()
                    .open(
                            kind,
                            m,
                            n,
                            k,
                            deviceA.values().address(),
                            deviceA.scales().address(),
                            deviceB.values().address(),
                            kind == NativeBench.Matmul.FP8_BLOCK
                                    ? paddedScales().address()
                                    : 0,
                            peerOut.address());
        }

        private DeviceTensor bf16(final Scaled<DeviceTensor> matrix) {
            final DeviceTensor result = device.allocate(DType.BF16, matrix.rows(), matrix.cols());
            gpu.kernels().dequantize(matrix, result, gpu.stream());
            return result;
        }

        /** The scales of B with rows as long as cuBLASLt reads them. */
        private DeviceTensor paddedScales() {
            final HostTensor scales = b.scales();
            final long blocks = scales.shape().size(1);
            final HostTensor padded = HostTensor.allocate(
                    host, DType.F32, scales.shape().size(0), Math.ceilDiv(blocks, PEER_SCALE_UNIT) * PEER_SCALE_UNIT);
            for (long i = 0; i < scales.shape().size(0); i++) {
                padded.select(0, i)
                        .slice(0, 0, blocks)
                        .setFloats(scales.select(0, i).toFloats());
            }
            return gpu.upload(device, padded);
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            products.forEach(NativeBench.Session.Product::close);
            others.forEach(Runnable::run);
            launch.close();
            plan.close();
            device.close();
            host.close();
        }
    }
}
