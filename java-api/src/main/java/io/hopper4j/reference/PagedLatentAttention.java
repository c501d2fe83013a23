package io.hopper4j.reference;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.codec.Bf16;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;

/**
 * MLA decode over a paged cache: what {@link MlaDecodeSpec} says, in {@code double}, rounded once to BF16 at the end. {@link #request} gives
 * single rows unrounded, so that shapes of any size can be checked by a sample.
 */
public final class PagedLatentAttention {
    private static final float[] ZEROS = new float[TOKEN_DIM];

    private PagedLatentAttention() {}

    /**
     * Computes all rows of the first requests.
     *
     * @param spec the operation
     * @param x its tensors, as {@code MlaDecodePlan.bind} takes them; schedule and workspace are not used
     * @param batch requests in use
     * @throws IllegalArgumentException if a request has a token on no page of the cache, once all is computed; the message names the first
     */
    public static void decode(final MlaDecodeSpec spec, final MlaDecodeOperands<HostTensor> x, final long batch) {
        String bad = "";
        for (long r = 0; r < batch; r++) {
            final Request request = request(spec, x, r);
            bad = bad.isEmpty() ? request.bad : bad;
            final HostTensor out = x.out().select(0, r);
            final HostTensor lse = x.lse().select(0, r);
            // Memory of a confined arena may be touched by this thread only: others compute, this one writes.
            final AttentionRow[] rows = IntStream.range(0, request.tokens() * spec.heads())
                    .parallel()
                    .mapToObj(i -> request.row(i / spec.heads(), i % spec.heads()))
                    .toArray(AttentionRow[]::new);
            for (int i = 0; i < rows.length; i++) {
                final int token = i / spec.heads();
                final int head = i % spec.heads();
                out.select(0, token).select(0, head).setFloats(rounded(rows[i]));
                lse.setFloat((float) rows[i].logSumExp(), head, token);
            }
        }
        if (!bad.isEmpty()) {
            throw new BadData(bad);
        }
    }

    private static float[] rounded(final AttentionRow row) {
        final float[] values = new float[VALUE_DIM];
        for (int d = 0; d < VALUE_DIM; d++) {
            values[d] = Bf16.toFloat(Bf16.fromDouble(row.value(d)));
        }
        return values;
    }

    /**
     * {@return one request with its queries and cached tokens read, whose rows can be asked for}
     *
     * @param spec the operation
     * @param x its tensors, as {@code MlaDecodePlan.bind} takes them; only q, cache, block table, lengths, query tokens and sink are used
     * @param index of the request, from 0
     */
    public static Request request(final MlaDecodeSpec spec, final MlaDecodeOperands<HostTensor> x, final long index) {
        return new Request(spec, x, index);
    }

    /** One request. Immutable; may be used from any thread. */
    public static final class Request {
        private final MlaDecodeSpec spec;
        /** [token * heads + head]. */
        private final double[][] queries;

        private final double[] sinks;
        private final int length;
        private final int tokens;
        private final int first;
        private final float[][] cached;
        /** What is wrong with the page of its first token that lies on none; empty: all lie on pages. */
        private String bad = "";

        private Request(final MlaDecodeSpec spec, final MlaDecodeOperands<HostTensor> x, final long index) {
            this.spec = spec;
            this.length = (int) Math.clamp(integer(x.lengths(), index), 0L, spec.maxLength());
            final HostTensor qTokens = x.qTokens();
            this.tokens = qTokens == null ? spec.sQ() : Math.clamp(integer(qTokens, index), 0, spec.sQ());
            final HostTensor q = x.q().select(0, index);
            this.queries = IntStream.range(0, tokens * spec.heads())
                    .mapToObj(i -> LatentAttention.doubles(
                            q.select(0, i / spec.heads()).select(0, i % spec.heads())))
                    .toArray(double[][]::new);
            this.sinks = x.sink() == null ? new double[0] : LatentAttention.doubles(x.sink());
            // Nothing before the first query token's window is read.
            this.first = spec.window() == 0 ? 0 : Math.max(0, length - Math.max(0, tokens - 1) - spec.window());
            this.cached = new float[length - first][];
            for (int j = first; j < length && tokens > 0; j++) {
                final int page = integer(x.blockTable(), index, j / spec.pageSize());
                if (page < 0 || page >= spec.pages()) {
                    cached[j - first] = ZEROS;
                    bad = bad.isEmpty()
                            ? BadData.describe("mla_decode: block_table", index, page, spec.pages() - 1)
                            : bad;
                } else {
                    cached[j - first] = CachedToken.read(
                            spec.cacheFormat(), x.cache().select(0, page).select(0, j % spec.pageSize()));
                }
            }
        }

        /** {@return the cached tokens of the request} */
        public int length() {
            return length;
        }

        /** {@return the query tokens in use} */
        public int tokens() {
            return tokens;
        }

        /**
         * {@return the attention of a query token and head}
         *
         * @param token from 0 to {@link #tokens()} - 1
         * @param head from 0
         * @throws IllegalArgumentException if there is no such token or head in use
         */
        public AttentionRow row(final int token, final int head) {
            Arguments.require(
                    token >= 0 && token < tokens, "mla_decode: token", token, "0.." + (tokens - 1) + ", those in use");
            Arguments.require(head >= 0 && head < spec.heads(), "mla_decode: head", head, "0.." + (spec.heads() - 1));
            final int limit = Math.max(0, spec.causal() ? length - (tokens - 1 - token) : length);
            final int start = spec.window() == 0 ? 0 : Math.max(0, limit - spec.window());
            return LatentAttention.attend(
                    queries[token * spec.heads() + head],
                    cached,
                    start - first,
                    limit - first,
                    spec.softmaxScale(),
                    sinks.length == 0 ? Double.NEGATIVE_INFINITY : sinks[head]);
        }
    }

    /** An element of an I32 tensor, exactly. */
    static int integer(final HostTensor tensor, final long... index) {
        return tensor.segment()
                .get(ValueLayout.JAVA_INT_UNALIGNED, tensor.spec().offsetOf(index) * Integer.BYTES);
    }
}
