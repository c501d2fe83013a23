package io.hopper4j.attention;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import java.util.Objects;

/**
 * Writing of tokens into a paged cache of latents, straight from a layer's latent projection (DeepSeek-V3 technical report, arXiv 2412.19437, section
 * 2.1.1): RMSNorm on the latent, RoPE on the rope part, and each token into its page.
 *
 * <pre>
 * token[c]        = x[c] / sqrt(mean(x[0..511]^2) + eps) * weight[c]        c &lt; 512
 * token[512 + 2i] = x[512 + 2i] cos_i - x[513 + 2i] sin_i
 * token[513 + 2i] = x[512 + 2i] sin_i + x[513 + 2i] cos_i                   cos_i, sin_i of the token's position: {@link RopeTable}
 * </pre>
 *
 * in F32, rounded once: to BF16, or, for the latent of an FP8 cache, as {@code QuantizeSpec} says, with a scale for each 128 values or one for the token.
 * Pairs stay interleaved, as DeepSeek's published inference code leaves them.
 *
 * <p>Token t goes to slot {@code p % pageSize} of page {@code blockTable[request, p / pageSize]}, p being its position. Its request is
 * {@code requests[t]}, or without those {@code t / requestTokens}. Tokens at position -1 are padding and not written. Positions, requests and page
 * numbers out of range are device data: such a token is not written, and the next call that waits for the device throws and names the first.
 *
 * @param format of the cache
 * @param scaleKind of an FP8 cache's scales
 * @param weightDType type of the norm's weight: BF16 or F32
 * @param positionDType type of the positions: I32 or I64
 * @param pageSize tokens of a page
 * @param requestTokens tokens of a request where there are no request numbers
 * @param smBudget at most how many SMs may be used; 0: all
 * @param eps what the mean of squares is raised by
 * @param maxTokens tokens that tensors have room for; a launch may use fewer
 * @param maxBatch requests: rows of the block table
 * @param maxLength most tokens of a request: positions are below it
 * @param pages pages of the cache
 */
public record MlaCacheWriteSpec(
        MlaCacheFormat format,
        ScaleKind scaleKind,
        DType weightDType,
        DType positionDType,
        int pageSize,
        int requestTokens,
        int smBudget,
        float eps,
        long maxTokens,
        long maxBatch,
        long maxLength,
        long pages)
        implements OpSpec {
    private static final String NAME = "mla_cache_write";

    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, or 0 where there must be one, eps is not a finite number above 0, or a tensor would
     *     hold 2^60 elements or more
     */
    public MlaCacheWriteSpec {
        Objects.requireNonNull(format, "format");
        Objects.requireNonNull(scaleKind, "scaleKind");
        Objects.requireNonNull(weightDType, "weightDType");
        Objects.requireNonNull(positionDType, "positionDType");
        Arguments.require(pageSize >= 1, NAME + ": pageSize", pageSize, "at least 1");
        Arguments.require(requestTokens >= 1, NAME + ": requestTokens", requestTokens, "at least 1");
        Arguments.require(smBudget >= 0, NAME + ": smBudget", smBudget, "at least 0");
        Arguments.require(eps > 0 && Float.isFinite(eps), NAME + ": eps", eps, "a finite number above 0");
        Arguments.require(maxTokens >= 0, NAME + ": maxTokens", maxTokens, "at least 0");
        Arguments.require(maxBatch >= 0, NAME + ": maxBatch", maxBatch, "at least 0");
        Arguments.require(maxLength >= 0, NAME + ": maxLength", maxLength, "at least 0");
        Arguments.require(pages >= 1, NAME + ": pages", pages, "at least 1");
        Arguments.tensorSize(NAME + ": in [maxTokens,576]", maxTokens, MlaDecodeSpec.TOKEN_DIM);
        Arguments.tensorSize(NAME + ": cache [pages,pageSize,token]", pages, pageSize, format.tokenSize());
    }

    /**
     * {@return a spec that writes the new tokens of a decode step, {@code sQ} of each request, into the cache that the decode reads; BF16 weight,
     * positions as {@link PagedKvCache#positions} has them, DeepSeek-V3's eps, F32 scales, all SMs}
     *
     * @param decode the decode
     */
    public static MlaCacheWriteSpec of(final MlaDecodeSpec decode) {
        return new MlaCacheWriteSpec(
                decode.cacheFormat(),
                ScaleKind.F32,
                DType.BF16,
                DType.I32,
                decode.pageSize(),
                decode.sQ(),
                0,
                RmsNormQuantizeSpec.DEEPSEEK_V3_EPS,
                decode.maxBatch() * decode.sQ(),
                decode.maxBatch(),
                decode.maxLength(),
                decode.pages());
    }

    /** {@return this spec with room for another number of tokens, as a prefill needs} */
    public MlaCacheWriteSpec withMaxTokens(final long tokens) {
        return new MlaCacheWriteSpec(
                format,
                scaleKind,
                weightDType,
                positionDType,
                pageSize,
                requestTokens,
                smBudget,
                eps,
                tokens,
                maxBatch,
                maxLength,
                pages);
    }

    /** {@return this spec with other types of the norm's weight and of the positions} */
    public MlaCacheWriteSpec withTypes(final DType weight, final DType position) {
        return new MlaCacheWriteSpec(
                format,
                scaleKind,
                weight,
                position,
                pageSize,
                requestTokens,
                smBudget,
                eps,
                maxTokens,
                maxBatch,
                maxLength,
                pages);
    }

    /** {@return this spec with another kind of scales} */
    public MlaCacheWriteSpec withScaleKind(final ScaleKind kind) {
        return new MlaCacheWriteSpec(
                format,
                kind,
                weightDType,
                positionDType,
                pageSize,
                requestTokens,
                smBudget,
                eps,
                maxTokens,
                maxBatch,
                maxLength,
                pages);
    }

    /** {@return this spec with another eps} */
    public MlaCacheWriteSpec withEps(final float value) {
        return new MlaCacheWriteSpec(
                format,
                scaleKind,
                weightDType,
                positionDType,
                pageSize,
                requestTokens,
                smBudget,
                value,
                maxTokens,
                maxBatch,
                maxLength,
                pages);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public MlaCacheWriteSpec withSmBudget(final int sms) {
        return new MlaCacheWriteSpec(
                format,
                scaleKind,
                weightDType,
                positionDType,
                pageSize,
                requestTokens,
                sms,
                eps,
                maxTokens,
                maxBatch,
                maxLength,
                pages);
    }

    /** {@return the entries that a row of the block table needs: ceil(maxLength / pageSize)} */
    public long tableWidth() {
        return Math.ceilDiv(maxLength, pageSize);
    }

    @Override
    public String operation() {
        return NAME;
    }
}
