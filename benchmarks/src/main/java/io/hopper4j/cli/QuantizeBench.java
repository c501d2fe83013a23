package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/** {@code quantize_1x128} and {@code quantize_128x128}: BF16 to E4M3 with F32 scales; m, k. */
final class QuantizeBench implements BenchOperation {
    private static final long BLOCK = 128;

    /** Rows of the input that are drawn; the others repeat them, four blocks of scales after four. */
    private static final long DRAWN_ROWS = 4 * BLOCK;

    /** Blocks of 128 rows that are compared bit by bit. */
    private static final long COMPARED_BLOCKS = 4;

    /** Widths of what DeepSeek-V3 quantises: hidden state, query latent, attention output, activations of a dense layer and of an expert. */
    private static final long[] ACTIVATION_COLS = {7168, 1536, 16384, 18432, 2048};

    private static final long[] ACTIVATION_ROWS = {1, 64, 128, 4096, 32768};

    /** Weights from DeepSeek-V3's smallest to its largest. */
    private static final long[][] WEIGHTS = {
        {576, 7168}, {2112, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {36864, 7168}, {4096, 7168}, {7168, 2048}
    };

    private final String name;
    private final Scaling.Block scaling;

    QuantizeBench(final String name, final Scaling.Block scaling) {
        this.name = name;
        this.scaling = scaling;
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public String family() {
        return "quant";
    }

    @Override
    public List<String> keys() {
        return List.of("m", "k");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (list == CaseList.PEERS) {
            return shapes; // no peer publishes figures
        }
        if (scaling.equals(Scaling.ACTIVATION_1X128)) {
            for (final long m : ACTIVATION_ROWS) {
                for (final long k : ACTIVATION_COLS) {
                    shapes.add(BenchShape.of("m", m, "k", k));
                }
            }
        } else {
            for (final long[] weight : WEIGHTS) {
                shapes.add(BenchShape.of("m", weight[0], "k", weight[1]));
            }
        }
        return shapes;
    }

    @Override
    public Work work(final BenchShape shape) {
        final double elements = (double) shape.get("m") * shape.get("k");
        final double scales =
                (double) Math.ceilDiv(shape.get("m"), scaling.rows()) * Math.ceilDiv(shape.get("k"), scaling.cols());
        return new Work((2 + 1) * elements + 4 * scales, 0);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Quantized(gpu, QuantizeSpec.of(shape.get("m"), shape.get("k"), DType.BF16, scaling), this, seed);
    }

    /** One bound quantisation with its operands. */
    private static final class Quantized implements Prepared {
        private final BenchGpu gpu;
        private final QuantizeSpec spec;
        private final SplitMix64 random;
        private final long copyBytes;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final HostTensor drawn;
        private final Scaled<DeviceTensor> out;
        private final QuantizePlan<DeviceTensor> plan;
        private final QuantizeLaunch<DeviceTensor> launch;

        Quantized(final BenchGpu gpu, final QuantizeSpec spec, final QuantizeBench operation, final long seed) {
            this.gpu = gpu;
            this.spec = spec;
            this.random = new SplitMix64(seed);
            final long rows = spec.maxRows();
            final long cols = spec.cols();
            final Work work = operation.work(BenchShape.of("m", rows, "k", cols));
            this.copyBytes = Math.max(16, (long) (work.bytes() / 2) / 16 * 16);
            this.plan = gpu.kernels().plan(spec);
            this.device = gpu.openArena();
            this.drawn = HostTensor.allocate(host, DType.BF16, Math.min(rows, DRAWN_ROWS), cols);
            HostData.fillWithNormal(drawn, random);
            final DeviceTensor in = device.allocate(DType.BF16, rows, cols);
            for (long row = 0; row < rows; row += DRAWN_ROWS) {
                final long count = Math.min(DRAWN_ROWS, rows - row);
                in.slice(0, row, row + count).copyFrom(drawn.slice(0, 0, count), gpu.stream());
            }
            this.out = new Scaled<>(
                    device.allocate(DType.F8_E4M3, rows, cols),
                    device.allocate(HostData.scaleSpec(spec.scaling(), rows, cols)),
                    spec.scaling());
            this.launch = plan.bind(in, out);
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
            final long blockRows = ((Scaling.Block) spec.scaling()).rows();
            long differing = 0;
            final long[] blocks = HostData.sample(random, Math.ceilDiv(spec.maxRows(), BLOCK), COMPARED_BLOCKS);
            for (final long block : blocks) {
                clear(block);
            }
            run();
            for (final long block : blocks) {
                final long first = block * BLOCK;
                final long count = Math.min(BLOCK, spec.maxRows() - first);
                final long source = first % DRAWN_ROWS;
                final Scaled<HostTensor> expected = HostData.quantized(host, spec.scaling(), count, spec.cols());
                BlockQuantization.quantize(drawn.slice(0, source, source + count), expected, spec.scaleKind());
                final Scaled<HostTensor> got = HostData.quantized(host, spec.scaling(), count, spec.cols());
                gpu.gpu().download(out.values().slice(0, first, first + count), got.values());
                final long firstScale = first / blockRows;
                gpu.gpu()
                        .download(
                                out.scales().slice(0, firstScale, firstScale + Math.ceilDiv(count, blockRows)),
                                got.scales());
                differing += HostData.differing(got.values(), expected.values())
                        + HostData.differing(got.scales(), expected.scales());
            }
            return new Deviation("differing", differing, 0, Double.NaN, differing == 0);
        }

        /** Overwrites the values of a block with NaN: what is not written is found. */
        private void clear(final long block) {
            final long first = block * BLOCK;
            final long count = Math.min(BLOCK, spec.maxRows() - first);
            final HostTensor nan = HostTensor.allocate(host, DType.F8_E4M3, count, spec.cols());
            nan.segment().fill((byte) 0x7F);
            out.values().slice(0, first, first + count).copyFrom(nan, gpu.stream());
        }

        /** A plain copy that moves as many bytes: what the card gives at this size. */
        @Override
        public List<Peer> peers() {
            final DeviceTensor from = device.allocate(DType.U8, copyBytes);
            final DeviceTensor to = device.allocate(DType.U8, copyBytes);
            return List.of(new Peer(
                    "copy_of_same_bytes",
                    () -> gpu.session().copy(gpu.stream().handle(), to.address(), from.address(), copyBytes),
                    ""));
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
