package io.hopper4j.internal.cuda;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceInfo;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Kernels;
import io.hopper4j.OpSpec;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.Support;
import io.hopper4j.Support.Reason;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.bindings.hopper4j_h;
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
import io.hopper4j.internal.NativeLoader;
import io.hopper4j.internal.Needs;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchSpec;
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
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The CUDA kernels of one device. */
public final class CudaKernels implements Kernels<DeviceTensor> {
    private final CudaDevice device;
    private final Lifetime lifetime;

    /** @param device one of {@link Device#all()} */
    public CudaKernels(final Device device) {
        this.device = CudaDevice.of(device);
        this.lifetime = new Lifetime(this, "kernels of " + device);
    }

    CudaDevice device() {
        return device;
    }

    // ---- planning ----

    /** {@return as {@link Kernels#support(DeviceInfo, OpSpec)}} */
    public static Support support(final DeviceInfo device, final OpSpec spec) {
        NativeLoader.load();
        final List<Reason> unmet = Needs.unmet(spec);
        if (!unmet.isEmpty()) {
            return new Support.Unsupported(unmet);
        }
        try (Call call = new Call()) {
            final int status = plan(device, spec, call);
            if (isRefusal(status)) {
                return new Support.Unsupported(List.of(call.reason()));
            }
            call.check(status);
            final MemorySegment plan = call.handle();
            try {
                final CudaPlan.Choice choice = CudaPlan.describe(plan);
                return new Support.Supported(choice.kernel(), choice.workspaceBytes(), choice.explanation());
            } finally {
                CudaPlan.destroy(plan);
            }
        }
    }

    private static int plan(final DeviceInfo info, final OpSpec spec, final Call call) {
        final MemorySegment device = CudaDevice.describe(info, call.arena());
        return switch (spec) {
            case GemmSpec gemm -> CudaGemm.plan(device, gemm, call);
            case GroupedGemmSpec gemm -> CudaGroupedGemm.plan(device, gemm, call);
            case MaskedGemmSpec gemm -> CudaMaskedGemm.plan(device, gemm, call);
            case KGroupedGemmSpec gemm -> CudaKGroupedGemm.plan(device, gemm, call);
            case Bf16GemmSpec gemm -> CudaBf16Gemm.plan(device, gemm, call);
            case Bf16GroupedGemmSpec gemm -> CudaBf16GroupedGemm.plan(device, gemm, call);
            case QuantizeSpec quantize -> CudaQuantize.plan(device, quantize, call);
            case DequantizeSpec dequantize -> CudaDequantize.plan(device, dequantize, call);
            case MlaDecodeSpec decode -> CudaMlaDecode.plan(device, decode, call);
            case MlaCacheWriteSpec write -> CudaMlaCacheWrite.plan(device, write, call);
            case TransposeQuantizeSpec transpose -> CudaTransposeQuantize.plan(device, transpose, call);
            case RmsNormQuantizeSpec norm -> CudaRmsNormQuantize.plan(device, norm, call);
            case SwigluQuantizeSpec swiglu -> CudaSwigluQuantize.plan(device, swiglu, call);
            case MlaMergeSpec merge -> CudaMlaMerge.plan(device, merge, call);
            case DispatchSpec dispatch -> CudaExpertGroup.plan(device, dispatch, call);
            case CombineSpec combine -> CudaExpertGroup.plan(device, combine, call);
            case GateSpec gate -> CudaGate.plan(device, gate, call);
            case BiasUpdateSpec update -> CudaBiasUpdate.plan(device, update, call);
            case PermuteSpec permute -> CudaPermute.plan(device, permute, call);
            case UnpermuteSpec unpermute -> CudaUnpermute.plan(device, unpermute, call);
        };
    }

    /** A spec that Java let through is not a mistake of the caller but one that this library cannot serve. */
    private static boolean isRefusal(final int status) {
        return status == hopper4j_h.H4J_UNSUPPORTED() || status == hopper4j_h.H4J_INVALID_ARGUMENT();
    }

    /** Makes the plan object once the native plan is there. */
    @FunctionalInterface
    interface Maker<S, P> {
        P make(S spec, CudaPlan.NativePlan made);
    }

    <S extends OpSpec, P> P plan(final S spec, final Maker<S, P> maker) {
        return plan(device.info(), spec, maker);
    }

    /** Plans for this device as a group has found it. */
    <S extends OpSpec, P> P plan(final DeviceInfo info, final S spec, final Maker<S, P> maker) {
        final Lifetime.Lease lease = lifetime.lease(spec.operation() + " plan");
        try (Call call = new Call()) {
            final List<Reason> unmet = Needs.unmet(spec);
            if (!unmet.isEmpty()) {
                throw new UnsupportedKernelException(unmet);
            }
            final int status = plan(info, spec, call);
            if (isRefusal(status)) {
                throw new UnsupportedKernelException(List.of(call.reason()));
            }
            call.check(status);
            return maker.make(spec, new CudaPlan.NativePlan(this, call.handle(), lease));
        } catch (RuntimeException e) {
            lease.release();
            throw e;
        }
    }

    @Override
    public Support support(final OpSpec spec) {
        lifetime.requireOpen();
        return support(device.info(), spec);
    }

    @Override
    public GemmPlan<DeviceTensor> plan(final GemmSpec spec) {
        return plan(spec, CudaGemm.Planned::new);
    }

    @Override
    public GroupedGemmPlan<DeviceTensor> plan(final GroupedGemmSpec spec) {
        return plan(spec, CudaGroupedGemm.Planned::new);
    }

    @Override
    public MaskedGemmPlan<DeviceTensor> plan(final MaskedGemmSpec spec) {
        return plan(spec, CudaMaskedGemm.Planned::new);
    }

    @Override
    public KGroupedGemmPlan<DeviceTensor> plan(final KGroupedGemmSpec spec) {
        return plan(spec, CudaKGroupedGemm.Planned::new);
    }

    @Override
    public Bf16GemmPlan<DeviceTensor> plan(final Bf16GemmSpec spec) {
        return plan(spec, CudaBf16Gemm.Planned::new);
    }

    @Override
    public Bf16GroupedGemmPlan<DeviceTensor> plan(final Bf16GroupedGemmSpec spec) {
        return plan(spec, CudaBf16GroupedGemm.Planned::new);
    }

    @Override
    public QuantizePlan<DeviceTensor> plan(final QuantizeSpec spec) {
        return plan(spec, CudaQuantize.Planned::new);
    }

    @Override
    public DequantizePlan<DeviceTensor> plan(final DequantizeSpec spec) {
        return plan(spec, CudaDequantize.Planned::new);
    }

    @Override
    public MlaDecodePlan<DeviceTensor> plan(final MlaDecodeSpec spec) {
        return plan(spec, CudaMlaDecode.Planned::new);
    }

    @Override
    public MlaMergePlan<DeviceTensor> plan(final MlaMergeSpec spec) {
        return plan(spec, CudaMlaMerge.Planned::new);
    }

    @Override
    public SwigluQuantizePlan<DeviceTensor> plan(final SwigluQuantizeSpec spec) {
        return plan(spec, CudaSwigluQuantize.Planned::new);
    }

    @Override
    public RmsNormQuantizePlan<DeviceTensor> plan(final RmsNormQuantizeSpec spec) {
        return plan(spec, CudaRmsNormQuantize.Planned::new);
    }

    @Override
    public TransposeQuantizePlan<DeviceTensor> plan(final TransposeQuantizeSpec spec) {
        return plan(spec, CudaTransposeQuantize.Planned::new);
    }

    @Override
    public MlaCacheWritePlan<DeviceTensor> plan(final MlaCacheWriteSpec spec) {
        return plan(spec, CudaMlaCacheWrite.Planned::new);
    }

    @Override
    public ExpertGroup<DeviceTensor> openGroup(final ExpertGroupSpec spec, final Rendezvous rendezvous) {
        return CudaExpertGroup.open(this, lifetime.lease("expert group"), spec, rendezvous);
    }

    @Override
    public GatePlan<DeviceTensor> plan(final GateSpec spec) {
        return plan(spec, CudaGate.Planned::new);
    }

    @Override
    public BiasUpdatePlan<DeviceTensor> plan(final BiasUpdateSpec spec) {
        return plan(spec, CudaBiasUpdate.Planned::new);
    }

    @Override
    public PermutePlan<DeviceTensor> plan(final PermuteSpec spec) {
        return plan(spec, CudaPermute.Planned::new);
    }

    @Override
    public UnpermutePlan<DeviceTensor> plan(final UnpermuteSpec spec) {
        return plan(spec, CudaUnpermute.Planned::new);
    }

    @Override
    public Stream openStream() {
        lifetime.requireOpen();
        return device.openStream();
    }

    // ---- eager forms ----

    @Override
    public void gemm(
            final Scaled<DeviceTensor> a,
            final Scaled<DeviceTensor> b,
            final @Nullable DeviceTensor c,
            final DeviceTensor out,
            final Stream on) {
        final GemmSpec spec = GemmSpec.of(a.rows(), b.rows(), a.cols())
                .withOut(out.dtype())
                .withAccumulate(c != null)
                .withScaling(a.scaling(), b.scaling());
        try (GemmPlan<DeviceTensor> plan = plan(spec)) {
            if (plan.workspaceBytes() == 0) {
                gemm(plan, a, b, c, out, null, on);
            } else {
                try (DeviceArena scratch = device.openArena(on)) {
                    gemm(plan, a, b, c, out, scratch.allocate(DType.U8, plan.workspaceBytes()), on);
                }
            }
        }
    }

    private static void gemm(
            final GemmPlan<DeviceTensor> plan,
            final Scaled<DeviceTensor> a,
            final Scaled<DeviceTensor> b,
            final @Nullable DeviceTensor c,
            final DeviceTensor out,
            final @Nullable DeviceTensor workspace,
            final Stream on) {
        try (GemmLaunch<DeviceTensor> launch = plan.bind(a, b, c, out, workspace)) {
            launch.launch(on);
        }
    }

    @Override
    public void gemm(
            final DeviceTensor a,
            final DeviceTensor b,
            final @Nullable DeviceTensor c,
            final DeviceTensor out,
            final Stream on) {
        final Bf16GemmSpec spec = Bf16Operands.specOf(a.spec(), b.spec(), c != null, out.dtype());
        try (Bf16GemmPlan<DeviceTensor> plan = plan(spec)) {
            if (plan.workspaceBytes() == 0) {
                gemm(plan, a, b, c, out, null, on);
            } else {
                try (DeviceArena scratch = device.openArena(on)) {
                    gemm(plan, a, b, c, out, scratch.allocate(DType.U8, plan.workspaceBytes()), on);
                }
            }
        }
    }

    private static void gemm(
            final Bf16GemmPlan<DeviceTensor> plan,
            final DeviceTensor a,
            final DeviceTensor b,
            final @Nullable DeviceTensor c,
            final DeviceTensor out,
            final @Nullable DeviceTensor workspace,
            final Stream on) {
        try (Bf16GemmLaunch<DeviceTensor> launch = plan.bind(a, b, c, out, workspace)) {
            launch.launch(on);
        }
    }

    @Override
    public void close() {
        lifetime.close();
    }

    @Override
    public String toString() {
        return "CUDA kernels of " + device;
    }
}
