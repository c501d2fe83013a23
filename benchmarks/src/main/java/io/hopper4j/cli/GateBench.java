package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.GateTolerance;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/** {@code moe_gate}: DeepSeek-V3's gate over F32 logits, counts included, for its number of experts and others; tokens, experts. */
final class GateBench implements BenchOperation {
    private static final long[] TOKENS = {1, 128, 4096, 16384};
    private static final int GROUPS = 8;
    private static final int KEPT_GROUPS = 4;
    private static final int TOP_K = 8;

    @Override
    public String name() {
        return "moe_gate";
    }

    @Override
    public String family() {
        return "moe";
    }

    @Override
    public List<String> keys() {
        return List.of("tokens", "experts");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (list == CaseList.DEEPSEEK_V3) {
            for (final long tokens : TOKENS) {
                shapes.add(BenchShape.of("tokens", tokens, "experts", 256));
            }
        }
        return shapes;
    }

    @Override
    public Work work(final BenchShape shape) {
        return new Work(4.0 * shape.get("tokens") * (shape.get("experts") + 2 * TOP_K) + 8.0 * shape.get("experts"), 0);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final int experts = Math.toIntExact(shape.get("experts"));
        return new Gated(
                gpu,
                GateSpec.of(shape.get("tokens"), experts, TOP_K)
                        .withGroups(GROUPS, KEPT_GROUPS)
                        .withScale(2.5f),
                seed);
    }

    /** One bound gate with its operands. */
    private static final class Gated implements Prepared {
        private final BenchGpu gpu;
        private final GateSpec spec;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final HostTensor logits;
        private final HostTensor bias;
        private final GateOperands<DeviceTensor> operands;
        private final GatePlan<DeviceTensor> plan;
        private final GateLaunch<DeviceTensor> launch;

        Gated(final BenchGpu gpu, final GateSpec spec, final long seed) {
            this.gpu = gpu;
            this.spec = spec;
            this.plan = gpu.kernels().plan(spec);
            this.device = gpu.openArena();
            this.logits = HostTensor.allocate(host, DType.F32, spec.maxTokens(), spec.experts());
            this.bias = HostTensor.allocate(host, DType.F32, spec.experts());
            final SplitMix64 random = new SplitMix64(seed);
            HostData.fillWithNormal(logits, random);
            for (int e = 0; e < spec.experts(); e++) {
                bias.setFloat((float) (0.4 * random.fraction() - 0.2), e);
            }
            this.operands = new GateOperands<>(
                    device.copyOf(logits, gpu.stream()),
                    device.copyOf(bias, gpu.stream()),
                    null,
                    device.allocate(DType.I32, spec.maxTokens(), spec.topK()),
                    device.allocate(DType.F32, spec.maxTokens(), spec.topK()),
                    device.allocate(DType.I32, spec.experts()));
            this.launch = plan.bind(operands);
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
            operands.ids().copyFrom(filledWithMinusOne(operands.ids()), gpu.stream());
            run();
            final HostTensor ids = HostTensor.allocate(host, operands.ids().spec());
            final HostTensor weights =
                    HostTensor.allocate(host, operands.weights().spec());
            gpu.gpu().download(operands.ids(), ids);
            gpu.gpu().download(operands.weights(), weights);
            final GateTolerance.Result result = new GateCase(spec, spec.maxTokens(), 0, 0)
                    .compare(logits, bias, new boolean[spec.experts()], ids, weights, new long[spec.experts()]);
            return new Deviation(
                    "differing", (double) result.differingIds(), 0, result.worstRatio(), result.withinBounds());
        }

        /** No expert: what is not written is found. */
        private HostTensor filledWithMinusOne(final DeviceTensor like) {
            final HostTensor none = HostTensor.allocate(host, like.spec());
            none.segment().fill((byte) 0xFF);
            return none;
        }

        @Override
        public List<Peer> peers() {
            return List.of();
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            launch.close();
            plan.close();
            device.close();
            host.close();
        }
    }
}
