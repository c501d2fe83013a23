package io.hopper4j.contract;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import java.lang.foreign.Arena;
import java.util.SplittableRandom;

/** Seeded inputs. */
final class Data {
    private Data() {}

    /** Numbers as activations have them: mostly near one, each row of another size. */
    static HostTensor gaussian(final Arena arena, final TensorSpec spec, final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final long cols = Math.max(1, spec.shape().size(1));
        final float[] values = new float[Math.toIntExact(spec.elements())];
        double size = 1;
        for (int i = 0; i < values.length; i++) {
            if (i % cols == 0) {
                size = Math.scalb(1.0, random.nextInt(-6, 7));
            }
            values[i] = (float) (size * random.nextGaussian());
        }
        final HostTensor tensor = HostTensor.allocate(arena, spec);
        tensor.setFloats(values);
        return tensor;
    }

    /** A quantised matrix: E4M3 values of all sizes, scales between 2^-9 and 2^-7. */
    static Scaled<HostTensor> quantized(
            final Arena arena, final Scaling scaling, final long rows, final long cols, final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final HostTensor values = HostTensor.allocate(arena, DType.F8_E4M3, rows, cols);
        final float[] v = new float[Math.toIntExact(rows * cols)];
        for (int i = 0; i < v.length; i++) {
            v[i] = (float) (100 * random.nextGaussian());
        }
        values.setFloats(v);
        final HostTensor scales = HostTensor.allocate(arena, Backend.scaleSpec(scaling, rows, cols));
        final float[] s = new float[Math.toIntExact(scales.spec().elements())];
        for (int i = 0; i < s.length; i++) {
            s[i] = (float) random.nextDouble(0x1p-9, 0x1p-7);
        }
        scales.setFloats(s);
        return new Scaled<>(values, scales, scaling);
    }
}
