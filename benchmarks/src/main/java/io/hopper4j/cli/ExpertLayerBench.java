package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Graph;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.moe.ExpertLayer;
import io.hopper4j.moe.ExpertLayerOperands;
import io.hopper4j.moe.ExpertLayerSpec;
import io.hopper4j.reference.ReferenceKernels;
import java.lang.foreign.Arena;
import java.util.List;

/**
 * {@code expert_layer}: the experts of a layer as one graph, from the gate's ids to the weighted sum; tokens, hidden, intermediate, topk, experts. {@code us} is
 * the graph's span; {@code usPeerMethod} the sum of its kernels' own times.
 */
final class ExpertLayerBench implements BenchOperation {
    /** Tokens that are computed once more by the reference. */
    private static final int COMPARED_TOKENS = 2;

    /**
     * One minus the cosine, half the relative squared error. A tensor core keeps 13 bits below the largest exponent of a sum, so gate and up are off by up to 2^-13. Rounding a number does not change by how much it is off on the
     * average: some are off by a step, the others by nothing, so the square of an error d becomes d times the step, and E4M3's is up to 2^-3. That makes 2 * 2^-13 * 2^-3 of both, and as much again where the largest value of a
     * block takes the next BF16 number and its scale with it. Rounding both results to BF16 adds 6e-6: 6.7e-5 together.
     */
    private static final double MAX_COSINE_DISTANCE = 3.4e-5;

    @Override
    public String name() {
        return "expert_layer";
    }

    @Override
    public String family() {
        return "moe";
    }

    @Override
    public List<String> keys() {
        return List.of("tokens", "hidden", "intermediate", "topk", "experts");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        return list == CaseList.DEEPSEEK_V3
                ? List.of(BenchShape.of("tokens", 4096, "hidden", 7168)
                        .with("intermediate", 2048)
                        .with("topk", 8)
                        .with("experts", 32))
                : List.of();
    }

    @Override
    public Work work(final BenchShape shape) {
        final double tokens = (double) shape.get("tokens");
        final double hidden = (double) shape.get("hidden");
        final double weights = 3.0 * hidden * shape.get("intermediate");
        return new Work(4 * tokens * hidden + shape.get("experts") * weights, 2 * tokens * shape.get("topk") * weights);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Layer(
                gpu,
                ExpertLayerSpec.of(
                        shape.get("tokens"),
                        shape.get("hidden"),
                        shape.get("intermediate"),
                        Math.toIntExact(shape.get("experts")),
                        Math.toIntExact(shape.get("topk"))),
                new SplitMix64(seed));
    }

    private static final class Layer implements Prepared {
        private final BenchGpu gpu;
        private final ExpertLayerSpec spec;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final HostTensor x;
        private final HostTensor ids;
        private final HostTensor weights;
        private final Scaled<HostTensor> gateUp;
        private final Scaled<HostTensor> down;
        private final DeviceTensor out;
        private final ExpertLayer<DeviceTensor> layer;
        private final Graph graph;

        Layer(final BenchGpu gpu, final ExpertLayerSpec spec, final SplitMix64 random) {
            this.gpu = gpu;
            this.spec = spec;
            this.device = gpu.openArena();
            final long tokens = spec.maxTokens();
            this.x = HostTensor.allocate(host, DType.BF16, tokens, spec.hidden());
            this.ids = HostTensor.allocate(host, DType.I32, tokens, spec.topK());
            this.weights = HostTensor.allocate(host, DType.F32, tokens, spec.topK());
            HostData.fillWithNormalFast(x, random);
            HostData.fillWithNormal(weights, random);
            for (long t = 0; t < tokens; t++) {
                for (long j = 0; j < spec.topK(); j++) {
                    ids.setFloat((float) random.below(spec.experts()), t, j);
                }
            }
            this.gateUp = stack(random, 2 * spec.intermediate(), spec.hidden());
            this.down = stack(random, spec.hidden(), spec.intermediate());
            this.out = device.allocate(DType.BF16, tokens, spec.hidden());
            this.layer = ExpertLayer.open(
                    gpu.kernels(),
                    spec,
                    new ExpertLayerOperands<>(
                            gpu.upload(device, x),
                            gpu.upload(device, ids),
                            gpu.upload(device, weights),
                            gpu.upload(device, gateUp),
                            gpu.upload(device, down),
                            null,
                            out),
                    device::allocate);
            this.graph = gpu.stream().capture(layer::launch);
        }

        private Scaled<HostTensor> stack(final SplitMix64 random, final long rows, final long cols) {
            return HostData.randomStack(host, random, Scaling.WEIGHT_128X128, spec.experts(), rows, cols);
        }

        @Override
        public String kernel() {
            return "a graph of permute, gate and up, SwiGLU, down, unpermute";
        }

        @Override
        public void run() {
            graph.launch(gpu.stream());
        }

        /** The first tokens, by the layer of the reference. */
        @Override
        public Deviation check() {
            run();
            final HostTensor got = HostTensor.allocate(host, out.spec());
            gpu.gpu().download(out, got);
            final HostTensor expected = HostTensor.allocate(host, DType.BF16, COMPARED_TOKENS, spec.hidden());
            final ExpertLayerSpec few = ExpertLayerSpec.of(
                    COMPARED_TOKENS, spec.hidden(), spec.intermediate(), spec.experts(), spec.topK());
            try (Arena between = Arena.ofShared();
                    ReferenceKernels kernels = new ReferenceKernels();
                    Stream stream = kernels.openStream();
                    ExpertLayer<HostTensor> reference = ExpertLayer.open(
                            kernels,
                            few,
                            new ExpertLayerOperands<>(
                                    x.slice(0, 0, COMPARED_TOKENS),
                                    ids.slice(0, 0, COMPARED_TOKENS),
                                    weights.slice(0, 0, COMPARED_TOKENS),
                                    gateUp,
                                    down,
                                    null,
                                    expected),
                            tensor -> HostTensor.allocate(between, tensor))) {
                reference.launch(stream);
                stream.synchronize();
            }
            double dot = 0;
            double ownSize = 0;
            double wantedSize = 0;
            for (int t = 0; t < COMPARED_TOKENS; t++) {
                final float[] own = got.select(0, t).toFloats();
                final float[] wanted = expected.select(0, t).toFloats();
                for (int c = 0; c < own.length; c++) {
                    dot += (double) own[c] * wanted[c];
                    ownSize += (double) own[c] * own[c];
                    wantedSize += (double) wanted[c] * wanted[c];
                }
            }
            final double distance = 1 - dot / Math.sqrt(ownSize * wantedSize);
            return new Deviation("cosine", distance, MAX_COSINE_DISTANCE, Double.NaN, distance <= MAX_COSINE_DISTANCE);
        }

        @Override
        public List<Peer> peers() {
            return List.of();
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            graph.close();
            layer.close();
            device.close();
            host.close();
        }
    }
}
