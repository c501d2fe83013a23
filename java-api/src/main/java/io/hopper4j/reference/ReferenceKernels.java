package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.OpSpec;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.Support;
import io.hopper4j.TensorSpec;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.gemm.Bf16GemmLaunch;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmLaunch;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GroupedGemmLaunch;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmLaunch;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmLaunch;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.internal.AttentionOperands;
import io.hopper4j.internal.Bf16Operands;
import io.hopper4j.internal.GroupedOperands;
import io.hopper4j.internal.Operands;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.BiasUpdateLaunch;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.Rendezvous;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeLaunch;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The operations in plain Java, under the contract of {@link Kernels}: the same checks and errors as the CUDA kernels, no workspace, and streams whose
 * work is done when the call returns. What is computed, {@link BlockScaledProduct}, {@link MatrixProduct}, {@link BlockQuantization} and {@link PagedLatentAttention} say.
 *
 * <p>May be used from any thread that may access the tensors.
 */
public final class ReferenceKernels implements Kernels<HostTensor> {
    private static final String KERNEL = "reference";
    private static final String EXPLANATION = "plain Java, double accumulators";

    private final Lifetime lifetime = new Lifetime("reference kernels", List.of());

    /** Makes kernels; nothing is allocated. Most callers take {@link Kernels#reference}. */
    public ReferenceKernels() {}

    @Override
    public Support support(final OpSpec spec) {
        lifetime.requireOpen();
        final List<Support.Reason> unmet = switch (spec) {
            case GemmSpec gemm -> Operands.unmetNeeds(gemm);
            case Bf16GemmSpec gemm -> Bf16Operands.unmetNeeds(gemm);
            case Bf16GroupedGemmSpec gemm -> Bf16Operands.unmetNeeds(gemm);
            case GroupedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case MaskedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case KGroupedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case QuantizeSpec quantize -> Operands.unmetNeeds(quantize);
            case DequantizeSpec dequantize -> Operands.unmetNeeds(dequantize);
            case MlaDecodeSpec decode -> AttentionOperands.unmetNeeds(decode);
            case MlaCacheWriteSpec write -> AttentionOperands.unmetNeeds(write);
            case TransposeQuantizeSpec transpose -> Operands.unmetNeeds(transpose);
            case RmsNormQuantizeSpec norm -> Operands.unmetNeeds(norm);
            case SwigluQuantizeSpec swiglu -> Operands.unmetNeeds(swiglu);
            case MlaMergeSpec merge -> AttentionOperands.unmetNeeds(merge);
            case DispatchSpec dispatch -> List.of();
            case CombineSpec combine -> List.of();
            case GateSpec gate -> RoutingOperands.unmetNeeds(gate);
            case BiasUpdateSpec update -> RoutingOperands.unmetNeeds(update);
            case PermuteSpec permute -> RoutingOperands.unmetNeeds(permute);
            case UnpermuteSpec unpermute -> RoutingOperands.unmetNeeds(unpermute);
        };
        return unmet.isEmpty() ? new Support.Supported(KERNEL, 0, EXPLANATION) : new Support.Unsupported(unmet);
    }

    private void requireSupport(final OpSpec spec) {
        if (support(spec) instanceof Support.Unsupported unsupported) {
            throw new UnsupportedKernelException(unsupported.reasons());
        }
    }

    @Override
    public GemmPlan<HostTensor> plan(final GemmSpec spec) {
        requireSupport(spec);
        return new HostGemmPlan(spec, lifetime);
    }

    @Override
    public GroupedGemmPlan<HostTensor> plan(final GroupedGemmSpec spec) {
        requireSupport(spec);
        return new HostGroupedGemmPlan(spec, lifetime);
    }

    @Override
    public MaskedGemmPlan<HostTensor> plan(final MaskedGemmSpec spec) {
        requireSupport(spec);
        return new HostMaskedGemmPlan(spec, lifetime);
    }

    @Override
    public KGroupedGemmPlan<HostTensor> plan(final KGroupedGemmSpec spec) {
        requireSupport(spec);
        return new HostKGroupedGemmPlan(spec, lifetime);
    }

    @Override
    public Bf16GemmPlan<HostTensor> plan(final Bf16GemmSpec spec) {
        requireSupport(spec);
        return new HostBf16GemmPlan(spec, lifetime);
    }

    @Override
    public Bf16GroupedGemmPlan<HostTensor> plan(final Bf16GroupedGemmSpec spec) {
        requireSupport(spec);
        return new HostBf16GroupedGemmPlan(spec, lifetime);
    }

    @Override
    public QuantizePlan<HostTensor> plan(final QuantizeSpec spec) {
        requireSupport(spec);
        return new HostQuantizePlan(spec, lifetime);
    }

    @Override
    public DequantizePlan<HostTensor> plan(final DequantizeSpec spec) {
        requireSupport(spec);
        return new HostDequantizePlan(spec, lifetime);
    }

    @Override
    public MlaDecodePlan<HostTensor> plan(final MlaDecodeSpec spec) {
        requireSupport(spec);
        return new HostMlaDecodePlan(spec, lifetime);
    }

    @Override
    public MlaMergePlan<HostTensor> plan(final MlaMergeSpec spec) {
        requireSupport(spec);
        return new HostMlaMergePlan(spec, lifetime);
    }

    @Override
    public SwigluQuantizePlan<HostTensor> plan(final SwigluQuantizeSpec spec) {
        requireSupport(spec);
        return new HostSwigluQuantizePlan(spec, lifetime);
    }

    @Override
    public RmsNormQuantizePlan<HostTensor> plan(final RmsNormQuantizeSpec spec) {
        requireSupport(spec);
        return new HostRmsNormQuantizePlan(spec, lifetime);
    }

    @Override
    public TransposeQuantizePlan<HostTensor> plan(final TransposeQuantizeSpec spec) {
        requireSupport(spec);
        return new HostTransposeQuantizePlan(spec, lifetime);
    }

    @Override
    public MlaCacheWritePlan<HostTensor> plan(final MlaCacheWriteSpec spec) {
        requireSupport(spec);
        return new HostMlaCacheWritePlan(spec, lifetime);
    }

    @Override
    public ExpertGroup<HostTensor> openGroup(final ExpertGroupSpec spec, final Rendezvous rendezvous) {
        lifetime.requireOpen();
        return new ReferenceExpertGroup(spec, rendezvous, lifetime);
    }

    @Override
    public GatePlan<HostTensor> plan(final GateSpec spec) {
        requireSupport(spec);
        return new HostGatePlan(spec, lifetime);
    }

    @Override
    public BiasUpdatePlan<HostTensor> plan(final BiasUpdateSpec spec) {
        requireSupport(spec);
        return new HostBiasUpdatePlan(spec, lifetime);
    }

    @Override
    public PermutePlan<HostTensor> plan(final PermuteSpec spec) {
        requireSupport(spec);
        return new HostPermutePlan(spec, lifetime);
    }

    @Override
    public UnpermutePlan<HostTensor> plan(final UnpermuteSpec spec) {
        requireSupport(spec);
        return new HostUnpermutePlan(spec, lifetime);
    }

    @Override
    public Stream openStream() {
        lifetime.requireOpen();
        return new ReferenceStream();
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
    public void quantize(
            final HostTensor in, final ScaleKind scaleKind, final Scaled<HostTensor> out, final Stream on) {
        final QuantizeSpec spec = QuantizeSpec.of(out.rows(), out.cols(), in.dtype(), out.scaling())
                .withScaleKind(scaleKind);
        try (QuantizePlan<HostTensor> plan = plan(spec);
                QuantizeLaunch<HostTensor> launch = plan.bind(in, out)) {
            launch.launch(on);
        }
    }

    @Override
    public void dequantize(final Scaled<HostTensor> in, final HostTensor out, final Stream on) {
        final DequantizeSpec spec = DequantizeSpec.of(in.rows(), in.cols(), in.scaling(), out.dtype());
        try (DequantizePlan<HostTensor> plan = plan(spec);
                DequantizeLaunch<HostTensor> launch = plan.bind(in, out)) {
            launch.launch(on);
        }
    }

    @Override
    public void close() {
        lifetime.close();
    }

    /** What all plans have in common. */
    private abstract static class HostPlan<S extends OpSpec> implements Plan {
        private final S spec;
        final Lifetime lifetime;

        HostPlan(final S spec, final Lifetime kernels) {
            this.spec = spec;
            this.lifetime = new Lifetime(spec.operation() + " plan", List.of(kernels));
        }

        @Override
        public S spec() {
            return spec;
        }

        @Override
        public long workspaceBytes() {
            return 0;
        }

        @Override
        public String kernel() {
            return KERNEL;
        }

        @Override
        public String explanation() {
            return EXPLANATION;
        }

        @Override
        public void close() {
            lifetime.close();
        }
    }

    /** The work of a launch on its first {@code rows} rows. */
    @FunctionalInterface
    private interface Work {
        void run(long rows);
    }

    /** Work with the number of rows that its tensors have. */
    private record Bound(long rows, Work work) {}

    /** What all launches have in common. */
    private abstract static class HostLaunch implements Launch {
        private final String operation;
        private final Lifetime lifetime;
        private volatile Bound bound;

        HostLaunch(final HostPlan<?> plan, final Bound bound) {
            this(plan, plan.spec().operation(), bound);
        }

        HostLaunch(final HostPlan<?> plan, final String operation, final Bound bound) {
            this.operation = operation;
            this.lifetime = new Lifetime(operation + " launch", List.of(plan.lifetime));
            this.bound = bound;
        }

        final void rebindTo(final Bound other) {
            lifetime.requireOpen();
            bound = other;
        }

        @Override
        public void launch(final Stream on) {
            final Bound now = bound;
            submit(on, now, now.rows());
        }

        @Override
        public void launch(final Stream on, final long rows) {
            final Bound now = bound;
            Operands.checkRows(operation, rows, now.rows());
            submit(on, now, rows);
        }

        private void submit(final Stream on, final Bound now, final long rows) {
            lifetime.requireOpen();
            ReferenceStream.submit(operation, on, () -> now.work().run(rows));
        }

        @Override
        public void close() {
            lifetime.close();
        }
    }

    private static Scaled<HostTensor> firstRows(final Scaled<HostTensor> matrix, final long rows) {
        final long scaleRows = ((Scaling.Block) matrix.scaling())
                .scaleShape(rows, matrix.cols())
                .size(0);
        return new Scaled<>(
                matrix.values().slice(0, 0, rows), matrix.scales().slice(0, 0, scaleRows), matrix.scaling());
    }

    private static Scaled<HostTensor> firstCols(final Scaled<HostTensor> matrix, final long cols) {
        final long scaleCols = ((Scaling.Block) matrix.scaling())
                .scaleShape(matrix.rows(), cols)
                .size(1);
        return new Scaled<>(
                matrix.values().slice(1, 0, cols), matrix.scales().slice(1, 0, scaleCols), matrix.scaling());
    }

    /** Some rows of activations. */
    private static Scaled<HostTensor> rows(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(matrix.values().slice(0, from, to), matrix.scales().slice(0, from, to), matrix.scaling());
    }

    /** Some whole blocks of columns of activations. */
    private static Scaled<HostTensor> columns(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(
                matrix.values().slice(1, from, to),
                matrix.scales().slice(1, from / 128, Math.ceilDiv(to, 128)),
                matrix.scaling());
    }

    /** One matrix of a stack. */
    private static Scaled<HostTensor> matrix(final Scaled<HostTensor> stack, final long index) {
        return new Scaled<>(stack.values().select(0, index), stack.scales().select(0, index), stack.scaling());
    }

    private static @Nullable TensorSpec specOf(final @Nullable HostTensor tensor) {
        return tensor == null ? null : tensor.spec();
    }

    // ---- gemm ----

    private static final class HostGemmPlan extends HostPlan<GemmSpec> implements GemmPlan<HostTensor> {
        HostGemmPlan(final GemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public GemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostGemmLaunch(this, bound(a, b, c, out, workspace));
        }

        Bound bound(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Operands.check(spec(), a, b, specOf(c), out.spec());
            Operands.checkWorkspace("gemm", specOf(workspace), workspaceBytes());
            return new Bound(
                    m,
                    rows -> BlockScaledProduct.multiply(
                            firstRows(a, rows), b, c == null ? null : c.slice(0, 0, rows), out.slice(0, 0, rows)));
        }
    }

    private static final class HostGemmLaunch extends HostLaunch implements GemmLaunch<HostTensor> {
        private final HostGemmPlan plan;

        HostGemmLaunch(final HostGemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, c, out, workspace));
        }
    }

    // ---- gemm_grouped ----

    private static final class HostGroupedGemmPlan extends HostPlan<GroupedGemmSpec>
            implements GroupedGemmPlan<HostTensor> {
        HostGroupedGemmPlan(final GroupedGemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public GroupedGemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostGroupedGemmLaunch(this, bound(a, b, groupEnds, out, workspace));
        }

        Bound bound(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most = GroupedOperands.check(spec(), a, b, groupEnds.spec(), out.spec());
            Operands.checkWorkspace(spec().operation(), specOf(workspace), workspaceBytes());
            return new Bound(most, inUse -> {
                final RowGroups groups = RowGroups.consecutive("gemm_grouped: group_ends", groupEnds, inUse);
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(rows(a, from, to), matrix(b, g), null, out.slice(0, from, to));
                }
                groups.requireGood();
            });
        }
    }

    private static final class HostGroupedGemmLaunch extends HostLaunch implements GroupedGemmLaunch<HostTensor> {
        private final HostGroupedGemmPlan plan;

        HostGroupedGemmLaunch(final HostGroupedGemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, groupEnds, out, workspace));
        }
    }

    // ---- gemm_masked ----

    private static final class HostMaskedGemmPlan extends HostPlan<MaskedGemmSpec>
            implements MaskedGemmPlan<HostTensor> {
        HostMaskedGemmPlan(final MaskedGemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public MaskedGemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor counts,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostMaskedGemmLaunch(this, bound(a, b, counts, out, workspace));
        }

        Bound bound(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor counts,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most = GroupedOperands.check(spec(), a, b, counts.spec(), out.spec());
            Operands.checkWorkspace(spec().operation(), specOf(workspace), workspaceBytes());
            return new Bound(most, inUse -> {
                final RowGroups groups = RowGroups.separate("gemm_masked: counts", counts, inUse);
                for (int g = 0; g < groups.count(); g++) {
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(
                            rows(matrix(a, g), 0, to),
                            matrix(b, g),
                            null,
                            out.select(0, g).slice(0, 0, to));
                }
                groups.requireGood();
            });
        }
    }

    private static final class HostMaskedGemmLaunch extends HostLaunch implements MaskedGemmLaunch<HostTensor> {
        private final HostMaskedGemmPlan plan;

        HostMaskedGemmLaunch(final HostMaskedGemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor counts,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, counts, out, workspace));
        }
    }

    // ---- gemm_k_grouped ----

    private static final class HostKGroupedGemmPlan extends HostPlan<KGroupedGemmSpec>
            implements KGroupedGemmPlan<HostTensor> {
        HostKGroupedGemmPlan(final KGroupedGemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public KGroupedGemmLaunch<HostTensor> bind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostKGroupedGemmLaunch(this, bound(a, b, groupEnds, c, out, workspace));
        }

        Bound bound(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long most = GroupedOperands.check(spec(), a, b, groupEnds.spec(), specOf(c), out.spec());
            Operands.checkWorkspace(spec().operation(), specOf(workspace), workspaceBytes());
            return new Bound(most, inUse -> {
                if (inUse == 0) {
                    return;
                }
                final RowGroups groups =
                        RowGroups.blocks("gemm_k_grouped: group_ends", groupEnds, inUse, spec().maxK());
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    BlockScaledProduct.multiply(
                            columns(a, from, to),
                            columns(b, from, to),
                            c == null ? null : c.select(0, g),
                            out.select(0, g));
                }
                groups.requireGood();
            });
        }
    }

    private static final class HostKGroupedGemmLaunch extends HostLaunch implements KGroupedGemmLaunch<HostTensor> {
        private final HostKGroupedGemmPlan plan;

        HostKGroupedGemmLaunch(final HostKGroupedGemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final Scaled<HostTensor> a,
                final Scaled<HostTensor> b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, groupEnds, c, out, workspace));
        }
    }

    // ---- gemm_bf16 ----

    private static final class HostBf16GemmPlan extends HostPlan<Bf16GemmSpec> implements Bf16GemmPlan<HostTensor> {
        HostBf16GemmPlan(final Bf16GemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public Bf16GemmLaunch<HostTensor> bind(
                final HostTensor a,
                final HostTensor b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostBf16GemmLaunch(this, bound(a, b, c, out, workspace));
        }

        Bound bound(
                final HostTensor a,
                final HostTensor b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Bf16Operands.check(spec(), a.spec(), b.spec(), specOf(c), out.spec());
            Operands.checkWorkspace(spec().operation(), specOf(workspace), workspaceBytes());
            return new Bound(m, rows -> {
                for (long z = 0; z < spec().batch(); z++) {
                    MatrixProduct.multiply(
                            matrix(a, z).slice(0, 0, rows),
                            matrix(b, z),
                            c == null ? null : matrix(c, z).slice(0, 0, rows),
                            matrix(out, z).slice(0, 0, rows));
                }
            });
        }

        /** One matrix of a batch; a batch of one may be a plain matrix. */
        private static HostTensor matrix(final HostTensor batch, final long index) {
            return batch.shape().rank() == 2 ? batch : batch.select(0, index);
        }
    }

    private static final class HostBf16GemmLaunch extends HostLaunch implements Bf16GemmLaunch<HostTensor> {
        private final HostBf16GemmPlan plan;

        HostBf16GemmLaunch(final HostBf16GemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final HostTensor a,
                final HostTensor b,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, c, out, workspace));
        }
    }

    // ---- gemm_bf16_grouped ----

    private static final class HostBf16GroupedGemmPlan extends HostPlan<Bf16GroupedGemmSpec>
            implements Bf16GroupedGemmPlan<HostTensor> {
        HostBf16GroupedGemmPlan(final Bf16GroupedGemmSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public Bf16GroupedGemmLaunch<HostTensor> bind(
                final HostTensor a,
                final HostTensor b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            return new HostBf16GroupedGemmLaunch(this, bound(a, b, groupEnds, c, out, workspace));
        }

        Bound bound(
                final HostTensor a,
                final HostTensor b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            final long m = Bf16Operands.check(spec(), a.spec(), b.spec(), groupEnds.spec(), specOf(c), out.spec());
            Operands.checkWorkspace(spec().operation(), specOf(workspace), workspaceBytes());
            return new Bound(m, rows -> {
                final RowGroups groups = RowGroups.consecutive("gemm_bf16_grouped: group_ends", groupEnds, rows);
                for (int g = 0; g < groups.count(); g++) {
                    final long from = groups.begin(g);
                    final long to = groups.end(g);
                    MatrixProduct.multiply(
                            matrix(a).slice(0, from, to),
                            b.shape().rank() == 2 ? b : b.select(0, g),
                            c == null ? null : matrix(c).slice(0, from, to),
                            matrix(out).slice(0, from, to));
                }
                groups.requireGood();
            });
        }

        private static HostTensor matrix(final HostTensor rows) {
            return rows.shape().rank() == 2 ? rows : rows.select(0, 0);
        }
    }

    private static final class HostBf16GroupedGemmLaunch extends HostLaunch
            implements Bf16GroupedGemmLaunch<HostTensor> {
        private final HostBf16GroupedGemmPlan plan;

        HostBf16GroupedGemmLaunch(final HostBf16GroupedGemmPlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final HostTensor a,
                final HostTensor b,
                final HostTensor groupEnds,
                final @Nullable HostTensor c,
                final HostTensor out,
                final @Nullable HostTensor workspace) {
            rebindTo(plan.bound(a, b, groupEnds, c, out, workspace));
        }
    }

    // ---- quantize ----

    private static final class HostQuantizePlan extends HostPlan<QuantizeSpec> implements QuantizePlan<HostTensor> {
        HostQuantizePlan(final QuantizeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public QuantizeLaunch<HostTensor> bind(final HostTensor in, final Scaled<HostTensor> out) {
            return new HostQuantizeLaunch(this, bound(in, out));
        }

        Bound bound(final HostTensor in, final Scaled<HostTensor> out) {
            final long m = Operands.check(spec(), in.spec(), out);
            final ScaleKind kind = spec().scaleKind();
            return new Bound(m, rows -> BlockQuantization.quantize(in.slice(0, 0, rows), firstRows(out, rows), kind));
        }
    }

    private static final class HostQuantizeLaunch extends HostLaunch implements QuantizeLaunch<HostTensor> {
        private final HostQuantizePlan plan;

        HostQuantizeLaunch(final HostQuantizePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final HostTensor in, final Scaled<HostTensor> out) {
            rebindTo(plan.bound(in, out));
        }
    }

    // ---- dequantize ----

    private static final class HostDequantizePlan extends HostPlan<DequantizeSpec>
            implements DequantizePlan<HostTensor> {
        HostDequantizePlan(final DequantizeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public DequantizeLaunch<HostTensor> bind(final Scaled<HostTensor> in, final HostTensor out) {
            return new HostDequantizeLaunch(this, bound(in, out));
        }

        Bound bound(final Scaled<HostTensor> in, final HostTensor out) {
            final long m = Operands.check(spec(), in, out.spec());
            return new Bound(m, rows -> BlockQuantization.dequantize(firstRows(in, rows), out.slice(0, 0, rows)));
        }
    }

    private static final class HostDequantizeLaunch extends HostLaunch implements DequantizeLaunch<HostTensor> {
        private final HostDequantizePlan plan;

        HostDequantizeLaunch(final HostDequantizePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final Scaled<HostTensor> in, final HostTensor out) {
            rebindTo(plan.bound(in, out));
        }
    }

    // ---- mla_decode ----

    private static final class HostMlaDecodePlan extends HostPlan<MlaDecodeSpec> implements MlaDecodePlan<HostTensor> {
        HostMlaDecodePlan(final MlaDecodeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public long scheduleBytes() {
            return StepRecord.bytes(spec().maxBatch());
        }

        @Override
        public MlaScheduleLaunch<HostTensor> bindSchedule(
                final HostTensor lengths, final @Nullable HostTensor qTokens, final HostTensor schedule) {
            return new HostScheduleLaunch(this, bound(lengths, qTokens, schedule));
        }

        @Override
        public MlaDecodeLaunch<HostTensor> bind(final MlaDecodeOperands<HostTensor> operands) {
            return new HostMlaDecodeLaunch(this, bound(operands));
        }

        Bound bound(final HostTensor lengths, final @Nullable HostTensor qTokens, final HostTensor schedule) {
            AttentionOperands.checkSchedule(spec(), lengths.spec(), specOf(qTokens), schedule.spec(), scheduleBytes());
            return new Bound(spec().maxBatch(), batch -> StepRecord.write(lengths, qTokens, batch, schedule));
        }

        Bound bound(final MlaDecodeOperands<HostTensor> x) {
            AttentionOperands.check(spec(), x, scheduleBytes(), workspaceBytes());
            return new Bound(spec().maxBatch(), batch -> {
                StepRecord.require(x.lengths(), x.qTokens(), batch, x.schedule());
                PagedLatentAttention.decode(spec(), x, batch);
            });
        }
    }

    private static final class HostScheduleLaunch extends HostLaunch implements MlaScheduleLaunch<HostTensor> {
        private final HostMlaDecodePlan plan;

        HostScheduleLaunch(final HostMlaDecodePlan plan, final Bound bound) {
            super(plan, "mla_schedule", bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final HostTensor lengths, final @Nullable HostTensor qTokens, final HostTensor schedule) {
            rebindTo(plan.bound(lengths, qTokens, schedule));
        }
    }

    private static final class HostMlaDecodeLaunch extends HostLaunch implements MlaDecodeLaunch<HostTensor> {
        private final HostMlaDecodePlan plan;

        HostMlaDecodeLaunch(final HostMlaDecodePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final MlaDecodeOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }

    // ---- mla_merge ----

    private static final class HostMlaMergePlan extends HostPlan<MlaMergeSpec> implements MlaMergePlan<HostTensor> {
        HostMlaMergePlan(final MlaMergeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public MlaMergeLaunch<HostTensor> bind(
                final MlaResult<HostTensor> a, final MlaResult<HostTensor> b, final MlaResult<HostTensor> merged) {
            return new HostMlaMergeLaunch(this, bound(a, b, merged));
        }

        Bound bound(final MlaResult<HostTensor> a, final MlaResult<HostTensor> b, final MlaResult<HostTensor> merged) {
            AttentionOperands.check(spec(), a, b, merged);
            return new Bound(
                    spec().maxBatch(),
                    batch -> MlaMerge.merge(
                            a.out().slice(0, 0, batch),
                            a.lse().slice(0, 0, batch),
                            b.out().slice(0, 0, batch),
                            b.lse().slice(0, 0, batch),
                            merged.out().slice(0, 0, batch),
                            merged.lse().slice(0, 0, batch)));
        }
    }

    private static final class HostMlaMergeLaunch extends HostLaunch implements MlaMergeLaunch<HostTensor> {
        private final HostMlaMergePlan plan;

        HostMlaMergeLaunch(final HostMlaMergePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final MlaResult<HostTensor> a, final MlaResult<HostTensor> b, final MlaResult<HostTensor> merged) {
            rebindTo(plan.bound(a, b, merged));
        }
    }

    // ---- swiglu_quantize ----

    private static final class HostSwigluQuantizePlan extends HostPlan<SwigluQuantizeSpec>
            implements SwigluQuantizePlan<HostTensor> {
        HostSwigluQuantizePlan(final SwigluQuantizeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public SwigluQuantizeLaunch<HostTensor> bind(
                final HostTensor in,
                final @Nullable HostTensor weights,
                final @Nullable HostTensor rowCounts,
                final Scaled<HostTensor> out) {
            return new HostSwigluQuantizeLaunch(this, bound(in, weights, rowCounts, out));
        }

        Bound bound(
                final HostTensor in,
                final @Nullable HostTensor weights,
                final @Nullable HostTensor rowCounts,
                final Scaled<HostTensor> out) {
            Operands.check(spec(), in.spec(), specOf(weights), specOf(rowCounts), out);
            return new Bound(
                    spec().maxRows(),
                    used -> FusedQuantization.swigluQuantize(spec(), in, weights, rowCounts, out, used));
        }
    }

    private static final class HostSwigluQuantizeLaunch extends HostLaunch implements SwigluQuantizeLaunch<HostTensor> {
        private final HostSwigluQuantizePlan plan;

        HostSwigluQuantizeLaunch(final HostSwigluQuantizePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final HostTensor in,
                final @Nullable HostTensor weights,
                final @Nullable HostTensor rowCounts,
                final Scaled<HostTensor> out) {
            rebindTo(plan.bound(in, weights, rowCounts, out));
        }
    }

    // ---- rmsnorm_quantize ----

    private static final class HostRmsNormQuantizePlan extends HostPlan<RmsNormQuantizeSpec>
            implements RmsNormQuantizePlan<HostTensor> {
        HostRmsNormQuantizePlan(final RmsNormQuantizeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public RmsNormQuantizeLaunch<HostTensor> bind(
                final HostTensor in,
                final @Nullable HostTensor residual,
                final HostTensor weight,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor normalized) {
            return new HostRmsNormQuantizeLaunch(this, bound(in, residual, weight, out, normalized));
        }

        Bound bound(
                final HostTensor in,
                final @Nullable HostTensor residual,
                final HostTensor weight,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor normalized) {
            Operands.check(spec(), in.spec(), specOf(residual), weight.spec(), out, specOf(normalized));
            return new Bound(
                    spec().maxRows(),
                    rows -> FusedQuantization.rmsNormQuantize(
                            spec(),
                            in.slice(0, 0, rows),
                            residual == null ? null : residual.slice(0, 0, rows),
                            weight,
                            firstRows(out, rows),
                            normalized == null ? null : normalized.slice(0, 0, rows)));
        }
    }

    private static final class HostRmsNormQuantizeLaunch extends HostLaunch
            implements RmsNormQuantizeLaunch<HostTensor> {
        private final HostRmsNormQuantizePlan plan;

        HostRmsNormQuantizeLaunch(final HostRmsNormQuantizePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(
                final HostTensor in,
                final @Nullable HostTensor residual,
                final HostTensor weight,
                final Scaled<HostTensor> out,
                final @Nullable HostTensor normalized) {
            rebindTo(plan.bound(in, residual, weight, out, normalized));
        }
    }

    // ---- transpose_quantize ----

    private static final class HostTransposeQuantizePlan extends HostPlan<TransposeQuantizeSpec>
            implements TransposeQuantizePlan<HostTensor> {
        HostTransposeQuantizePlan(final TransposeQuantizeSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public TransposeQuantizeLaunch<HostTensor> bind(final HostTensor in, final Scaled<HostTensor> out) {
            return new HostTransposeQuantizeLaunch(this, bound(in, out));
        }

        Bound bound(final HostTensor in, final Scaled<HostTensor> out) {
            Operands.check(spec(), in.spec(), out);
            return new Bound(
                    spec().maxRows(),
                    rows -> FusedQuantization.transposeQuantize(
                            in.slice(0, 0, rows), firstCols(out, rows), spec().scaleKind()));
        }
    }

    private static final class HostTransposeQuantizeLaunch extends HostLaunch
            implements TransposeQuantizeLaunch<HostTensor> {
        private final HostTransposeQuantizePlan plan;

        HostTransposeQuantizeLaunch(final HostTransposeQuantizePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final HostTensor in, final Scaled<HostTensor> out) {
            rebindTo(plan.bound(in, out));
        }
    }

    // ---- mla_cache_write ----

    private static final class HostMlaCacheWritePlan extends HostPlan<MlaCacheWriteSpec>
            implements MlaCacheWritePlan<HostTensor> {
        HostMlaCacheWritePlan(final MlaCacheWriteSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public MlaCacheWriteLaunch<HostTensor> bind(final MlaCacheWriteOperands<HostTensor> operands) {
            return new HostMlaCacheWriteLaunch(this, bound(operands));
        }

        Bound bound(final MlaCacheWriteOperands<HostTensor> operands) {
            AttentionOperands.check(spec(), operands);
            return new Bound(spec().maxTokens(), tokens -> LatentCacheWriting.write(spec(), operands, tokens));
        }
    }

    private static final class HostMlaCacheWriteLaunch extends HostLaunch implements MlaCacheWriteLaunch<HostTensor> {
        private final HostMlaCacheWritePlan plan;

        HostMlaCacheWriteLaunch(final HostMlaCacheWritePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final MlaCacheWriteOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }

    // ---- moe_gate ----

    private static final class HostGatePlan extends HostPlan<GateSpec> implements GatePlan<HostTensor> {
        HostGatePlan(final GateSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public GateLaunch<HostTensor> bind(final GateOperands<HostTensor> operands) {
            return new HostGateLaunch(this, bound(operands));
        }

        Bound bound(final GateOperands<HostTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return new Bound(spec().maxTokens(), rows -> ExpertGate.run(spec(), operands, rows));
        }
    }

    private static final class HostGateLaunch extends HostLaunch implements GateLaunch<HostTensor> {
        private final HostGatePlan plan;

        HostGateLaunch(final HostGatePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final GateOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }

    // ---- moe_bias_update ----

    private static final class HostBiasUpdatePlan extends HostPlan<BiasUpdateSpec>
            implements BiasUpdatePlan<HostTensor> {
        HostBiasUpdatePlan(final BiasUpdateSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public BiasUpdateLaunch<HostTensor> bind(final BiasUpdateOperands<HostTensor> operands) {
            return new HostBiasUpdateLaunch(this, bound(operands));
        }

        Bound bound(final BiasUpdateOperands<HostTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return new Bound(1, rows -> ExpertGate.updateBias(spec(), operands, rows));
        }
    }

    private static final class HostBiasUpdateLaunch extends HostLaunch implements BiasUpdateLaunch<HostTensor> {
        private final HostBiasUpdatePlan plan;

        HostBiasUpdateLaunch(final HostBiasUpdatePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final BiasUpdateOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }

    // ---- moe_permute ----

    private static final class HostPermutePlan extends HostPlan<PermuteSpec> implements PermutePlan<HostTensor> {
        HostPermutePlan(final PermuteSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public PermuteLaunch<HostTensor> bind(final PermuteOperands<HostTensor> operands) {
            return new HostPermuteLaunch(this, bound(operands));
        }

        Bound bound(final PermuteOperands<HostTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return new Bound(spec().maxTokens(), rows -> ExpertRows.permute(spec(), operands, rows));
        }
    }

    private static final class HostPermuteLaunch extends HostLaunch implements PermuteLaunch<HostTensor> {
        private final HostPermutePlan plan;

        HostPermuteLaunch(final HostPermutePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final PermuteOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }

    // ---- moe_unpermute ----

    private static final class HostUnpermutePlan extends HostPlan<UnpermuteSpec> implements UnpermutePlan<HostTensor> {
        HostUnpermutePlan(final UnpermuteSpec spec, final Lifetime kernels) {
            super(spec, kernels);
        }

        @Override
        public UnpermuteLaunch<HostTensor> bind(final UnpermuteOperands<HostTensor> operands) {
            return new HostUnpermuteLaunch(this, bound(operands));
        }

        Bound bound(final UnpermuteOperands<HostTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return new Bound(spec().maxTokens(), rows -> ExpertRows.unpermute(spec(), operands, rows));
        }
    }

    private static final class HostUnpermuteLaunch extends HostLaunch implements UnpermuteLaunch<HostTensor> {
        private final HostUnpermutePlan plan;

        HostUnpermuteLaunch(final HostUnpermutePlan plan, final Bound bound) {
            super(plan, bound);
            this.plan = plan;
        }

        @Override
        public void rebind(final UnpermuteOperands<HostTensor> operands) {
            rebindTo(plan.bound(operands));
        }
    }
}
