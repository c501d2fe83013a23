package io.hopper4j.cli;

import io.hopper4j.DeviceTensor;
import io.hopper4j.Graph;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmSpec;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * {@code fp8_gemm_chain}: one graph of the products of two layers with few rows, one after the other, each with weights of its own; m. Weights are loaded before
 * the product ahead ends; the peer is the same graph without that. {@code us} is the graph's span; {@code usPeerMethod}, the sum of the kernels' own times, counts
 * overlapping kernels twice.
 */
final class GemmChainBench implements BenchOperation {
    /** N and K, in this order, twice. */
    private static final long[][] LAYER = {{7168, 2048}, {4096, 7168}, {2112, 7168}, {24576, 1536}};

    private static final int LAYERS = 2;
    private static final GemmBench PRODUCT = new GemmBench(false);

    @Override
    public String name() {
        return "fp8_gemm_chain";
    }

    @Override
    public String family() {
        return "gemm";
    }

    @Override
    public List<String> keys() {
        return List.of("m");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        return list == CaseList.PEERS ? List.of(new BenchShape(Map.of("m", 64L))) : List.of();
    }

    private static BenchShape product(final long m, final long[] matrix) {
        return BenchShape.of("m", m, "n", matrix[0]).with("k", matrix[1]);
    }

    @Override
    public Work work(final BenchShape shape) {
        double bytes = 0;
        double flops = 0;
        for (final long[] matrix : LAYER) {
            final Work one = PRODUCT.work(product(shape.get("m"), matrix));
            bytes += LAYERS * one.bytes();
            flops += LAYERS * one.flops();
        }
        return new Work(bytes, flops);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Chain(gpu, shape.get("m"), seed);
    }

    private static final class Chain implements Prepared {
        private final BenchGpu gpu;
        private final List<GemmBench.Product> products = new ArrayList<>();
        private final Graph graph;
        private final Graph apart;

        Chain(final BenchGpu gpu, final long m, final long seed) {
            this.gpu = gpu;
            final List<GemmLaunch<DeviceTensor>> ordinary = new ArrayList<>();
            for (int i = 0; i < LAYERS * LAYER.length; i++) {
                final long[] matrix = LAYER[i % LAYER.length];
                final GemmSpec spec = GemmSpec.of(m, matrix[0], matrix[1]);
                final GemmBench.Product product = new GemmBench.Product(gpu, spec.withConstantB(true), seed + i);
                products.add(product);
                ordinary.add(product.bind(spec));
            }
            this.graph = gpu.stream().capture(_ -> products.forEach(GemmBench.Product::run));
            this.apart = gpu.stream().capture(on -> ordinary.forEach(launch -> launch.launch(on)));
        }

        @Override
        public String kernel() {
            return products.size() + " kernels, the first "
                    + products.getFirst().kernel();
        }

        @Override
        public void run() {
            graph.launch(gpu.stream());
        }

        /** The worst of the products, each run for itself: their operands are apart. */
        @Override
        public Deviation check() {
            return products.stream()
                    .map(GemmBench.Product::check)
                    .max(Comparator.comparingInt((Deviation d) -> d.within() ? 0 : 1)
                            .thenComparingDouble(Deviation::ratio))
                    .orElseThrow();
        }

        @Override
        public List<Peer> peers() {
            return List.of(new Peer("without_programmatic_launch", () -> apart.launch(gpu.stream()), ""));
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            graph.close();
            apart.close();
            products.forEach(GemmBench.Product::close);
        }
    }
}
