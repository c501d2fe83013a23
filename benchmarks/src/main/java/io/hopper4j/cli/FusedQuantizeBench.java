package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import io.hopper4j.reference.FusedQuantization;
import io.hopper4j.reference.RmsNorm;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/**
 * {@code swiglu_quantize}, {@code rmsnorm_quantize} and {@code transpose_quantize}: BF16 to E4M3 with F32 scales; m, k. For SwiGLU k counts the
 * columns of the output, for the transposition m and k are those of the input.
 */
final class FusedQuantizeBench implements BenchOperation {
    /** Rows of the input that are drawn; the others repeat them. */
    private static final long DRAWN_ROWS = 512;

    /** Rows, or columns of the transposition's input, that are compared. */
    private static final long COMPARED = 64;

    private static final long[] ROWS = {128, 4096, 32768};

    /** What is done before the quantisation, and the widths that DeepSeek-V3 has there. */
    enum Kind {
        /** Experts, dense layers. */
        SWIGLU("swiglu_quantize", List.of(2048L, 18432L)),
        /** Hidden state, query latent. */
        RMSNORM("rmsnorm_quantize", List.of(7168L, 1536L)),
        /** Hidden state, expert. */
        TRANSPOSE("transpose_quantize", List.of(7168L, 2048L));

        private final String text;

        @SuppressWarnings("ImmutableEnumChecker") // made by List.of
        private final List<Long> cols;

        Kind(final String text, final List<Long> cols) {
            this.text = text;
            this.cols = cols;
        }

        long inputCols(final long k) {
            return this == SWIGLU ? 2 * k : k;
        }
    }

    private final Kind kind;

    FusedQuantizeBench(final Kind kind) {
        this.kind = kind;
    }

    @Override
    public String name() {
        return kind.text;
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
        if (list == CaseList.DEEPSEEK_V3) { // no peer publishes figures
            for (final long m : ROWS) {
                for (final long k : kind.cols) {
                    shapes.add(BenchShape.of("m", m, "k", k));
                }
            }
        }
        return shapes;
    }

    @Override
    public Work work(final BenchShape shape) {
        final double m = shape.get("m");
        final double k = shape.get("k");
        return new Work(m * (2 * kind.inputCols(shape.get("k")) + k + Float.BYTES * Math.ceil(k / 128)), 0);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Fused(gpu, kind, shape, (long) (work(shape).bytes() / 2), seed);
    }

    /** One bound pass with its operands. */
    private static final class Fused implements Prepared {
        private final BenchGpu gpu;
        private final Kind kind;
        private final long rows;
        private final SplitMix64 random;
        private final long copyBytes;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final HostTensor drawn;
        private final HostTensor weight;
        private final Scaled<DeviceTensor> out;
        private final Plan plan;
        private final Launch launch;

        Fused(final BenchGpu gpu, final Kind kind, final BenchShape shape, final long copyBytes, final long seed) {
            this.gpu = gpu;
            this.kind = kind;
            this.rows = shape.get("m");
            this.random = new SplitMix64(seed);
            this.copyBytes = Math.max(16, copyBytes / 16 * 16);
            this.device = gpu.openArena();
            final long k = shape.get("k");
            this.drawn = HostTensor.allocate(host, DType.BF16, Math.min(rows, DRAWN_ROWS), kind.inputCols(k));
            HostData.fillWithNormal(drawn, random);
            this.weight = HostTensor.allocate(host, DType.BF16, 1, k);
            HostData.fillWithNormal(weight, random);
            final DeviceTensor in = device.allocate(DType.BF16, rows, kind.inputCols(k));
            for (long row = 0; row < rows; row += DRAWN_ROWS) {
                final long count = Math.min(DRAWN_ROWS, rows - row);
                in.slice(0, row, row + count).copyFrom(drawn.slice(0, 0, count), gpu.stream());
            }
            final boolean transposed = kind == Kind.TRANSPOSE;
            final long outRows = transposed ? k : rows;
            final long outCols = transposed ? rows : k;
            this.out = Scaled.activation(
                    device.allocate(DType.F8_E4M3, outRows, outCols),
                    device.allocate(Scaled.activationScaleSpec(outRows, outCols)));
            final Bound bound = bind(in, k);
            this.plan = bound.plan();
            this.launch = bound.launch();
        }

        private record Bound(Plan plan, Launch launch) {}

        private Bound bind(final DeviceTensor in, final long k) {
            return switch (kind) {
                case SWIGLU -> {
                    final SwigluQuantizePlan<DeviceTensor> made = gpu.kernels().plan(SwigluQuantizeSpec.of(rows, k));
                    yield new Bound(made, made.bind(in, null, null, out));
                }
                case RMSNORM -> {
                    final RmsNormQuantizePlan<DeviceTensor> made = gpu.kernels().plan(RmsNormQuantizeSpec.of(rows, k));
                    yield new Bound(made, made.bind(in, null, gpu.upload(device, weight.select(0, 0)), out, null));
                }
                case TRANSPOSE -> {
                    final TransposeQuantizePlan<DeviceTensor> made =
                            gpu.kernels().plan(TransposeQuantizeSpec.of(rows, k));
                    yield new Bound(made, made.bind(in, out));
                }
            };
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
            final QuantizeTolerance tolerance = new QuantizeTolerance(ScaleKind.F32);
            final long[] lines = HostData.sample(random, out.rows(), COMPARED);
            for (final long line : lines) {
                final HostTensor nan = HostTensor.allocate(host, DType.F8_E4M3, 1, out.cols());
                nan.segment().fill((byte) 0x7F); // what is not written is found
                out.values().slice(0, line, line + 1).copyFrom(nan, gpu.stream());
            }
            run();
            for (final long line : lines) {
                final Scaled<HostTensor> got = HostData.quantized(host, Scaling.ACTIVATION_1X128, 1, out.cols());
                gpu.gpu().download(out.values().slice(0, line, line + 1), got.values());
                gpu.gpu().download(out.scales().slice(0, line, line + 1), got.scales());
                QuantizedRows.add(tolerance, got, 0, exact(line));
            }
            final double ratio = Math.max(tolerance.worstValueRatio(), tolerance.worstScaleRatio());
            return new Deviation("differing", tolerance.withinBounds() ? 0 : 1, 0, ratio, tolerance.withinBounds());
        }

        /** The numbers that a row of the output stands for. */
        private double[] exact(final long line) {
            return switch (kind) {
                case SWIGLU ->
                    FusedQuantization.swiglu(drawn.select(0, line % DRAWN_ROWS).toFloats(), 1);
                case RMSNORM ->
                    RmsNorm.normalize(
                            drawn.select(0, line % DRAWN_ROWS).toFloats(),
                            weight.toFloats(),
                            RmsNormQuantizeSpec.DEEPSEEK_V3_EPS);
                case TRANSPOSE -> {
                    final float[] column = drawn.select(1, line).toFloats();
                    final double[] all = new double[Math.toIntExact(rows)];
                    for (int r = 0; r < all.length; r++) {
                        all[r] = column[r % column.length];
                    }
                    yield all;
                }
            };
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
