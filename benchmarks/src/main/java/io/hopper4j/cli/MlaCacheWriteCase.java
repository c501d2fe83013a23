package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.RopeTable;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.LatentCacheWriting;
import io.hopper4j.reference.RmsNorm;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * Writing of tokens into a paged latent cache against the reference.
 *
 * @param spec the operation, with as many pages as its requests could use
 * @param tokens in use
 * @param seed of the operands
 */
record MlaCacheWriteCase(MlaCacheWriteSpec spec, long tokens, long seed) implements VerifyCase {
    /** Tokens that are compared. */
    private static final int SAMPLED = 400;

    /** Where an FP8 token has its scales and its rope part. */
    static final int SCALES = 512;

    static final int ROPE = 528;

    /** Half a unit of BF16, and a few of F32 of what was added up. */
    static final double BF16_BOUND = 0x1p-8;

    static final double F32_BOUND = 0x1p-20;

    /** {@return a case with {@code batch} requests and {@code tokens} tokens spread over them} */
    static MlaCacheWriteCase of(
            final MlaCacheFormat format,
            final ScaleKind kind,
            final boolean wide,
            final int pageSize,
            final long batch,
            final long maxLength,
            final long tokens,
            final long seed) {
        final long pages = batch * Math.ceilDiv(maxLength, pageSize);
        final MlaCacheWriteSpec spec = MlaCacheWriteSpec.of(
                        MlaDecodeSpec.of(1, pageSize, batch, maxLength, Math.max(1, pages))
                                .withCacheFormat(format))
                .withMaxTokens(tokens + 3)
                .withScaleKind(kind)
                .withTypes(wide ? DType.F32 : DType.BF16, wide ? DType.I64 : DType.I32);
        return new MlaCacheWriteCase(spec, tokens, seed);
    }

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "tokens=%s %s %s page=%d %s"
                .formatted(
                        HostData.rows(tokens, spec.maxTokens()),
                        spec.format(),
                        spec.scaleKind() == ScaleKind.F32 ? "F32" : "2^n",
                        spec.pageSize(),
                        spec.weightDType());
    }

    /** All tensors on the host: token t is of request t % batch and at the next of its positions, every seventh is padding; the cache holds NaN. */
    MlaCacheWriteOperands<HostTensor> operands(final Arena host) {
        final SplitMix64 random = new SplitMix64(seed);
        final HostTensor in = HostTensor.allocate(host, DType.BF16, spec.maxTokens(), TOKEN_DIM);
        final HostTensor weight = HostTensor.allocate(host, spec.weightDType(), 1, VALUE_DIM);
        HostData.fillWithNormal(in, random);
        HostData.fillWithNormal(weight, random);
        final HostTensor positions = HostTensor.allocate(host, spec.positionDType(), spec.maxTokens());
        final HostTensor requests = HostTensor.allocate(host, DType.I32, spec.maxTokens());
        for (long t = 0; t < spec.maxTokens(); t++) {
            positions.setFloat(t % 7 == 6 ? -1 : (float) Math.floorDiv(t, spec.maxBatch()), t);
            requests.setFloat((float) (t % spec.maxBatch()), t);
        }
        final HostTensor table = HostTensor.allocate(host, DType.I32, spec.maxBatch(), spec.tableWidth());
        final float[] order = new float[Math.toIntExact(spec.pages())];
        for (int i = 0; i < order.length; i++) {
            final int j = (int) random.below(i + 1L);
            order[i] = order[j];
            order[j] = i;
        }
        table.setFloats(Arrays.copyOf(order, Math.toIntExact(table.spec().elements())));
        final HostTensor cache = HostTensor.allocate(
                host,
                TensorSpec.packed(
                        spec.format().dtype(),
                        spec.pages(),
                        spec.pageSize(),
                        spec.format().tokenSize()));
        cache.segment().fill((byte) 0xFF);
        return new MlaCacheWriteOperands<>(
                in,
                weight.select(0, 0),
                RopeTable.deepSeekV3(host, spec.maxLength()),
                positions,
                requests,
                table,
                cache);
    }

    /** What tokens may be off, by their bounds. */
    static final class Errors {
        private final QuantizeTolerance tolerance;
        private double bf16;
        private boolean padded = true;

        private Errors(final QuantizeTolerance tolerance) {
            this.tolerance = tolerance;
        }

        double worst() {
            return padded
                    ? Math.max(bf16, Math.max(tolerance.worstValueRatio(), tolerance.worstScaleRatio()))
                    : Double.POSITIVE_INFINITY;
        }

        private void add(final double got, final double exact, final double magnitude) {
            final double bound = BF16_BOUND * Math.abs(exact) + F32_BOUND * magnitude;
            bf16 = Math.max(bf16, Math.abs(got - exact) / bound); // NaN stays
        }
    }

    /** Compares some tokens of a cache. */
    Errors compare(final MlaCacheWriteOperands<HostTensor> x, final HostTensor cache) {
        final Errors errors = new Errors(new QuantizeTolerance(spec.scaleKind()));
        final float[] weight = x.weight().toFloats();
        for (final long t : HostData.sample(new SplitMix64(seed + 1), tokens, SAMPLED)) {
            final LatentCacheWriting.Place place = LatentCacheWriting.place(spec, x, t);
            if (place.page() < 0) {
                continue;
            }
            final float[] in = x.in().select(0, t).toFloats();
            final double[] latent = RmsNorm.normalize(Arrays.copyOf(in, VALUE_DIM), weight, spec.eps());
            final double[] rope = LatentCacheWriting.rotate(
                    Arrays.copyOfRange(in, VALUE_DIM, TOKEN_DIM),
                    x.rope().select(0, place.position()).toFloats());
            final MemorySegment token =
                    cache.select(0, place.page()).select(0, place.slot()).segment();
            final boolean isBf16 = spec.format() == MlaCacheFormat.BF16;
            final float[] turned = bf16(token, isBf16 ? 2 * VALUE_DIM : ROPE, rope.length);
            for (int i = 0; i < rope.length; i++) {
                final int pair = VALUE_DIM + i / 2 * 2;
                errors.add(turned[i], rope[i], Math.abs(in[pair]) + Math.abs(in[pair + 1]));
            }
            if (isBf16) {
                final float[] values = bf16(token, 0, VALUE_DIM);
                for (int c = 0; c < VALUE_DIM; c++) {
                    errors.add(values[c], latent[c], Math.abs(latent[c]));
                }
            } else {
                fp8(token, latent, errors);
            }
        }
        return errors;
    }

    private void fp8(final MemorySegment token, final double[] latent, final Errors errors) {
        final int size = spec.format() == MlaCacheFormat.FP8_BLOCKS ? 128 : VALUE_DIM;
        final float[] values = HostTensor.wrap(token.asSlice(0, VALUE_DIM), TensorSpec.packed(DType.F8_E4M3, VALUE_DIM))
                .toFloats();
        for (int first = 0; first < VALUE_DIM; first += size) {
            errors.tolerance.add(
                    Arrays.copyOfRange(values, first, first + size),
                    token.get(ValueLayout.JAVA_FLOAT_UNALIGNED, SCALES + first / size * Float.BYTES),
                    Arrays.copyOfRange(latent, first, first + size));
        }
        for (int i = SCALES + VALUE_DIM / size * Float.BYTES; i < ROPE; i++) {
            errors.padded &= token.get(ValueLayout.JAVA_BYTE, i) == 0;
        }
    }

    private static float[] bf16(final MemorySegment token, final long offset, final int count) {
        return HostTensor.wrap(token.asSlice(offset, 2L * count), TensorSpec.packed(DType.BF16, count))
                .toFloats();
    }

    /** How many slots that no token is for have been written: all of them held 0xFF. */
    private long strayWrites(final MlaCacheWriteOperands<HostTensor> x, final HostTensor cache) {
        final boolean[] used = new boolean[Math.toIntExact(spec.pages() * spec.pageSize())];
        for (long t = 0; t < tokens; t++) {
            final LatentCacheWriting.Place place = LatentCacheWriting.place(spec, x, t);
            if (place.page() >= 0) {
                used[place.page() * spec.pageSize() + place.slot()] = true;
            }
        }
        long stray = 0;
        final long size = cache.segment().byteSize() / used.length;
        for (int slot = 0; slot < used.length; slot++) {
            for (long i = 0; !used[slot] && i < size; i++) {
                stray += cache.segment().get(ValueLayout.JAVA_BYTE, slot * size + i) == (byte) 0xFF ? 0 : 1;
            }
        }
        return stray;
    }

    @Override
    public Row run(final Gpu gpu) {
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                MlaCacheWritePlan<DeviceTensor> plan = gpu.kernels().plan(spec)) {
            final MlaCacheWriteOperands<HostTensor> x = operands(host);
            final DeviceTensor cache = gpu.copy(arena, x.cache());
            try (MlaCacheWriteLaunch<DeviceTensor> launch = plan.bind(there(gpu, arena, x, cache))) {
                launch.launch(gpu.stream(), tokens);
                gpu.download(cache, x.cache());
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, tokens),
                        new Row.Measure("error/bound", compare(x, x.cache()).worst(), 1),
                        new Row.Measure("stray", (double) strayWrites(x, x.cache()), 0));
            }
        }
    }

    /** The operands on the device. */
    static MlaCacheWriteOperands<DeviceTensor> there(
            final Gpu gpu,
            final DeviceArena arena,
            final MlaCacheWriteOperands<HostTensor> x,
            final DeviceTensor cache) {
        return new MlaCacheWriteOperands<>(
                gpu.copy(arena, x.in()),
                gpu.copy(arena, x.weight()),
                gpu.copy(arena, x.rope()),
                gpu.copy(arena, x.positions()),
                x.requests() == null ? null : gpu.copy(arena, x.requests()),
                gpu.copy(arena, x.blockTable()),
                cache);
    }
}
