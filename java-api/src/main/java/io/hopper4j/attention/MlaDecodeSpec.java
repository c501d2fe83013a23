package io.hopper4j.attention;

import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * Decode of multi-head latent attention in the absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1; DeepSeek-V3, arXiv 2412.19437,
 * section 2.1.1) over a paged cache: all heads attend to the same tokens of 576 values, of which the first 512 are the values too.
 *
 * <pre>
 * score[t,h,j] = softmaxScale * sum over 576 dims d of q[t,h,d] token_j[d]
 * out[t,h]     = sum_j exp(score[t,h,j]) token_j[0..511] / (sum_j exp(score[t,h,j]) + exp(sink[h]))     the sink only if there is one
 * lse[t,h]     = ln sum_j exp(score[t,h,j])                                                              without the sink
 * </pre>
 *
 * The sums are over the keys that a query token sees. A request of length n holds the query tokens among its cached tokens: with
 * {@code causal}, query token t of u in use sees the first {@code n - (u - 1 - t)} tokens, so the last one sees all; without, each sees
 * all n. With a window, only the last {@code window} of those count. A query token that sees no key gives {@code out} 0 and {@code lse}
 * positive infinity.
 *
 * <p>Token j of a request lies in slot {@code j % pageSize} of page {@code blockTable[j / pageSize]}. Slots behind the length may hold
 * anything, NaN included, and table entries behind it are not read.
 *
 * <p>Bad data on the device does no harm and is told of: tokens on page numbers outside the cache count as zeros, lengths above
 * {@code maxLength} and query tokens above {@code sQ} are cut to it, negative ones count as 0, and the next call that waits for the device throws
 * an {@link IllegalArgumentException} that names the first request with such values.
 *
 * @param heads query heads
 * @param sQ query tokens of a request, at most
 * @param pageSize tokens of a page
 * @param causal whether query tokens see no keys after their own
 * @param window how many keys a query token sees at most; 0: no limit
 * @param smBudget at most how many SMs may be used; 0: all
 * @param softmaxScale what scores are multiplied by; {@link MlaSoftmaxScale} has DeepSeek's
 * @param maxBatch requests that tensors have room for; a launch may use fewer
 * @param maxLength most tokens of a request
 * @param pages pages of the cache
 * @param cacheFormat how a cached token lies in memory
 */
public record MlaDecodeSpec(
        int heads,
        int sQ,
        int pageSize,
        boolean causal,
        int window,
        int smBudget,
        float softmaxScale,
        long maxBatch,
        long maxLength,
        long pages,
        MlaCacheFormat cacheFormat)
        implements OpSpec {
    /** Values of a cached token: the latent and the rope part. */
    public static final int TOKEN_DIM = 576;
    /** Values of the latent, which are the values that attention averages. */
    public static final int VALUE_DIM = 512;

    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, the scale is not a finite number above 0, or a
     *     tensor would hold 2^60 elements or more
     */
    public MlaDecodeSpec {
        Arguments.require(heads >= 1, "mla_decode: heads", heads, "at least 1");
        Arguments.require(sQ >= 1, "mla_decode: sQ", sQ, "at least 1");
        Arguments.require(pageSize >= 1, "mla_decode: pageSize", pageSize, "at least 1");
        Arguments.require(window >= 0, "mla_decode: window", window, "at least 0");
        Arguments.require(smBudget >= 0, "mla_decode: smBudget", smBudget, "at least 0");
        Arguments.require(
                softmaxScale > 0 && Float.isFinite(softmaxScale),
                "mla_decode: softmaxScale",
                softmaxScale,
                "a finite number above 0");
        Arguments.require(maxBatch >= 0, "mla_decode: maxBatch", maxBatch, "at least 0");
        Arguments.require(maxLength >= 0, "mla_decode: maxLength", maxLength, "at least 0");
        Arguments.require(pages >= 1, "mla_decode: pages", pages, "at least 1");
        Arguments.tensorSize("mla_decode: q [maxBatch,sQ,heads,576]", maxBatch, sQ, heads, TOKEN_DIM);
        Objects.requireNonNull(cacheFormat, "cacheFormat");
        Arguments.tensorSize("mla_decode: cache [pages,pageSize,576]", pages, pageSize, TOKEN_DIM);
    }

    /**
     * {@return a spec with one query token a request, causal, no window, all SMs, DeepSeek-V3's softmax scale, a BF16 cache}
     *
     * @param heads query heads
     * @param pageSize tokens of a page
     * @param maxBatch most requests
     * @param maxLength most tokens of a request
     * @param pages pages of the cache
     */
    public static MlaDecodeSpec of(
            final int heads, final int pageSize, final long maxBatch, final long maxLength, final long pages) {
        return new MlaDecodeSpec(
                heads,
                1,
                pageSize,
                true,
                0,
                0,
                MlaSoftmaxScale.DEEPSEEK_V3,
                maxBatch,
                maxLength,
                pages,
                MlaCacheFormat.BF16);
    }

    /** {@return this spec with another largest number of query tokens a request} */
    public MlaDecodeSpec withSQ(final int tokens) {
        return new MlaDecodeSpec(
                heads,
                tokens,
                pageSize,
                causal,
                window,
                smBudget,
                softmaxScale,
                maxBatch,
                maxLength,
                pages,
                cacheFormat);
    }

    /** {@return this spec with query tokens that see later keys, or do not} */
    public MlaDecodeSpec withCausal(final boolean only) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, only, window, smBudget, softmaxScale, maxBatch, maxLength, pages, cacheFormat);
    }

    /** {@return this spec with at most so many keys a query token; 0: no limit} */
    public MlaDecodeSpec withWindow(final int keys) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, causal, keys, smBudget, softmaxScale, maxBatch, maxLength, pages, cacheFormat);
    }

    /** {@return this spec with another softmax scale} */
    public MlaDecodeSpec withSoftmaxScale(final float scale) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, causal, window, smBudget, scale, maxBatch, maxLength, pages, cacheFormat);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public MlaDecodeSpec withSmBudget(final int sms) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, causal, window, sms, softmaxScale, maxBatch, maxLength, pages, cacheFormat);
    }

    /** {@return this spec with cached tokens of another format} */
    public MlaDecodeSpec withCacheFormat(final MlaCacheFormat format) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, causal, window, smBudget, softmaxScale, maxBatch, maxLength, pages, format);
    }

    /** {@return this spec with room for other requests in another cache}
     *
     * @param requests most requests
     * @param length most tokens of a request
     * @param cachePages pages of the cache
     */
    public MlaDecodeSpec withRoom(final long requests, final long length, final long cachePages) {
        return new MlaDecodeSpec(
                heads, sQ, pageSize, causal, window, smBudget, softmaxScale, requests, length, cachePages, cacheFormat);
    }

    /** {@return the entries that a row of the block table needs: ceil(maxLength / pageSize)} */
    public long tableWidth() {
        return Math.ceilDiv(maxLength, pageSize);
    }

    @Override
    public String operation() {
        return "mla_decode";
    }
}
