package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.codec.Bf16;

/**
 * Merges two partial results of attention, over two disjoint sets of keys, into that over both, by their log-sum-exp:
 *
 * <pre>
 * lse = ln(exp(lseA) + exp(lseB)),  out = exp(lseA - lse) outA + exp(lseB - lse) outB
 * </pre>
 *
 * A part with log-sum-exp of positive infinity has no keys and counts for nothing; two such parts give 0 and positive infinity. A sink, which
 * belongs to the whole, must not be in the parts. In {@code double}, rounded once.
 */
public final class MlaMerge {
    private MlaMerge() {}

    /**
     * Merges.
     *
     * @param outA {@code [b, sQ, heads, d]}, BF16 or F32
     * @param lseA F32 {@code [b, heads, sQ]}
     * @param outB as {@code outA}
     * @param lseB as {@code lseA}
     * @param out as {@code outA}, written; may be one of the parts
     * @param lse as {@code lseA}, written; may be one of the parts
     * @throws IllegalArgumentException if a type or shape does not fit
     */
    public static void merge(
            final HostTensor outA,
            final HostTensor lseA,
            final HostTensor outB,
            final HostTensor lseB,
            final HostTensor out,
            final HostTensor lse) {
        Arguments.require(
                outA.dtype() == DType.BF16 || outA.dtype() == DType.F32,
                "mla_merge: outA",
                "dtype " + outA.dtype(),
                "BF16 or F32");
        Arguments.require(outA.spec().rank() == 4, "mla_merge: outA", "shape " + outA.shape(), "rank 4");
        final int b = Math.toIntExact(outA.shape().size(0));
        final int tokens = Math.toIntExact(outA.shape().size(1));
        final int heads = Math.toIntExact(outA.shape().size(2));
        same("outB", outB, outA);
        same("out", out, outA);
        final String need = "[" + b + "," + heads + "," + tokens + "]";
        Arguments.require(
                lseA.dtype() == DType.F32 && lseA.shape().toString().equals(need),
                "mla_merge: lseA",
                lseA.spec(),
                "F32 " + need);
        same("lseB", lseB, lseA);
        same("lse", lse, lseA);
        for (int i = 0; i < b * tokens * heads; i++) {
            final int request = i / (tokens * heads);
            final int token = i / heads % tokens;
            final int head = i % heads;
            final double first = logOf(lseA.getFloat(request, head, token));
            final double second = logOf(lseB.getFloat(request, head, token));
            final double largest = Math.max(first, second);
            final boolean empty = largest == Double.NEGATIVE_INFINITY;
            final double sum = empty ? 1 : Math.exp(first - largest) + Math.exp(second - largest);
            final double weightA = empty ? 0 : Math.exp(first - largest) / sum;
            final double weightB = empty ? 0 : Math.exp(second - largest) / sum;
            final float[] a = row(outA, request, token, head).toFloats();
            final float[] other = row(outB, request, token, head).toFloats();
            for (int d = 0; d < a.length; d++) {
                final double exact = part(weightA, a[d]) + part(weightB, other[d]);
                a[d] = out.dtype() == DType.BF16 ? Bf16.toFloat(Bf16.fromDouble(exact)) : (float) exact;
            }
            row(out, request, token, head).setFloats(a);
            lse.setFloat(empty ? Float.POSITIVE_INFINITY : (float) (largest + Math.log(sum)), request, head, token);
        }
    }

    private static double logOf(final float lse) {
        return lse == Float.POSITIVE_INFINITY ? Double.NEGATIVE_INFINITY : lse;
    }

    /** What a part without weight holds does not matter. */
    private static double part(final double weight, final float value) {
        return weight == 0 ? 0 : weight * value;
    }

    private static HostTensor row(final HostTensor out, final int request, final int token, final int head) {
        return out.select(0, request).select(0, token).select(0, head);
    }

    private static void same(final String name, final HostTensor tensor, final HostTensor as) {
        if (tensor.dtype() != as.dtype() || !tensor.shape().equals(as.shape())) {
            throw Arguments.bad(
                    "mla_merge: " + name, tensor.dtype() + " " + tensor.shape(), as.dtype() + " " + as.shape());
        }
    }
}
