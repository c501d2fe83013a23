package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.reference.LatentCacheWriting;
import io.hopper4j.reference.RmsNorm;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/** The errors of tokens that were written into a paged cache. Indices are page, slot, and value of the latent, scale, value that was turned, or byte. */
final class CheckCacheWrite {
    private final MlaCacheWriteSpec spec;
    private final MlaCacheWriteOperands<HostTensor> x;
    private final float[] weight;
    private final CheckMeasure ofLatent = new CheckMeasure("cache, latent");
    private final CheckMeasure ofScales = new CheckMeasure("cache, scales");
    private final CheckMeasure ofPadding = new CheckMeasure("cache, bytes behind the scales");
    private final CheckMeasure ofRope = new CheckMeasure("cache, turned");

    /** @param x the operands, with the cache that was written */
    CheckCacheWrite(final MlaCacheWriteSpec spec, final MlaCacheWriteOperands<HostTensor> x) {
        this.spec = spec;
        this.x = x;
        this.weight = x.weight().toFloats();
    }

    /** Compares what a token must have written. */
    void add(final long token) {
        final LatentCacheWriting.Place place = LatentCacheWriting.place(spec, x, token);
        if (place.page() < 0) {
            return;
        }
        final float[] in = x.in().select(0, token).toFloats();
        final double[] latent = RmsNorm.normalize(Arrays.copyOf(in, VALUE_DIM), weight, spec.eps());
        final double[] turned = LatentCacheWriting.rotate(
                Arrays.copyOfRange(in, VALUE_DIM, TOKEN_DIM),
                x.rope().select(0, place.position()).toFloats());
        final MemorySegment slot =
                x.cache().select(0, place.page()).select(0, place.slot()).segment();
        final long[] at = {place.page(), place.slot()};
        final boolean isBf16 = spec.format() == MlaCacheFormat.BF16;
        if (isBf16) {
            final float[] values = values(slot, 0, DType.BF16, VALUE_DIM);
            for (int i = 0; i < VALUE_DIM; i++) {
                addBf16(ofLatent, values[i], latent[i], Math.abs(latent[i]), at[0], at[1], i);
            }
        } else {
            addFp8(slot, latent, at);
        }
        final float[] got = values(slot, isBf16 ? 2L * VALUE_DIM : MlaCacheWriteCase.ROPE, DType.BF16, turned.length);
        for (int i = 0; i < turned.length; i++) {
            final int pair = VALUE_DIM + i / 2 * 2;
            addBf16(ofRope, got[i], turned[i], Math.abs(in[pair]) + Math.abs(in[pair + 1]), at[0], at[1], i);
        }
    }

    private static void addBf16(
            final CheckMeasure measure,
            final double got,
            final double exact,
            final double magnitude,
            final long... at) {
        measure.add(
                got,
                exact,
                MlaCacheWriteCase.BF16_BOUND * Math.abs(exact) + MlaCacheWriteCase.F32_BOUND * magnitude,
                at);
    }

    private void addFp8(final MemorySegment slot, final double[] latent, final long[] at) {
        final int size = spec.format() == MlaCacheFormat.FP8_BLOCKS ? 128 : VALUE_DIM;
        final float[] got = values(slot, 0, DType.F8_E4M3, VALUE_DIM);
        final double[] slack = new double[VALUE_DIM];
        Arrays.setAll(slack, i -> QuantizeTolerance.SLACK * Math.abs(latent[i]));
        for (int first = 0; first < VALUE_DIM; first += size) {
            final int block = first / size;
            final float scale =
                    slot.get(ValueLayout.JAVA_FLOAT_UNALIGNED, MlaCacheWriteCase.SCALES + (long) block * Float.BYTES);
            CheckQuantized.addBlock(
                    spec.scaleKind(), ofLatent, ofScales, first, got, scale, latent, slack, first + size, at, block);
        }
        for (int i = MlaCacheWriteCase.SCALES + VALUE_DIM / size * Float.BYTES; i < MlaCacheWriteCase.ROPE; i++) {
            ofPadding.add(slot.get(ValueLayout.JAVA_BYTE, i), 0, 0, at[0], at[1], i);
        }
    }

    private static float[] values(final MemorySegment slot, final long offset, final DType type, final long count) {
        return HostTensor.wrap(slot.asSlice(offset, count * type.size()), TensorSpec.packed(type, count))
                .toFloats();
    }

    CheckOperation.Judgement judgement() {
        return spec.format() == MlaCacheFormat.BF16
                ? CheckOperation.Judgement.of(ofLatent, ofRope)
                : CheckOperation.Judgement.of(ofLatent, ofScales, ofPadding, ofRope);
    }
}
