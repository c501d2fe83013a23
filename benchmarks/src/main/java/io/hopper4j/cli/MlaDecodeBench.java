package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Launch;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.attention.MlaTolerance;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * {@code mla_decode}, {@code mla_decode_fp8}, {@code mla_decode_fp8_token}: causal decode over a paged cache, BF16 or FP8 with four scales or one a
 * token, of requests of one length, merging of partial results included; {@code mla_decode_mixed}: the same of four requests of very different lengths; and {@code mla_schedule}, the schedule of such a step, which a decode step makes once for all layers. Requests, heads, query tokens, cached tokens, page size.
 */
final class MlaDecodeBench implements BenchOperation {
    /** Requests, heads, query tokens, cached tokens: rows that FlashMLA and FlashInfer were measured on; pages of 64. */
    private static final long[][] PUBLISHED = {
        {128, 128, 1, 4096},
        {128, 128, 2, 8192},
        {64, 128, 2, 16384},
        {128, 64, 1, 8192},
        {128, 16, 1, 4096},
        {128, 16, 1, 16384},
        {64, 16, 1, 4096},
        {1, 128, 1, 4096},
        {1, 128, 1, 32768},
        {4, 128, 1, 8192},
        {4, 16, 1, 8192},
        {32, 16, 1, 4096}
    };

    /** DeepSeek-V3's 128 heads, whole and divided between 2, 8 and 16 GPUs. */
    private static final long[] HEADS = {128, 64, 16, 8};

    /** Of FP8 caches, which no peer has fast: rows to be held against those of BF16. */
    private static final long[][] FP8 = {
        {128, 128, 1, 4096},
        {128, 64, 1, 8192},
        {128, 16, 1, 4096},
        {128, 16, 1, 16384},
        {32, 16, 1, 4096},
        {1, 128, 1, 32768}
    };

    /** ThunderMLA's published row: 16 heads, 4 query tokens. */
    private static final List<Integer> MIXED = List.of(4641, 45118, 1730, 1696);

    private static final long[] BATCHES = {1, 32, 128};
    private static final long[] PAGE_SIZES = {1, 16, 32, 128, 256};

    /** What the bench asks of a step: the decode, or the schedule alone. */
    enum Part {
        DECODE("mla_decode", MlaCacheFormat.BF16),
        FP8_DECODE("mla_decode_fp8", MlaCacheFormat.FP8_BLOCKS),
        FP8_TOKEN_DECODE("mla_decode_fp8_token", MlaCacheFormat.FP8_TOKEN),
        MIXED_DECODE("mla_decode_mixed", MlaCacheFormat.BF16),
        SCHEDULE("mla_schedule", MlaCacheFormat.BF16);

        private final String text;
        private final MlaCacheFormat format;

        Part(final String text, final MlaCacheFormat format) {
            this.text = text;
            this.format = format;
        }
    }

    private final Part part;

    MlaDecodeBench(final Part part) {
        this.part = part;
    }

    @Override
    public String name() {
        return part.text;
    }

    @Override
    public String family() {
        return "attention";
    }

    @Override
    public List<String> keys() {
        return List.of("b", "h", "sq", "sk", "page");
    }

    /** A decode is; the schedule is too short for events. */
    @Override
    public boolean peersUseEvents() {
        return part != Part.SCHEDULE;
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (part == Part.SCHEDULE) {
            if (list == CaseList.DEEPSEEK_V3) {
                for (final long b : BATCHES) {
                    shapes.add(shape(b, 128, 1, 4096, 64));
                }
            }
            return shapes; // no peer publishes figures
        }
        if (part == Part.MIXED_DECODE) {
            if (list == CaseList.PEERS) {
                shapes.add(shape(MIXED.size(), 16, 4, Collections.max(MIXED), 64));
            }
            return shapes;
        }
        if (part != Part.DECODE) {
            if (list == CaseList.DEEPSEEK_V3) {
                for (final long[] row : FP8) {
                    shapes.add(shape(row[0], row[1], row[2], row[3], 64));
                }
            }
            return shapes;
        }
        switch (list) {
            case PEERS -> {
                for (final long[] row : PUBLISHED) {
                    shapes.add(shape(row[0], row[1], row[2], row[3], 64));
                }
            }
            case DEEPSEEK_V3 -> {
                for (final long b : BATCHES) {
                    for (final long h : HEADS) {
                        shapes.add(shape(b, h, 1, 4096, 64));
                    }
                }
                for (final long page : PAGE_SIZES) {
                    shapes.add(shape(128, 16, 1, 4096, page));
                }
                shapes.add(shape(128, 128, 2, 4096, 64)); // with one token of multi-token prediction
            }
        }
        return shapes;
    }

    private static BenchShape shape(final long b, final long h, final long sq, final long sk, final long page) {
        return BenchShape.of("b", b, "h", h).with("sq", sq).with("sk", sk).with("page", page);
    }

    @Override
    public Work work(final BenchShape shape) {
        final double b = shape.get("b");
        if (part == Part.SCHEDULE) {
            return new Work(Integer.BYTES * b, 0);
        }
        final double rows = shape.get("h") * shape.get("sq"); // of a request
        final double tokens = lengths(shape).stream().mapToDouble(n -> n).sum();
        final double cached =
                tokens * part.format.tokenSize() * part.format.dtype().size();
        final double moved = cached + b * rows * ((TOKEN_DIM + VALUE_DIM) * 2 + Float.BYTES);
        return Work.bf16(moved, 2 * rows * tokens * (TOKEN_DIM + VALUE_DIM));
    }

    private List<Integer> lengths(final BenchShape shape) {
        return part == Part.MIXED_DECODE
                ? MIXED
                : Collections.nCopies(Math.toIntExact(shape.get("b")), Math.toIntExact(shape.get("sk")));
    }

    /** {@return what is decoded in a case} */
    MlaDecodeCase decodeCase(final BenchShape shape, final long seed) {
        final MlaDecodeSpec spec = MlaDecodeSpec.of(
                        Math.toIntExact(shape.get("h")), Math.toIntExact(shape.get("page")), 1, 1, 1)
                .withSQ(Math.toIntExact(shape.get("sq")))
                .withCacheFormat(part.format);
        return MlaDecodeCase.of(spec, lengths(shape), 0, false, false, seed);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        return new Step(gpu, decodeCase(shape, seed), part);
    }

    /** One bound step with its operands, on both sides. */
    private static final class Step implements Prepared {
        private final BenchGpu gpu;
        private final MlaDecodeCase decoded;
        private final SplitMix64 random;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final MlaDecodeOperands<HostTensor> x;
        private final DeviceTensor out;
        private final DeviceTensor lse;
        private final MlaDecodePlan<DeviceTensor> plan;
        private final MlaScheduleLaunch<DeviceTensor> schedule;
        private final MlaDecodeLaunch<DeviceTensor> decode;
        private final Part part;
        private final Launch timed;

        Step(final BenchGpu gpu, final MlaDecodeCase decoded, final Part part) {
            this.gpu = gpu;
            this.decoded = decoded;
            this.part = part;
            this.random = new SplitMix64(decoded.seed());
            this.plan = gpu.kernels().plan(decoded.spec());
            this.device = gpu.openArena();
            this.x = decoded.operands(host, random);
            this.out = gpu.upload(device, x.out());
            this.lse = gpu.upload(device, x.lse());
            final DeviceTensor lengths = gpu.upload(device, x.lengths());
            final DeviceTensor made = device.allocate(DType.U8, plan.scheduleBytes());
            this.schedule = plan.bindSchedule(lengths, null, made);
            this.decode = plan.bind(MlaDecodeOperands.<DeviceTensor>builder()
                    .q(gpu.upload(device, x.q()))
                    .cache(gpu.upload(device, x.cache()))
                    .blockTable(gpu.upload(device, x.blockTable()))
                    .lengths(lengths)
                    .schedule(made)
                    .out(out)
                    .lse(lse)
                    .workspace(gpu.gpu().workspace(device, plan))
                    .build());
            this.timed = part == Part.SCHEDULE ? schedule : decode;
            schedule.launch(gpu.stream()); // a decode needs one
        }

        @Override
        public String kernel() {
            return plan.kernel();
        }

        @Override
        public void run() {
            timed.launch(gpu.stream());
        }

        @Override
        public Deviation check() {
            x.out().segment().fill((byte) 0xFF); // NaN: what is not written is found
            x.lse().segment().fill((byte) 0xFF);
            out.copyFrom(x.out(), gpu.stream());
            lse.copyFrom(x.lse(), gpu.stream());
            run();
            if (part == Part.SCHEDULE) {
                decode.launch(gpu.stream());
            }
            gpu.gpu().download(out, x.out());
            gpu.gpu().download(lse, x.lse());
            final MlaTolerance.Result result = decoded.compare(x, random);
            return new Deviation(
                    "cosine",
                    result.cosineDistance(),
                    MlaTolerance.MAX_COSINE_DISTANCE,
                    Math.max(result.worstRatio(), result.worstLseRatio()),
                    result.withinBounds());
        }

        @Override
        public List<Peer> peers() {
            return List.of(); // none that can be loaded here: theirs are Python packages
        }

        @Override
        public void close() {
            gpu.stream().synchronize();
            decode.close();
            schedule.close();
            plan.close();
            device.close();
            host.close();
        }
    }
}
