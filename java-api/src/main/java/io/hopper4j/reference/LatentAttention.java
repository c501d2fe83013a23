package io.hopper4j.reference;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.Arguments;
import java.util.stream.IntStream;

/**
 * Multi-head latent attention of one query token and head (DeepSeek-V2, arXiv 2405.04434, section 2.1) in its two forms, which are the same
 * function. All of it in {@code double}.
 *
 * <p>Expanded, as the model is defined and trained: keys and values come from the cached latent c of 512 values and the cached rope part r of 64,
 *
 * <pre>
 * k_j = [W_UK c_j, r_j],  v_j = W_UV c_j,  out = sum_j softmax_j(scale * (q_nope . W_UK c_j + q_rope . r_j)) W_UV c_j
 * </pre>
 *
 * Absorbed, as decode computes it: the matrices move to the query and to the output, and what is cached serves as it is,
 *
 * <pre>
 * q = [W_UK^T q_nope, q_rope],  o = sum_j softmax_j(scale * q . [c_j, r_j]) c_j,  out = W_UV o
 * </pre>
 */
public final class LatentAttention {
    private static final int ROPE_DIM = TOKEN_DIM - VALUE_DIM;

    private LatentAttention() {}

    /**
     * The expanded form.
     *
     * @param qNope {@code [d]}, the part of the query without position
     * @param qRope {@code [64]}, the rotated part
     * @param wUk {@code [d, 512]}, makes keys of latents
     * @param wUv {@code [dv, 512]}, makes values of latents
     * @param tokens {@code [n, 576]}, the cached tokens that the query sees
     * @param scale the softmax scale
     * @return the output of {@code dv} values
     * @throws IllegalArgumentException if the shapes do not fit
     */
    public static AttentionRow expanded(
            final HostTensor qNope,
            final HostTensor qRope,
            final HostTensor wUk,
            final HostTensor wUv,
            final HostTensor tokens,
            final double scale) {
        requireCols("wUk", wUk, VALUE_DIM);
        requireCols("wUv", wUv, VALUE_DIM);
        requireCols("tokens", tokens, TOKEN_DIM);
        final double[] nope = doubles(qNope);
        final double[] rope = doubles(qRope);
        Arguments.require(rope.length == ROPE_DIM, "attention: qRope", "shape " + qRope.shape(), "[64]");
        final double[][] toKey = rows(wUk);
        final double[][] toValue = rows(wUv);
        Arguments.require(
                nope.length == toKey.length, "attention: qNope", "shape " + qNope.shape(), "[" + toKey.length + "]");
        final double[][] cached = rows(tokens);
        final double[] scores = new double[cached.length];
        final double[][] values = new double[cached.length][];
        for (int j = 0; j < cached.length; j++) {
            final double[] key = apply(toKey, cached[j]);
            double score = 0;
            for (int d = 0; d < key.length; d++) {
                score += nope[d] * key[d];
            }
            for (int d = 0; d < ROPE_DIM; d++) {
                score += rope[d] * cached[j][VALUE_DIM + d];
            }
            scores[j] = score * scale;
            values[j] = apply(toValue, cached[j]);
        }
        final Softmax softmax = new Softmax(scores, Double.NEGATIVE_INFINITY);
        final double[] out = new double[toValue.length];
        for (int j = 0; j < cached.length; j++) {
            for (int d = 0; d < out.length; d++) {
                out[d] += softmax.weight(j) * values[j][d];
            }
        }
        return new AttentionRow(out, softmax.logSumExp());
    }

    /**
     * {@return the absorbed query {@code [W_UK^T q_nope, q_rope]} of 576 values}
     *
     * @param qNope {@code [d]}
     * @param qRope {@code [64]}
     * @param wUk {@code [d, 512]}
     * @throws IllegalArgumentException if the shapes do not fit
     */
    public static double[] absorb(final HostTensor qNope, final HostTensor qRope, final HostTensor wUk) {
        requireCols("wUk", wUk, VALUE_DIM);
        final double[] nope = doubles(qNope);
        final double[] rope = doubles(qRope);
        final double[][] toKey = rows(wUk);
        Arguments.require(rope.length == ROPE_DIM, "attention: qRope", "shape " + qRope.shape(), "[64]");
        Arguments.require(
                nope.length == toKey.length, "attention: qNope", "shape " + qNope.shape(), "[" + toKey.length + "]");
        final double[] q = new double[TOKEN_DIM];
        for (int i = 0; i < nope.length; i++) {
            for (int d = 0; d < VALUE_DIM; d++) {
                q[d] += nope[i] * toKey[i][d];
            }
        }
        System.arraycopy(rope, 0, q, VALUE_DIM, ROPE_DIM);
        return q;
    }

    /**
     * The absorbed form.
     *
     * @param q 576 values, as {@link #absorb} makes them
     * @param tokens {@code [n, 576]}, the cached tokens that the query sees
     * @param scale the softmax scale
     * @return the output of 512 values, still to be multiplied by W_UV
     * @throws IllegalArgumentException if the shapes do not fit
     */
    public static AttentionRow absorbed(final double[] q, final HostTensor tokens, final double scale) {
        requireCols("tokens", tokens, TOKEN_DIM);
        Arguments.require(q.length == TOKEN_DIM, "attention: q", q.length + " values", TOKEN_DIM);
        final float[][] cached = IntStream.range(
                        0, Math.toIntExact(tokens.shape().size(0)))
                .mapToObj(j -> tokens.select(0, j).toFloats())
                .toArray(float[][]::new);
        return attend(q, cached, 0, cached.length, scale, Double.NEGATIVE_INFINITY);
    }

    /**
     * {@return the output of the absorbed form as the expanded form gives it: {@code W_UV o}}
     *
     * @param row what {@link #absorbed} gave
     * @param wUv {@code [dv, 512]}
     * @throws IllegalArgumentException if the shapes do not fit
     */
    public static AttentionRow project(final AttentionRow row, final HostTensor wUv) {
        requireCols("wUv", wUv, VALUE_DIM);
        final double[] latent =
                IntStream.range(0, VALUE_DIM).mapToDouble(row::value).toArray();
        return new AttentionRow(apply(rows(wUv), latent), row.logSumExp());
    }

    /** The absorbed form over tokens {@code from} to {@code to - 1}; a sink of negative infinity is none. */
    static AttentionRow attend(
            final double[] q,
            final float[][] tokens,
            final int from,
            final int to,
            final double scale,
            final double sink) {
        final double[] scores = new double[Math.max(0, to - from)];
        for (int j = 0; j < scores.length; j++) {
            scores[j] = dot(q, tokens[from + j]) * scale;
        }
        final Softmax softmax = new Softmax(scores, sink);
        final double[] out = new double[VALUE_DIM];
        for (int j = 0; j < scores.length; j++) {
            final double weight = softmax.weight(j);
            final float[] token = tokens[from + j];
            for (int d = 0; d < VALUE_DIM; d++) {
                out[d] += weight * token[d];
            }
        }
        return new AttentionRow(out, softmax.logSumExp());
    }

    /** Four sums at a time keep the processor busy. */
    private static double dot(final double[] q, final float[] token) {
        double sum0 = 0;
        double sum1 = 0;
        double sum2 = 0;
        double sum3 = 0;
        for (int d = 0; d < TOKEN_DIM; d += 4) {
            sum0 += q[d] * token[d];
            sum1 += q[d + 1] * token[d + 1];
            sum2 += q[d + 2] * token[d + 2];
            sum3 += q[d + 3] * token[d + 3];
        }
        return sum0 + sum1 + sum2 + sum3;
    }

    /** {@code exp(score) / (sum of exp(scores) + exp(sink))}, relative to the largest score. */
    private static final class Softmax {
        private final double[] weights;
        private final double total;
        private final double logSumExp;

        Softmax(final double[] scores, final double sink) {
            double largest = Double.NEGATIVE_INFINITY;
            for (final double score : scores) {
                largest = Math.max(largest, score);
            }
            weights = new double[scores.length];
            double sum = 0;
            for (int j = 0; j < scores.length; j++) {
                weights[j] = Math.exp(scores[j] - largest);
                sum += weights[j];
            }
            total = sum + Math.exp(sink - largest);
            logSumExp = scores.length == 0 ? Double.POSITIVE_INFINITY : largest + Math.log(sum);
        }

        double weight(final int j) {
            return weights[j] / total;
        }

        double logSumExp() {
            return logSumExp;
        }
    }

    private static double[] apply(final double[][] matrix, final double[] vector) {
        final double[] result = new double[matrix.length];
        for (int i = 0; i < matrix.length; i++) {
            for (int d = 0; d < matrix[i].length; d++) {
                result[i] += matrix[i][d] * vector[d];
            }
        }
        return result;
    }

    private static double[][] rows(final HostTensor matrix) {
        return IntStream.range(0, Math.toIntExact(matrix.shape().size(0)))
                .mapToObj(i -> doubles(matrix.select(0, i)))
                .toArray(double[][]::new);
    }

    static double[] doubles(final HostTensor vector) {
        final float[] floats = vector.toFloats();
        return IntStream.range(0, floats.length).mapToDouble(i -> floats[i]).toArray();
    }

    private static void requireCols(final String name, final HostTensor matrix, final int cols) {
        if (matrix.spec().rank() != 2 || matrix.shape().size(1) != cols) {
            throw Arguments.bad("attention: " + name, "shape " + matrix.shape(), "[n," + cols + "]");
        }
    }
}
