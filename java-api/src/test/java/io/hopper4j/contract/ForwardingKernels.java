package io.hopper4j.contract;

import io.hopper4j.Kernels;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.Support;
import io.hopper4j.Tensor;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.Rendezvous;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import org.jspecify.annotations.Nullable;

/**
 * Kernels that leave every operation to other ones: whoever has some operations overrides {@code plan} of these.
 *
 * @param <T> the tensors that the kernels work on
 */
public abstract class ForwardingKernels<T extends Tensor> implements Kernels<T> {
    private final Kernels<T> other;

    /** @param other does all that is not overridden; closed with these */
    protected ForwardingKernels(final Kernels<T> other) {
        this.other = other;
    }

    @Override
    public Support support(final OpSpec spec) {
        return other.support(spec);
    }

    @Override
    public GemmPlan<T> plan(final GemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public GroupedGemmPlan<T> plan(final GroupedGemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public Bf16GemmPlan<T> plan(final Bf16GemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public MaskedGemmPlan<T> plan(final MaskedGemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public KGroupedGemmPlan<T> plan(final KGroupedGemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public Bf16GroupedGemmPlan<T> plan(final Bf16GroupedGemmSpec spec) {
        return other.plan(spec);
    }

    @Override
    public QuantizePlan<T> plan(final QuantizeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public DequantizePlan<T> plan(final DequantizeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public MlaDecodePlan<T> plan(final MlaDecodeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public MlaMergePlan<T> plan(final MlaMergeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public SwigluQuantizePlan<T> plan(final SwigluQuantizeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public RmsNormQuantizePlan<T> plan(final RmsNormQuantizeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public TransposeQuantizePlan<T> plan(final TransposeQuantizeSpec spec) {
        return other.plan(spec);
    }

    @Override
    public MlaCacheWritePlan<T> plan(final MlaCacheWriteSpec spec) {
        return other.plan(spec);
    }

    @Override
    public GatePlan<T> plan(final GateSpec spec) {
        return other.plan(spec);
    }

    @Override
    public BiasUpdatePlan<T> plan(final BiasUpdateSpec spec) {
        return other.plan(spec);
    }

    @Override
    public PermutePlan<T> plan(final PermuteSpec spec) {
        return other.plan(spec);
    }

    @Override
    public UnpermutePlan<T> plan(final UnpermuteSpec spec) {
        return other.plan(spec);
    }

    @Override
    public ExpertGroup<T> openGroup(final ExpertGroupSpec spec, final Rendezvous rendezvous) {
        return other.openGroup(spec, rendezvous);
    }

    @Override
    public Stream openStream() {
        return other.openStream();
    }

    @Override
    public void gemm(final Scaled<T> a, final Scaled<T> b, final @Nullable T c, final T out, final Stream on) {
        final GemmSpec spec = GemmSpec.of(a.rows(), b.rows(), a.cols())
                .withOut(out.dtype())
                .withAccumulate(c != null)
                .withScaling(a.scaling(), b.scaling());
        try (GemmPlan<T> plan = plan(spec);
                GemmLaunch<T> launch = plan.bind(a, b, c, out, null)) {
            launch.launch(on);
        }
    }

    @Override
    public void gemm(final T a, final T b, final @Nullable T c, final T out, final Stream on) {
        other.gemm(a, b, c, out, on);
    }

    @Override
    public void close() {
        other.close();
    }
}
