package io.hopper4j.reference;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** What a rank shows the others when rows are dispatched: all its tokens, as they travel. */
final class Parcel {
    private final int tokens;
    private final int[] experts;
    private final float[] weights;
    private final byte[] rows;
    private final float[] scales;

    /**
     * @param tokens tokens of the rank
     * @param experts {@code [tokens][topK]}, over all ranks; -1: none
     * @param weights {@code [tokens][topK]}
     * @param rows {@code [tokens]} rows of bytes
     * @param scales {@code [tokens][blocks]}; empty for BF16 rows
     */
    Parcel(final int tokens, final int[] experts, final float[] weights, final byte[] rows, final float[] scales) {
        this.tokens = tokens;
        this.experts = experts;
        this.weights = weights;
        this.rows = rows;
        this.scales = scales;
    }

    int tokens() {
        return tokens;
    }

    int[] experts() {
        return experts;
    }

    float[] weights() {
        return weights;
    }

    byte[] rows() {
        return rows;
    }

    float[] scales() {
        return scales;
    }

    byte[] toBytes() {
        final ByteBuffer out = ByteBuffer.allocate(
                        20 + 4 * (experts.length + weights.length + scales.length) + rows.length)
                .order(ByteOrder.LITTLE_ENDIAN);
        out.putInt(tokens)
                .putInt(experts.length)
                .putInt(weights.length)
                .putInt(rows.length)
                .putInt(scales.length);
        for (final int expert : experts) {
            out.putInt(expert);
        }
        for (final float weight : weights) {
            out.putFloat(weight);
        }
        for (final float scale : scales) {
            out.putFloat(scale);
        }
        return out.put(rows).array();
    }

    static Parcel of(final byte[] bytes) {
        final ByteBuffer in = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        final int tokens = in.getInt();
        final int[] experts = new int[in.getInt()];
        final float[] weights = new float[in.getInt()];
        final byte[] rows = new byte[in.getInt()];
        final float[] scales = new float[in.getInt()];
        for (int i = 0; i < experts.length; i++) {
            experts[i] = in.getInt();
        }
        for (int i = 0; i < weights.length; i++) {
            weights[i] = in.getFloat();
        }
        for (int i = 0; i < scales.length; i++) {
            scales[i] = in.getFloat();
        }
        in.get(rows);
        return new Parcel(tokens, experts, weights, rows, scales);
    }
}
