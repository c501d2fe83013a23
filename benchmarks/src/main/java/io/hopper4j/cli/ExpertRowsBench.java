package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/**
 * {@code moe_permute}, BF16 rows to unaligned expert-major rows of BF16 or, quantised on the way, E4M3, and {@code moe_unpermute} of BF16 rows with weights;
 * tokens, hidden, topk, experts, bits of an element of the expert-major rows.
 */
final class ExpertRowsBench implements BenchOperation {
    private static final long[] TOKENS = {128, 4096, 8192};
    private static final long[] EXPERTS = {32, 256};
    private static final long FP8 = 8;
    private static final long BF16 = 16;

    /** Rows of the input that are drawn; the others repeat them. */
    private static final long DRAWN_ROWS = 512;

    /** Tokens whose rows or sums are compared bit by bit. */
    private static final long COMPARED_TOKENS = 16;

    private final boolean back;

    /** @param back whether the way back is timed */
    ExpertRowsBench(final boolean back) {
        this.back = back;
    }

    @Override
    public String name() {
        return back ? "moe_unpermute" : "moe_permute";
    }

    @Override
    public String family() {
        return "moe";
    }

    @Override
    public List<String> keys() {
        return List.of("tokens", "hidden", "topk", "experts", "bits");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (list == CaseList.DEEPSEEK_V3) {
            for (final long tokens : TOKENS) {
                for (final long experts : EXPERTS) {
                    for (final long bits : back ? new long[] {BF16} : new long[] {FP8, BF16}) {
                        shapes.add(BenchShape.of("tokens", tokens, "hidden", 7168)
                                .with("topk", 8)
                                .with("experts", experts)
                                .with("bits", bits));
                    }
                }
            }
        }
        return shapes;
    }

    @Override
    public Work work(final BenchShape shape) {
        final double tokens = (double) shape.get("tokens");
        final double ids = tokens * shape.get("topk");
        final double hidden = (double) shape.get("hidden");
        final double scales = shape.get("bits") == FP8 ? 4 * Math.ceil(hidden / 128) : 0;
        return new Work(2 * tokens * hidden + ids * (hidden * shape.get("bits") / 8 + scales + 8), 0);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final PermuteSpec spec = PermuteSpec.of(
                shape.get("tokens"),
                shape.get("hidden"),
                Math.toIntExact(shape.get("experts")),
                Math.toIntExact(shape.get("topk")),
                DType.BF16);
        return new Moved(
                gpu,
                shape.get("bits") == FP8 ? spec.withQuantize(ScaleKind.F32) : spec,
                back,
                (long) (work(shape).bytes() / 2),
                seed);
    }

    /** Both ways bound, of which one is timed. */
    private static final class Moved implements Prepared {
        private final BenchGpu gpu;
        private final boolean back;
        private final PermuteSpec spec;
        private final long copyBytes;
        private final SplitMix64 random;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final HostTensor ids;
        private final HostTensor weights;
        private final HostTensor drawn;
        private final PermuteOperands<DeviceTensor> rows;
        private final DeviceTensor sums;
        private final PermutePlan<DeviceTensor> permute;
        private final UnpermutePlan<DeviceTensor> unpermute;
        private final PermuteLaunch<DeviceTensor> there;
        private final UnpermuteLaunch<DeviceTensor> home;

        Moved(final BenchGpu gpu, final PermuteSpec spec, final boolean back, final long copyBytes, final long seed) {
            this.gpu = gpu;
            this.back = back;
            this.spec = spec;
            this.copyBytes = Math.max(16, copyBytes / 16 * 16);
            this.random = new SplitMix64(seed);
            this.device = gpu.openArena();
            final long tokens = spec.maxTokens();
            final boolean fp8 = spec.outDType() == DType.F8_E4M3;
            final UnpermuteSpec way = UnpermuteSpec.of(tokens, spec.rows(), spec.hidden(), spec.topK());
            this.permute = gpu.kernels().plan(spec);
            this.unpermute = gpu.kernels().plan(way);
            this.ids = HostTensor.allocate(host, DType.I32, tokens, spec.topK());
            this.weights = HostTensor.allocate(host, DType.F32, tokens, spec.topK());
            this.drawn = HostTensor.allocate(host, DType.BF16, Math.min(tokens, DRAWN_ROWS), spec.hidden());
            for (long t = 0; t < tokens; t++) {
                for (long j = 0; j < spec.topK(); j++) {
                    ids.setFloat((float) random.below(spec.experts()), t, j);
                }
            }
            HostData.fillWithNormal(weights, random);
            HostData.fillWithNormal(drawn, random);
            final DeviceTensor in = device.allocate(DType.BF16, tokens, spec.hidden());
            for (long t = 0; t < tokens; t += DRAWN_ROWS) {
                final long count = Math.min(DRAWN_ROWS, tokens - t);
                in.slice(0, t, t + count).copyFrom(drawn.slice(0, 0, count), gpu.stream());
            }
            this.rows = new PermuteOperands<>(
                    device.copyOf(ids, gpu.stream()),
                    in,
                    null,
                    device.allocate(spec.outDType(), spec.rows(), spec.hidden()),
                    fp8 ? device.allocate(Scaled.activationScaleSpec(spec.rows(), spec.hidden())) : null,
                    device.allocate(DType.I32, spec.experts()),
                    device.allocate(DType.I32, tokens, spec.topK()),
                    device.allocate(DType.I32, spec.rows()));
            this.sums = device.allocate(DType.BF16, tokens, spec.hidden());
            this.there = permute.bind(rows);
            this.home = unpermute.bind(new UnpermuteOperands<>(
                    fp8 ? device.allocate(DType.BF16, spec.rows(), spec.hidden()) : rows.out(),
                    rows.places(),
                    device.copyOf(weights, gpu.stream()),
                    null,
                    sums));
            there.launch(gpu.stream());
        }

        @Override
        public String kernel() {
            return back ? unpermute.kernel() : permute.kernel();
        }

        @Override
        public void run() {
            if (back) {
                home.launch(gpu.stream());
            } else {
                there.launch(gpu.stream());
            }
        }

        /** All places, and a sample of rows or sums bit by bit. */
        @Override
        public Deviation check() {
            clear(back ? sums : rows.places());
            run();
            final HostTensor places = HostTensor.allocate(host, rows.places().spec());
            gpu.gpu().download(rows.places(), places);
            long differing = 0;
            final long[] next = new long[spec.experts()];
            for (long t = 0; t < spec.maxTokens(); t++) {
                for (long j = 0; j < spec.topK(); j++) {
                    final int expert = (int) ids.getFloat(t, j) + 1;
                    if (expert < next.length) {
                        next[expert]++;
                    }
                }
            }
            for (int e = 1; e < next.length; e++) {
                next[e] += next[e - 1];
            }
            for (long t = 0; t < spec.maxTokens(); t++) {
                for (long j = 0; j < spec.topK(); j++) {
                    differing += places.getFloat(t, j) == next[(int) ids.getFloat(t, j)]++ ? 0 : 1;
                }
            }
            for (final long t : HostData.sample(random, spec.maxTokens(), COMPARED_TOKENS)) {
                differing += back ? differingSums(t) : differingRows(t, places);
            }
            return new Deviation("differing", (double) differing, 0, Double.NaN, differing == 0);
        }

        /** Fills with a NaN or -1: what is not written is found. */
        private void clear(final DeviceTensor tensor) {
            final HostTensor none = HostTensor.allocate(host, tensor.spec());
            none.segment().fill((byte) 0xFF);
            tensor.copyFrom(none, gpu.stream());
        }

        private long differingSums(final long token) {
            final float[] row = drawn.select(0, token % DRAWN_ROWS).toFloats();
            final float[] sum = new float[row.length];
            for (long j = 0; j < spec.topK(); j++) {
                for (int c = 0; c < sum.length; c++) {
                    sum[c] = Math.fma(weights.getFloat(token, j), row[c], sum[c]);
                }
            }
            final HostTensor expected = HostTensor.allocate(host, DType.BF16, 1, spec.hidden());
            final HostTensor got = HostTensor.allocate(host, DType.BF16, 1, spec.hidden());
            expected.setFloats(sum);
            gpu.gpu().download(sums.slice(0, token, token + 1), got);
            return HostData.differing(got, expected);
        }

        private long differingRows(final long token, final HostTensor places) {
            final HostTensor row = drawn.slice(0, token % DRAWN_ROWS, token % DRAWN_ROWS + 1);
            final Scaled<HostTensor> quantized = HostData.quantized(host, Scaling.ACTIVATION_1X128, 1, spec.hidden());
            BlockQuantization.quantize(row, quantized, spec.scaleKind());
            final DeviceTensor scales = rows.outScales();
            long differing = 0;
            for (long j = 0; j < spec.topK(); j++) {
                final long place = (long) places.getFloat(token, j);
                final HostTensor got = HostTensor.allocate(host, spec.outDType(), 1, spec.hidden());
                gpu.gpu().download(rows.out().slice(0, place, place + 1), got);
                differing += HostData.differing(got, scales == null ? row : quantized.values());
                if (scales != null) {
                    final HostTensor gotScales =
                            HostTensor.allocate(host, quantized.scales().spec());
                    gpu.gpu().download(scales.slice(0, place, place + 1), gotScales);
                    differing += HostData.differing(gotScales, quantized.scales());
                }
            }
            return differing;
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
            there.close();
            home.close();
            unpermute.close();
            permute.close();
            device.close();
            host.close();
        }
    }
}
