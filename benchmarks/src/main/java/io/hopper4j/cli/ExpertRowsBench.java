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
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * {@code moe_permute}, rows to unaligned expert-major rows: of BF16, of E4M3 with scales, or of BF16 quantised on the way; and {@code moe_unpermute} of BF16 rows with
 * weights; tokens, hidden, topk, experts, bits of an element of a token's row and of the expert-major ones.
 */
final class ExpertRowsBench implements BenchOperation {
    private static final long[] TOKENS = {128, 4096, 8192};
    private static final long[] EXPERTS = {32, 256};
    private static final long FP8 = 8;
    private static final long BF16 = 16;
    private static final long[][] FORMS = {{FP8, FP8}, {BF16, FP8}, {BF16, BF16}};

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
        return List.of("tokens", "hidden", "topk", "experts", "from", "bits");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (list == CaseList.DEEPSEEK_V3) {
            for (final long tokens : TOKENS) {
                for (final long experts : EXPERTS) {
                    for (final long[] form : back ? new long[][] {{BF16, BF16}} : FORMS) {
                        shapes.add(BenchShape.of("tokens", tokens, "hidden", 7168)
                                .with("topk", 8)
                                .with("experts", experts)
                                .with("from", form[0])
                                .with("bits", form[1]));
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
        return new Work(
                tokens * rowBytes(hidden, shape.get("from")) + ids * (rowBytes(hidden, shape.get("bits")) + 8), 0);
    }

    private static double rowBytes(final double hidden, final long bits) {
        return hidden * bits / 8 + (bits == FP8 ? 4 * Math.ceil(hidden / 128) : 0);
    }

    @Override
    public Optional<String> obstacle(final BenchGpu gpu, final BenchShape shape) {
        final long[] form = {shape.get("from"), shape.get("bits")};
        if (back ? form[0] == BF16 && form[1] == BF16 : Arrays.stream(FORMS).anyMatch(f -> Arrays.equals(f, form))) {
            return Optional.empty();
        }
        return Optional.of("from " + form[0] + " to " + form[1] + " bits: rows go "
                + (back ? "from 16 to 16" : "from 8 to 8, from 16 to 8 or from 16 to 16"));
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final PermuteSpec spec = PermuteSpec.of(
                shape.get("tokens"),
                shape.get("hidden"),
                Math.toIntExact(shape.get("experts")),
                Math.toIntExact(shape.get("topk")),
                shape.get("from") == FP8 ? DType.F8_E4M3 : DType.BF16);
        return new Moved(
                gpu,
                shape.get("bits") < shape.get("from") ? spec.withQuantize(ScaleKind.F32) : spec,
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
        private final @Nullable HostTensor drawnScales;
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
            final long drawnRows = Math.min(tokens, DRAWN_ROWS);
            if (spec.inDType() == DType.F8_E4M3) {
                final Scaled<HostTensor> scaled =
                        HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, drawnRows, spec.hidden());
                this.drawn = scaled.values();
                this.drawnScales = scaled.scales();
            } else {
                this.drawn = HostTensor.allocate(host, DType.BF16, drawnRows, spec.hidden());
                this.drawnScales = null;
                HostData.fillWithNormal(drawn, random);
            }
            for (long t = 0; t < tokens; t++) {
                for (long j = 0; j < spec.topK(); j++) {
                    ids.setFloat((float) random.below(spec.experts()), t, j);
                }
            }
            HostData.fillWithNormal(weights, random);
            final DeviceTensor in = device.allocate(spec.inDType(), tokens, spec.hidden());
            for (long t = 0; t < tokens; t += DRAWN_ROWS) {
                final long count = Math.min(DRAWN_ROWS, tokens - t);
                in.slice(0, t, t + count).copyFrom(drawn.slice(0, 0, count), gpu.stream());
            }
            this.rows = new PermuteOperands<>(
                    device.copyOf(ids, gpu.stream()),
                    in,
                    drawnScales == null ? null : device.copyOf(scalesOfTokens(drawnScales), gpu.stream()),
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

        private HostTensor scalesOfTokens(final HostTensor of) {
            final HostTensor all =
                    HostTensor.allocate(host, Scaled.activationScaleSpec(spec.maxTokens(), spec.hidden()));
            for (long t = 0; t < spec.maxTokens(); t++) {
                all.select(0, t).setFloats(of.select(0, t % DRAWN_ROWS).toFloats());
            }
            return all;
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
            HostTensor values = row;
            HostTensor ownScales =
                    drawnScales == null ? null : drawnScales.slice(0, token % DRAWN_ROWS, token % DRAWN_ROWS + 1);
            if (spec.inDType() != spec.outDType()) {
                final Scaled<HostTensor> quantized =
                        HostData.quantized(host, Scaling.ACTIVATION_1X128, 1, spec.hidden());
                BlockQuantization.quantize(row, quantized, spec.scaleKind());
                values = quantized.values();
                ownScales = quantized.scales();
            }
            final DeviceTensor scales = rows.outScales();
            long differing = 0;
            for (long j = 0; j < spec.topK(); j++) {
                final long place = (long) places.getFloat(token, j);
                final HostTensor got = HostTensor.allocate(host, spec.outDType(), 1, spec.hidden());
                gpu.gpu().download(rows.out().slice(0, place, place + 1), got);
                differing += HostData.differing(got, values);
                if (scales != null && ownScales != null) {
                    final HostTensor gotScales =
                            HostTensor.allocate(host, Scaled.activationScaleSpec(1, spec.hidden()));
                    gpu.gpu().download(scales.slice(0, place, place + 1), gotScales);
                    differing += Arrays.equals(
                                    gotScales.select(0, 0).toFloats(),
                                    ownScales.select(0, 0).toFloats())
                            ? 0
                            : 1;
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
