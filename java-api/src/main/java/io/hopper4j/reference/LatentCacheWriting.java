package io.hopper4j.reference;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWriteSpec;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** Writing of a paged latent cache: what {@link MlaCacheWriteSpec} says, in {@code double}, rounded once. */
public final class LatentCacheWriting {
    private static final int ROPE_DIM = TOKEN_DIM - VALUE_DIM;
    private static final int PAIRS = ROPE_DIM / 2;
    private static final int SCALE_OFFSET = VALUE_DIM;
    private static final int ROPE_OFFSET = SCALE_OFFSET + 16;

    private LatentCacheWriting() {}

    /**
     * {@return the rope part turned: pairs (2i, 2i + 1) by the angle whose cosine and sine are {@code table[i]} and {@code table[32 + i]} (Su et al.,
     * arXiv 2104.09864, equation 34)}
     *
     * @param x 64 values
     * @param table cosines and sines of the position
     */
    public static double[] rotate(final float[] x, final float[] table) {
        final double[] y = new double[x.length];
        for (int i = 0; i < PAIRS; i++) {
            final double cosine = table[i];
            final double sine = table[PAIRS + i];
            y[2 * i] = x[2 * i] * cosine - x[2 * i + 1] * sine;
            y[2 * i + 1] = x[2 * i] * sine + x[2 * i + 1] * cosine;
        }
        return y;
    }

    /**
     * Where a token goes.
     *
     * @param page of the cache; -1: nowhere
     * @param slot in the page
     * @param position the token's
     */
    public record Place(int page, int slot, long position) {}

    /**
     * Writes the first tokens.
     *
     * @param spec the operation
     * @param x its tensors
     * @param tokens in use
     * @throws IllegalArgumentException if a position, request or page is out of range; the other tokens are written
     */
    public static void write(
            final MlaCacheWriteSpec spec, final MlaCacheWriteOperands<HostTensor> x, final long tokens) {
        final float[] weight = x.weight().toFloats();
        final DeviceFault[] fault = {DeviceFault.NONE};
        for (long t = 0; t < tokens; t++) {
            final Place place = place(spec, x, t, fault);
            if (place.page() < 0) {
                continue;
            }
            final float[] in = x.in().select(0, t).toFloats();
            final double[] latent = RmsNorm.normalize(Arrays.copyOf(in, VALUE_DIM), weight, spec.eps());
            final double[] rope = rotate(
                    Arrays.copyOfRange(in, VALUE_DIM, TOKEN_DIM),
                    x.rope().select(0, place.position()).toFloats());
            final HostTensor token = x.cache().select(0, place.page()).select(0, place.slot());
            if (spec.format() == MlaCacheFormat.BF16) {
                token.slice(0, 0, VALUE_DIM).setFloats(FusedQuantization.roundedToBf16(latent));
                token.slice(0, VALUE_DIM, TOKEN_DIM).setFloats(FusedQuantization.roundedToBf16(rope));
            } else {
                writeFp8(spec, token.segment(), FusedQuantization.rounded(latent), rope);
            }
        }
        fault[0].throwIfAny();
    }

    private static void writeFp8(
            final MlaCacheWriteSpec spec, final MemorySegment token, final float[] latent, final double[] rope) {
        final boolean blocks = spec.format() == MlaCacheFormat.FP8_BLOCKS;
        final Scaling.Block block = blocks ? Scaling.ACTIVATION_1X128 : new Scaling.Block(1, VALUE_DIM);
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor wide = HostTensor.allocate(arena, DType.F32, 1, VALUE_DIM);
            wide.setFloats(latent);
            final Scaled<HostTensor> quantized = new Scaled<>(
                    HostTensor.allocate(arena, DType.F8_E4M3, 1, VALUE_DIM),
                    HostTensor.allocate(arena, DType.F32, 1, blocks ? 4 : 1),
                    block);
            BlockQuantization.quantize(wide, quantized, spec.scaleKind());
            final HostTensor turned = HostTensor.allocate(arena, DType.BF16, ROPE_DIM);
            turned.setFloats(FusedQuantization.roundedToBf16(rope));
            token.asSlice(SCALE_OFFSET, ROPE_OFFSET - SCALE_OFFSET).fill((byte) 0);
            copy(quantized.values(), token, 0);
            copy(quantized.scales(), token, SCALE_OFFSET);
            copy(turned, token, ROPE_OFFSET);
        }
    }

    private static void copy(final HostTensor from, final MemorySegment to, final long offset) {
        MemorySegment.copy(from.segment(), 0, to, offset, from.segment().byteSize());
    }

    /**
     * {@return where a token goes; nowhere if it is padding or its position, request or page is out of range}
     *
     * @param spec the operation
     * @param x its tensors
     * @param token from 0
     */
    public static Place place(
            final MlaCacheWriteSpec spec, final MlaCacheWriteOperands<HostTensor> x, final long token) {
        return place(spec, x, token, new DeviceFault[] {DeviceFault.NONE});
    }

    private static Place place(
            final MlaCacheWriteSpec spec,
            final MlaCacheWriteOperands<HostTensor> x,
            final long token,
            final DeviceFault[] fault) {
        final long position = integer(x.positions(), token);
        if (position == -1) {
            return new Place(-1, 0, position);
        }
        if (position < 0 || position >= spec.maxLength()) {
            return bad(fault, "positions", token, position, spec.maxLength());
        }
        final @Nullable HostTensor requests = x.requests();
        final long request = requests == null ? token / spec.requestTokens() : integer(requests, token);
        if (request < 0 || request >= spec.maxBatch()) {
            return bad(fault, "requests", token, request, spec.maxBatch());
        }
        final long entry = position / spec.pageSize();
        final long page = integer(x.blockTable().select(0, request), entry);
        if (page < 0 || page >= spec.pages()) {
            final TensorSpec table = x.blockTable().spec();
            final long row = table.shape().size(0) > 1 ? table.strides().step(0) : 0;
            return bad(fault, "block_table", request * row + entry, page, spec.pages());
        }
        return new Place((int) page, (int) (position % spec.pageSize()), position);
    }

    private static Place bad(
            final DeviceFault[] fault, final String argument, final long index, final long got, final long end) {
        fault[0] = fault[0].or("mla_cache_write", argument, index, got, end - 1);
        return new Place(-1, 0, -1);
    }

    /** An element of an I32 or I64 vector, exactly. */
    private static long integer(final HostTensor vector, final long index) {
        final HostTensor element = vector.select(0, index);
        return element.dtype() == DType.I64
                ? element.segment().get(ValueLayout.JAVA_LONG_UNALIGNED, 0)
                : element.segment().get(ValueLayout.JAVA_INT_UNALIGNED, 0);
    }
}
