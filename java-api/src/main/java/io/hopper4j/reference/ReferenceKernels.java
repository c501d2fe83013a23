package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.Support;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.gemm.Bf16GemmLaunch;
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
import io.hopper4j.internal.Bf16Operands;
import io.hopper4j.internal.Needs;
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
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The operations in plain Java, under the contract of {@link Kernels}: the same checks and errors as the CUDA kernels, no workspace, and streams whose
 * work is done when the call returns. What is computed, {@link BlockScaledProduct}, {@link MatrixProduct}, {@link BlockQuantization} and {@link PagedLatentAttention} say.
 *
 * <p>May be used from any thread that may access the tensors. Memory that has been released is noticed by the launch that touches it, not when it is
 * bound.
 */
public final class ReferenceKernels implements Kernels<HostTensor> {
    private final Lifetime lifetime = new Lifetime("reference kernels", List.of());

    /** Makes kernels; nothing is allocated. Most callers take {@link Kernels#reference}. */
    public ReferenceKernels() {}

    @Override
    public Support support(final OpSpec spec) {
        lifetime.requireOpen();
        final List<Support.Reason> unmet = Needs.unmet(spec);
        return unmet.isEmpty()
                ? new Support.Supported(HostPlan.KERNEL, 0, HostPlan.EXPLANATION)
                : new Support.Unsupported(unmet);
    }

    private <S extends OpSpec> S supported(final S spec) {
        if (support(spec) instanceof Support.Unsupported unsupported) {
            throw new UnsupportedKernelException(unsupported.reasons());
        }
        return spec;
    }

    @Override
    public GemmPlan<HostTensor> plan(final GemmSpec spec) {
        return new HostGemm(supported(spec), lifetime);
    }

    @Override
    public GroupedGemmPlan<HostTensor> plan(final GroupedGemmSpec spec) {
        return new HostGroupedGemm(supported(spec), lifetime);
    }

    @Override
    public MaskedGemmPlan<HostTensor> plan(final MaskedGemmSpec spec) {
        return new HostMaskedGemm(supported(spec), lifetime);
    }

    @Override
    public KGroupedGemmPlan<HostTensor> plan(final KGroupedGemmSpec spec) {
        return new HostKGroupedGemm(supported(spec), lifetime);
    }

    @Override
    public Bf16GemmPlan<HostTensor> plan(final Bf16GemmSpec spec) {
        return new HostBf16Gemm(supported(spec), lifetime);
    }

    @Override
    public Bf16GroupedGemmPlan<HostTensor> plan(final Bf16GroupedGemmSpec spec) {
        return new HostBf16GroupedGemm(supported(spec), lifetime);
    }

    @Override
    public QuantizePlan<HostTensor> plan(final QuantizeSpec spec) {
        return new HostQuantize(supported(spec), lifetime);
    }

    @Override
    public DequantizePlan<HostTensor> plan(final DequantizeSpec spec) {
        return new HostDequantize(supported(spec), lifetime);
    }

    @Override
    public MlaDecodePlan<HostTensor> plan(final MlaDecodeSpec spec) {
        return new HostMlaDecode(supported(spec), lifetime);
    }

    @Override
    public MlaMergePlan<HostTensor> plan(final MlaMergeSpec spec) {
        return new HostMlaMerge(supported(spec), lifetime);
    }

    @Override
    public SwigluQuantizePlan<HostTensor> plan(final SwigluQuantizeSpec spec) {
        return new HostSwigluQuantize(supported(spec), lifetime);
    }

    @Override
    public RmsNormQuantizePlan<HostTensor> plan(final RmsNormQuantizeSpec spec) {
        return new HostRmsNormQuantize(supported(spec), lifetime);
    }

    @Override
    public TransposeQuantizePlan<HostTensor> plan(final TransposeQuantizeSpec spec) {
        return new HostTransposeQuantize(supported(spec), lifetime);
    }

    @Override
    public MlaCacheWritePlan<HostTensor> plan(final MlaCacheWriteSpec spec) {
        return new HostMlaCacheWrite(supported(spec), lifetime);
    }

    @Override
    public ExpertGroup<HostTensor> openGroup(final ExpertGroupSpec spec, final Rendezvous rendezvous) {
        lifetime.requireOpen();
        return new ReferenceExpertGroup(spec, rendezvous, lifetime);
    }

    @Override
    public GatePlan<HostTensor> plan(final GateSpec spec) {
        return new HostGate(supported(spec), lifetime);
    }

    @Override
    public BiasUpdatePlan<HostTensor> plan(final BiasUpdateSpec spec) {
        return new HostBiasUpdate(supported(spec), lifetime);
    }

    @Override
    public PermutePlan<HostTensor> plan(final PermuteSpec spec) {
        return new HostPermute(supported(spec), lifetime);
    }

    @Override
    public UnpermutePlan<HostTensor> plan(final UnpermuteSpec spec) {
        return new HostUnpermute(supported(spec), lifetime);
    }

    @Override
    public Stream openStream() {
        lifetime.requireOpen();
        return new ReferenceStream();
    }

    /**
     * Puts work of the caller into a stream of the reference, as a launch does: it is done at once on this thread, or kept for the graph being
     * captured.
     *
     * @param on a stream of the reference
     * @param work what to do
     * @throws IllegalArgumentException if {@code on} is another kind of stream
     * @throws IllegalStateException if the stream is closed
     */
    public static void run(final Stream on, final Runnable work) {
        ReferenceStream.submit("run", on, work);
    }

    @Override
    public void gemm(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final Stream on) {
        final GemmSpec spec = GemmSpec.of(a.rows(), b.rows(), a.cols())
                .withOut(out.dtype())
                .withAccumulate(c != null)
                .withScaling(a.scaling(), b.scaling());
        try (GemmPlan<HostTensor> plan = plan(spec);
                GemmLaunch<HostTensor> launch = plan.bind(a, b, c, out, null)) {
            launch.launch(on);
        }
    }

    @Override
    public void gemm(
            final HostTensor a,
            final HostTensor b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final Stream on) {
        final Bf16GemmSpec spec = Bf16Operands.specOf(a.spec(), b.spec(), c != null, out.dtype());
        try (Bf16GemmPlan<HostTensor> plan = plan(spec);
                Bf16GemmLaunch<HostTensor> launch = plan.bind(a, b, c, out, null)) {
            launch.launch(on);
        }
    }

    @Override
    public void close() {
        lifetime.close();
    }
}
