package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.reference.MlaMerge;
import java.lang.foreign.Arena;

/**
 * One merge of two results against the reference.
 *
 * @param spec the operation
 * @param batch requests in use
 * @param seed of the operands
 */
record MlaMergeCase(MlaMergeSpec spec, long batch, long seed) implements VerifyCase {
    /** Largest deviation of a log-sum-exp or, relative to 1 + its size, an F32 output; BF16 adds its rounding. */
    static final double BOUND = 4e-6;

    /** Both are rounded, and near a tie F32 arithmetic may fall to the other side: a unit of BF16, which has 8 significant bits. */
    static final double BF16_ROUNDING = 1.0 / 128;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "b=%s h=%d sq=%d %s"
                .formatted(HostData.rows(batch, spec.maxBatch()), spec.heads(), spec.sQ(), spec.outDType());
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                MlaMergePlan<DeviceTensor> plan = gpu.kernels().plan(spec)) {
            final MlaResult<HostTensor> a = part(host, random);
            final MlaResult<HostTensor> b = part(host, random);
            final MlaResult<HostTensor> merged = empty(host);
            final MlaResult<DeviceTensor> there = upload(gpu, arena, merged);
            try (MlaMergeLaunch<DeviceTensor> launch = plan.bind(upload(gpu, arena, a), upload(gpu, arena, b), there)) {
                launch.launch(gpu.stream(), batch);
                gpu.download(there.out(), merged.out());
                gpu.download(there.lse(), merged.lse());
                final MlaResult<HostTensor> expected = empty(host);
                MlaMerge.merge(
                        a.out().slice(0, 0, batch),
                        a.lse().slice(0, 0, batch),
                        b.out().slice(0, 0, batch),
                        b.lse().slice(0, 0, batch),
                        expected.out().slice(0, 0, batch),
                        expected.lse().slice(0, 0, batch));
                final double rounding = spec.outDType() == DType.BF16 ? BF16_ROUNDING : 0;
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, batch),
                        new Row.Measure("out/bound", worst(merged.out(), expected.out(), rounding), 1),
                        new Row.Measure("lse/bound", worst(merged.lse(), expected.lse(), 0), 1));
            }
        }
    }

    private MlaResult<HostTensor> empty(final Arena host) {
        final long b = spec.maxBatch();
        final MlaResult<HostTensor> result = new MlaResult<>(
                HostTensor.allocate(host, TensorSpec.packed(spec.outDType(), b, spec.sQ(), spec.heads(), VALUE_DIM)),
                HostTensor.allocate(host, TensorSpec.packed(DType.F32, b, spec.heads(), spec.sQ())));
        result.out().segment().fill((byte) 0xFF);
        result.lse().segment().fill((byte) 0xFF);
        return result;
    }

    /** Every fifth row has no keys, and its output is NaN. */
    private MlaResult<HostTensor> part(final Arena host, final SplitMix64 random) {
        final MlaResult<HostTensor> result = empty(host);
        final long rows = spec.maxBatch() * spec.sQ() * spec.heads();
        final HostTensor flat = result.out().reshape(rows, VALUE_DIM);
        HostData.fillWithNormal(flat, random);
        for (long i = 0; i < rows; i++) {
            final boolean none = random.below(5) == 0;
            if (none) {
                flat.select(0, i).segment().fill((byte) 0xFF);
            }
            final float lse = none ? Float.POSITIVE_INFINITY : (float) (8 * random.fraction() - 4);
            result.lse().setFloat(lse, i / spec.heads() / spec.sQ(), i % spec.heads(), i / spec.heads() % spec.sQ());
        }
        return result;
    }

    private static MlaResult<DeviceTensor> upload(
            final Gpu gpu, final DeviceArena arena, final MlaResult<HostTensor> result) {
        return new MlaResult<>(copy(gpu, arena, result.out()), copy(gpu, arena, result.lse()));
    }

    private static DeviceTensor copy(final Gpu gpu, final DeviceArena arena, final HostTensor source) {
        final DeviceTensor there = arena.allocate(source.spec());
        there.copyFrom(source, gpu.stream());
        return there;
    }

    /** Largest deviation over its bound; rows that are not in use must have kept their NaN. */
    private static double worst(final HostTensor got, final HostTensor expected, final double rounding) {
        final float[] x = got.toFloats();
        final float[] y = expected.toFloats();
        double worst = 0;
        for (int i = 0; i < x.length; i++) {
            if (Float.compare(x[i], y[i]) != 0) {
                final double ratio = Math.abs((double) x[i] - y[i]) / (BOUND + (BOUND + rounding) * Math.abs(y[i]));
                worst = Math.max(worst, Double.isNaN(ratio) ? Double.POSITIVE_INFINITY : ratio);
            }
        }
        return worst;
    }
}
