package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceTensor;
import io.hopper4j.gemm.GemmTolerance;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.LongStream;

/**
 * {@code fp8_gemm_grouped_contiguous}, with groups that are multiples of 128 rows, and {@code fp8_gemm_grouped_contiguous_unaligned}, with groups of any
 * size: groups, mean rows, n, k. {@code fp8_gemm_grouped_masked}: groups, rows that each has room for, mean rows, n, k. {@code fp8_gemm_k_grouped}: groups,
 * m, n, K of all groups, added to F32. Groups have 0.7 to 1.3 of the mean.
 */
final class GroupedGemmBench implements BenchOperation {
    private static final long BLOCK = 128;
    private static final long SAMPLED_ROWS = 4;
    private static final long SAMPLED_COLUMNS = 256;

    /** N and K of the published rows, and of DeepSeek-V3's experts: gate and up, down. */
    private static final long[][] PUBLIC = {{6144, 7168}, {7168, 3072}, {4096, 4096}, {4096, 2048}};

    private static final long[][] EXPERT = {{4096, 7168}, {7168, 2048}};

    /** Groups and mean rows. */
    private static final long[][] CONTIGUOUS = {{4, 8160}, {8, 4192}};

    private static final long[][] CONTIGUOUS_EXPERTS = {{32, 1024}, {256, 128}};

    /** Groups, mean rows and rows of all groups. */
    private static final long[][] MASKED = {{32, 192, 6387}, {6, 1024, 6530}, {32, 20, 605}, {6, 20, 102}};

    private static final long MASKED_ROOM = 4096;

    /** Groups, m, n and K of all groups. */
    private static final long[][] K_GROUPED = {{4, 4096, 7168, 32640}, {4, 7168, 2048, 32640}};

    private final GroupedProducts.Form form;
    private final boolean aligned;

    GroupedGemmBench(final GroupedProducts.Form form, final boolean aligned) {
        this.form = form;
        this.aligned = aligned;
    }

    @Override
    public String name() {
        return switch (form) {
            case CONTIGUOUS -> "fp8_gemm_grouped_contiguous" + (aligned ? "" : "_unaligned");
            case MASKED -> "fp8_gemm_grouped_masked";
            default -> "fp8_gemm_k_grouped";
        };
    }

    @Override
    public String family() {
        return "gemm";
    }

    @Override
    public List<String> keys() {
        return switch (form) {
            case CONTIGUOUS -> List.of("groups", "rows", "n", "k");
            case MASKED -> List.of("groups", "maxRows", "meanRows", "n", "k");
            default -> List.of("groups", "m", "n", "sumK");
        };
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        final boolean peers = list == CaseList.PEERS;
        switch (form) {
            case CONTIGUOUS -> {
                for (final long[] groups : peers ? CONTIGUOUS : CONTIGUOUS_EXPERTS) {
                    for (final long[] matrix : peers ? PUBLIC : EXPERT) {
                        shapes.add(BenchShape.of("groups", groups[0], "rows", groups[1])
                                .with("n", matrix[0])
                                .with("k", matrix[1]));
                    }
                }
            }
            case MASKED -> {
                for (final long[] groups : MASKED) {
                    for (final long[] matrix : peers ? PUBLIC : EXPERT) {
                        shapes.add(BenchShape.of("groups", groups[0], "maxRows", MASKED_ROOM)
                                .with("meanRows", groups[1])
                                .with("n", matrix[0])
                                .with("k", matrix[1]));
                    }
                }
            }
            default -> {
                if (peers) {
                    for (final long[] row : K_GROUPED) {
                        shapes.add(BenchShape.of("groups", row[0], "m", row[1])
                                .with("n", row[2])
                                .with("sumK", row[3]));
                    }
                }
            }
        }
        return shapes;
    }

    /** {@return the rows, or K, of all groups: what the peers used where they published} */
    private long total(final BenchShape shape) {
        return switch (form) {
            case CONTIGUOUS -> shape.get("groups") * shape.get("rows");
            case MASKED ->
                Arrays.stream(MASKED)
                        .filter(row -> row[0] == shape.get("groups") && row[1] == shape.get("meanRows"))
                        .mapToLong(row -> row[2])
                        .findFirst()
                        .orElse(shape.get("groups") * shape.get("meanRows"));
            default -> shape.get("sumK");
        };
    }

    /** {@return groups of 0.7 to 1.3 of the mean that add up to the total, in units of 128 where they are aligned} */
    private List<Long> sizes(final BenchShape shape, final SplitMix64 random) {
        final int groups = Math.toIntExact(shape.get("groups"));
        final long total = total(shape);
        final long unit = aligned || form == GroupedProducts.Form.K ? BLOCK : 1;
        final double[] shares = new double[groups];
        double sum = 0;
        for (int g = 0; g < groups; g++) {
            shares[g] = 0.7 + 0.6 * random.fraction();
            sum += shares[g];
        }
        final List<Long> sizes = new ArrayList<>();
        long end = 0;
        double share = 0;
        for (int g = 0; g < groups; g++) {
            share += shares[g];
            final long next = g == groups - 1 ? total : Math.round(total * share / sum / unit) * unit;
            sizes.add(next - end);
            end = next;
        }
        return sizes;
    }

    @Override
    public Work work(final BenchShape shape) {
        final double total = total(shape);
        final double groups = shape.get("groups");
        final double n = shape.get("n");
        if (form == GroupedProducts.Form.K) {
            final double m = shape.get("m");
            return new Work((m + n) * total * (1 + 4.0 / BLOCK) + 8 * groups * m * n, 2 * m * n * total);
        }
        final double k = shape.get("k");
        final double scales =
                4 * Math.ceilDiv(shape.get("k"), BLOCK) * (total + groups * Math.ceilDiv(shape.get("n"), BLOCK));
        return new Work((total + groups * n) * k + 2 * total * n + scales, 2 * total * n * k);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final SplitMix64 random = new SplitMix64(seed);
        final List<Long> sizes = sizes(shape, random);
        final long largest = sizes.stream().mapToLong(Long::longValue).max().orElse(0);
        final GroupedProducts.Shape product = switch (form) {
            case CONTIGUOUS -> new GroupedProducts.Shape(form, sizes, 0, 0, 0, shape.get("n"), shape.get("k"), false);
            case MASKED ->
                new GroupedProducts.Shape(
                        form,
                        sizes,
                        Math.max(0, shape.get("maxRows") - largest),
                        shape.get("meanRows"),
                        0,
                        shape.get("n"),
                        shape.get("k"),
                        false);
            default -> new GroupedProducts.Shape(form, sizes, 0, 0, shape.get("m"), shape.get("n"), 0, false);
        };
        return new Products(gpu, new GroupedProducts(gpu.gpu(), product, random), product, random);
    }

    private static final class Products implements Prepared {
        private final BenchGpu gpu;
        private final GroupedProducts bound;
        private final GroupedProducts.Shape shape;
        private final SplitMix64 random;
        private final List<NativeBench.Session.Product> products = new ArrayList<>();

        Products(
                final BenchGpu gpu,
                final GroupedProducts bound,
                final GroupedProducts.Shape shape,
                final SplitMix64 random) {
            this.gpu = gpu;
            this.bound = bound;
            this.shape = shape;
            this.random = random;
        }

        @Override
        public String kernel() {
            return bound.plan().kernel();
        }

        @Override
        public void run() {
            bound.launch().launch(gpu.stream());
        }

        @Override
        public Deviation check() {
            bound.restore();
            run();
            final GemmTolerance.Result result = bound.error(random, SAMPLED_ROWS, SAMPLED_COLUMNS);
            return new Deviation(
                    "cosine",
                    result.cosineDistance(),
                    result.maxCosineDistance(),
                    result.worstRatio(),
                    result.withinBounds());
        }

        /** The rows of all groups against one matrix, per tensor, which is less work; and a read of all B, below which few rows cannot get. */
        @Override
        public List<Peer> peers() {
            final List<Peer> peers = new ArrayList<>();
            final boolean k = shape.form() == GroupedProducts.Form.K;
            if (!k) {
                final DeviceTensor b = bound.deviceB().values();
                final long bytes = LongStream.of(b.shape().toArray()).reduce(1, Math::multiplyExact);
                peers.add(new Peer(
                        "read_of_b", () -> gpu.session().readAll(gpu.stream().handle(), b.address(), bytes), ""));
            }
            final String name = "cublaslt_fp8_per_tensor_one_group";
            try {
                final long rows = k ? shape.m() : Math.max(16, shape.total() / 16 * 16);
                final NativeBench.Session.Product product = gpu.session()
                        .open(
                                NativeBench.Matmul.FP8_PER_TENSOR,
                                rows,
                                shape.n(),
                                k ? shape.total() : shape.k(),
                                bound.deviceA().values().address(),
                                0,
                                bound.deviceB().values().address(),
                                0,
                                bound.scratch(DType.BF16, rows, shape.n()).address());
                products.add(product);
                product.run(gpu.stream().handle());
                gpu.stream().synchronize();
                peers.add(new Peer(name, () -> product.run(gpu.stream().handle()), ""));
            } catch (final NativeBench.Failure e) {
                peers.add(Peer.skipped(name, String.valueOf(e.getMessage())));
            }
            return peers;
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            products.forEach(NativeBench.Session.Product::close);
            bound.close();
        }
    }
}
