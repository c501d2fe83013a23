package io.hopper4j.quant;

import io.hopper4j.DType;
import io.hopper4j.OpSpec;
import io.hopper4j.internal.Arguments;
import java.util.Objects;

/**
 * RMSNorm (arXiv 1910.07467) and quantisation to E4M3 with 1x128 scales, in one pass.
 *
 * <pre>
 * x = in[r], or BF16(in[r] + residual[r]), which is also written back to residual[r]
 * y[c] = x[c] / sqrt(mean(x^2) + eps) * weight[c]           in F32
 * out, scales = y quantised as {@link QuantizeSpec} says;   normalized = BF16(y), if asked for
 * </pre>
 *
 * Both outputs come from the F32 y, so the quantised one is not rounded to BF16 in between. The CUDA kernel's sum, root and quotients are good to a few
 * units of F32, which {@link QuantizeTolerance} allows for.
 *
 * @param maxRows rows that tensors have; a launch may use fewer
 * @param cols columns, a multiple of 8, at most 32768
 * @param weightDType type of the weight: BF16 or F32
 * @param residual whether a residual is added
 * @param normalized whether the normalised rows are written in BF16 too
 * @param eps what the mean of squares is raised by
 * @param scaleKind F32 or power-of-two scales
 * @param smBudget at most how many SMs may be used; 0: all
 */
public record RmsNormQuantizeSpec(
        long maxRows,
        long cols,
        DType weightDType,
        boolean residual,
        boolean normalized,
        float eps,
        ScaleKind scaleKind,
        int smBudget)
        implements OpSpec {
    /** What DeepSeek-V3 is configured with. */
    public static final float DEEPSEEK_V3_EPS = 1e-6f;

    /**
     * Checks what no kernel could ever serve; whether the kernels at hand serve the rest, {@code Kernels.support} says.
     *
     * @throws IllegalArgumentException if a size is negative, there are no columns, eps is not a finite number above 0, or the matrix would
     *     hold 2^60 elements or more
     */
    public RmsNormQuantizeSpec {
        Objects.requireNonNull(weightDType, "weightDType");
        Objects.requireNonNull(scaleKind, "scaleKind");
        Arguments.require(maxRows >= 0, "rmsnorm_quantize: maxRows", maxRows, "at least 0");
        Arguments.require(cols >= 1, "rmsnorm_quantize: cols", cols, "at least 1");
        Arguments.require(eps > 0 && Float.isFinite(eps), "rmsnorm_quantize: eps", eps, "a finite number above 0");
        Arguments.require(smBudget >= 0, "rmsnorm_quantize: smBudget", smBudget, "at least 0");
        Arguments.tensorSize("rmsnorm_quantize: in [maxRows,cols]", maxRows, cols);
    }

    /**
     * {@return a spec with a BF16 weight, DeepSeek-V3's eps, F32 scales and all SMs, without residual and normalised output}
     *
     * @param maxRows most rows
     * @param cols columns
     */
    public static RmsNormQuantizeSpec of(final long maxRows, final long cols) {
        return new RmsNormQuantizeSpec(maxRows, cols, DType.BF16, false, false, DEEPSEEK_V3_EPS, ScaleKind.F32, 0);
    }

    /** {@return this spec with another type of the weight} */
    public RmsNormQuantizeSpec withWeight(final DType type) {
        return new RmsNormQuantizeSpec(maxRows, cols, type, residual, normalized, eps, scaleKind, smBudget);
    }

    /** {@return this spec with a residual, or without} */
    public RmsNormQuantizeSpec withResidual(final boolean add) {
        return new RmsNormQuantizeSpec(maxRows, cols, weightDType, add, normalized, eps, scaleKind, smBudget);
    }

    /** {@return this spec with normalised rows as a second output, or without} */
    public RmsNormQuantizeSpec withNormalized(final boolean write) {
        return new RmsNormQuantizeSpec(maxRows, cols, weightDType, residual, write, eps, scaleKind, smBudget);
    }

    /** {@return this spec with another eps} */
    public RmsNormQuantizeSpec withEps(final float value) {
        return new RmsNormQuantizeSpec(maxRows, cols, weightDType, residual, normalized, value, scaleKind, smBudget);
    }

    /** {@return this spec with another kind of scales} */
    public RmsNormQuantizeSpec withScaleKind(final ScaleKind kind) {
        return new RmsNormQuantizeSpec(maxRows, cols, weightDType, residual, normalized, eps, kind, smBudget);
    }

    /** {@return this spec with at most so many SMs; 0: all} */
    public RmsNormQuantizeSpec withSmBudget(final int sms) {
        return new RmsNormQuantizeSpec(maxRows, cols, weightDType, residual, normalized, eps, scaleKind, sms);
    }

    @Override
    public String operation() {
        return "rmsnorm_quantize";
    }
}
