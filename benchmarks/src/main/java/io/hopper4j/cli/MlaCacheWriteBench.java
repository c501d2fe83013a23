package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * {@code mla_cache_write_bf16}, {@code mla_cache_write_fp8_blocks} and {@code mla_cache_write_fp8_token}: norm, rotation and cache writing of tokens of 128
 * requests, pages of 64; tokens.
 */
final class MlaCacheWriteBench implements BenchOperation {
    private static final long REQUESTS = 128;
    private static final int PAGE_SIZE = 64;
    private static final int IN_BYTES = 1152;

    /** Decode steps, and prefills. */
    private static final long[] TOKENS = {128, 4096, 131_072};

    private final MlaCacheFormat format;

    MlaCacheWriteBench(final MlaCacheFormat format) {
        this.format = format;
    }

    @Override
    public String name() {
        return "mla_cache_write_" + format.name().toLowerCase(Locale.ROOT);
    }

    @Override
    public String family() {
        return "attention";
    }

    @Override
    public List<String> keys() {
        return List.of("tokens");
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        final List<BenchShape> shapes = new ArrayList<>();
        if (list == CaseList.DEEPSEEK_V3) { // no peer publishes figures
            for (final long tokens : TOKENS) {
                shapes.add(new BenchShape(Map.of("tokens", tokens)));
            }
        }
        return shapes;
    }

    /** Tokens in and out, and the angles of the positions that are met. */
    @Override
    public Work work(final BenchShape shape) {
        final double tokens = shape.get("tokens");
        final double out = (double) format.tokenSize() * format.dtype().size();
        return new Work(tokens * (IN_BYTES + out) + Math.ceil(tokens / REQUESTS) * 256, 0);
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        final long tokens = shape.get("tokens");
        final long length = Math.ceilDiv(tokens + 3, REQUESTS);
        return new Written(
                gpu, MlaCacheWriteCase.of(format, ScaleKind.F32, false, PAGE_SIZE, REQUESTS, length, tokens, seed));
    }

    /** One bound launch with its operands. Every seventh token is padding in a case to verify; here none is. */
    private static final class Written implements Prepared {
        private final BenchGpu gpu;
        private final MlaCacheWriteCase written;
        private final Arena host = Arena.ofShared();
        private final DeviceArena device;
        private final MlaCacheWriteOperands<HostTensor> x;
        private final DeviceTensor cache;
        private final MlaCacheWritePlan<DeviceTensor> plan;
        private final MlaCacheWriteLaunch<DeviceTensor> launch;

        Written(final BenchGpu gpu, final MlaCacheWriteCase written) {
            this.gpu = gpu;
            this.written = written;
            this.plan = gpu.kernels().plan(written.spec());
            this.device = gpu.openArena();
            this.x = written.operands(host);
            for (long t = 0; t < written.tokens(); t++) {
                x.positions().setFloat((float) Math.floorDiv(t, REQUESTS), t);
            }
            this.cache = device.allocate(x.cache().spec());
            this.launch = plan.bind(MlaCacheWriteCase.there(gpu.gpu(), device, x, cache));
        }

        @Override
        public String kernel() {
            return plan.kernel();
        }

        @Override
        public void run() {
            launch.launch(gpu.stream(), written.tokens());
        }

        @Override
        public Deviation check() {
            x.cache().segment().fill((byte) 0xFF); // what is not written is found
            cache.copyFrom(x.cache(), gpu.stream());
            run();
            gpu.gpu().download(cache, x.cache());
            final double ratio = written.compare(x, x.cache()).worst();
            return new Deviation("differing", ratio <= 1 ? 0 : 1, 0, ratio, ratio <= 1);
        }

        /** A plain copy of as many bytes as go in. */
        @Override
        public List<Peer> peers() {
            final long bytes = written.tokens() * IN_BYTES;
            final DeviceTensor from = device.allocate(DType.U8, bytes);
            final DeviceTensor to = device.allocate(DType.U8, bytes);
            return List.of(new Peer(
                    "copy_of_the_input",
                    () -> gpu.session().copy(gpu.stream().handle(), to.address(), from.address(), bytes),
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
