package io.hopper4j;

import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergeLaunch;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.internal.cuda.CudaKernels;
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
import io.hopper4j.quant.DequantizeLaunch;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeLaunch;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import io.hopper4j.reference.ReferenceKernels;
import org.jspecify.annotations.Nullable;

/**
 * The operations: one contract with two implementations, the CUDA kernels and the plain Java reference that says what each must compute.
 *
 * <p>An operation is planned (a kernel is chosen for a spec), bound (to tensors) and launched (put into a stream, as often as wanted).
 * The eager forms do all three for one run.
 *
 * <p>{@snippet :
 * try (Kernels<DeviceTensor> kernels = Kernels.cuda(device);
 *         GemmPlan<DeviceTensor> plan = kernels.plan(GemmSpec.of(4096, 7168, 2048))) {
 *     long bytes = plan.workspaceBytes();
 *     DeviceTensor workspace = bytes == 0 ? null : arena.allocate(DType.U8, bytes);
 *     try (GemmLaunch<DeviceTensor> gemm = plan.bind(a, b, out, workspace)) {
 *         gemm.launch(stream);          // all rows of a
 *         gemm.launch(stream, 17);      // the first 17 rows
 *     }
 * }
 * }
 *
 * <p>May be used from any thread.
 *
 * @param <T> the tensors that the implementation works on
 */
public interface Kernels<T extends Tensor> extends AutoCloseable {
    /** {@return the plain Java meaning of every operation, on host tensors; the caller closes it} */
    static Kernels<HostTensor> reference() {
        return new ReferenceKernels();
    }

    /**
     * {@return the CUDA kernels of a device, which the caller closes}
     *
     * @param device the device
     */
    static Kernels<DeviceTensor> cuda(final Device device) {
        return new CudaKernels(device);
    }

    /**
     * {@return what the CUDA kernels would do on a device, which need not be there}
     *
     * @param device the device, often one of the descriptions of {@link DeviceInfo}
     * @param spec the operation
     * @throws NativeLibraryException if the native library cannot be loaded
     */
    static Support support(final DeviceInfo device, final OpSpec spec) {
        return CudaKernels.support(device, spec);
    }

    /**
     * {@return what kernel serves an operation, or every reason why none does}
     *
     * @param spec the operation
     */
    Support support(OpSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    GemmPlan<T> plan(GemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    GroupedGemmPlan<T> plan(GroupedGemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    Bf16GemmPlan<T> plan(Bf16GemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    MaskedGemmPlan<T> plan(MaskedGemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    KGroupedGemmPlan<T> plan(KGroupedGemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    Bf16GroupedGemmPlan<T> plan(Bf16GroupedGemmSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    QuantizePlan<T> plan(QuantizeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    DequantizePlan<T> plan(DequantizeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    MlaDecodePlan<T> plan(MlaDecodeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    MlaMergePlan<T> plan(MlaMergeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    SwigluQuantizePlan<T> plan(SwigluQuantizeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    RmsNormQuantizePlan<T> plan(RmsNormQuantizeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    TransposeQuantizePlan<T> plan(TransposeQuantizeSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    MlaCacheWritePlan<T> plan(MlaCacheWriteSpec spec);

    /**
     * Opens this rank of an expert group: waits until every rank is there, compares what they agree on and connects their memory.
     *
     * @param spec what the ranks agree on
     * @param rendezvous this rank's end of where they meet
     * @return the group, which the caller closes
     * @throws IllegalArgumentException if a peer's spec differs; the message names the field
     * @throws UnsupportedKernelException if no kernel serves the spec, or the ranks cannot share their devices
     * @throws PeerTimeoutException if a rank is not there before the spec's deadline
     * @throws OutOfDeviceMemoryException if the memory that peers write does not fit
     */
    ExpertGroup<T> openGroup(ExpertGroupSpec spec, Rendezvous rendezvous);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    GatePlan<T> plan(GateSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    BiasUpdatePlan<T> plan(BiasUpdateSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    PermutePlan<T> plan(PermuteSpec spec);

    /**
     * {@return a plan, which the caller closes}
     *
     * @param spec the operation
     * @throws UnsupportedKernelException if no kernel serves it; the exception has every reason
     */
    UnpermutePlan<T> plan(UnpermuteSpec spec);

    /** {@return a new stream for these kernels, which the caller closes} */
    Stream openStream();

    /**
     * Multiplies once: {@code out = a b^T}; see {@link GemmSpec}.
     *
     * @param a {@code [M, K]}, as in {@link GemmPlan#bind}
     * @param b {@code [N, K]}, as in {@link GemmPlan#bind}
     * @param out {@code [M, N]} BF16 or F32, as in {@link GemmPlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    default void gemm(final Scaled<T> a, final Scaled<T> b, final T out, final Stream on) {
        gemm(a, b, null, out, on);
    }

    /**
     * Multiplies once and adds: {@code out = a b^T + c}; see {@link GemmSpec}.
     *
     * @param a {@code [M, K]}, as in {@link GemmPlan#bind}
     * @param b {@code [N, K]}, as in {@link GemmPlan#bind}
     * @param c {@code [M, N]} of the type of {@code out}, may be {@code out}; null: nothing is added
     * @param out {@code [M, N]} BF16 or F32, as in {@link GemmPlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    void gemm(Scaled<T> a, Scaled<T> b, @Nullable T c, T out, Stream on);

    /**
     * Multiplies BF16 matrices, or a batch of them, once: {@code out = a b^T}; see {@link Bf16GemmSpec}.
     *
     * @param a {@code [M, K]} or {@code [batch, M, K]}, as in {@link Bf16GemmPlan#bind}
     * @param b {@code [N, K]} or {@code [batch, N, K]}, as in {@link Bf16GemmPlan#bind}
     * @param out {@code [M, N]} or {@code [batch, M, N]} BF16 or F32, as in {@link Bf16GemmPlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    default void gemm(final T a, final T b, final T out, final Stream on) {
        gemm(a, b, null, out, on);
    }

    /**
     * Multiplies BF16 matrices, or a batch of them, once and adds: {@code out = a b^T + c}; see {@link Bf16GemmSpec}.
     *
     * @param a {@code [M, K]} or {@code [batch, M, K]}, as in {@link Bf16GemmPlan#bind}
     * @param b {@code [N, K]} or {@code [batch, N, K]}, as in {@link Bf16GemmPlan#bind}
     * @param c of the type and shape of {@code out}, may be {@code out}; null: nothing is added
     * @param out {@code [M, N]} or {@code [batch, M, N]} BF16 or F32, as in {@link Bf16GemmPlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    void gemm(T a, T b, @Nullable T c, T out, Stream on);

    /**
     * Quantises once; see {@link QuantizeSpec}.
     *
     * @param in {@code [rows, cols]} F32, F16 or BF16, as in {@link QuantizePlan#bind}
     * @param scaleKind F32 or power-of-two scales
     * @param out written, with the blocks of its scaling, as in {@link QuantizePlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    default void quantize(final T in, final ScaleKind scaleKind, final Scaled<T> out, final Stream on) {
        final QuantizeSpec spec = QuantizeSpec.of(out.rows(), out.cols(), in.dtype(), out.scaling())
                .withScaleKind(scaleKind);
        try (QuantizePlan<T> plan = plan(spec);
                QuantizeLaunch<T> launch = plan.bind(in, out)) {
            launch.launch(on);
        }
    }

    /**
     * Dequantises once; see {@link DequantizeSpec}.
     *
     * @param in {@code [rows, cols]}, as in {@link DequantizePlan#bind}
     * @param out {@code [rows, cols]} F32, F16 or BF16, written, as in {@link DequantizePlan#bind}
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    default void dequantize(final Scaled<T> in, final T out, final Stream on) {
        final DequantizeSpec spec = DequantizeSpec.of(in.rows(), in.cols(), in.scaling(), out.dtype());
        try (DequantizePlan<T> plan = plan(spec);
                DequantizeLaunch<T> launch = plan.bind(in, out)) {
            launch.launch(on);
        }
    }

    /**
     * Merges once; see {@link MlaMergeSpec}.
     *
     * @param a one part, as in {@link MlaMergePlan#bind}
     * @param b the other part
     * @param merged written; may be one of the parts
     * @param on the stream
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     * @throws IllegalStateException if the stream or the arena of a tensor is closed
     * @throws UnsupportedKernelException if no kernel serves the shape
     */
    default void mlaMerge(final MlaResult<T> a, final MlaResult<T> b, final MlaResult<T> merged, final Stream on) {
        try (MlaMergePlan<T> plan = plan(MlaMergeSpec.of(merged));
                MlaMergeLaunch<T> launch = plan.bind(a, b, merged)) {
            launch.launch(on);
        }
    }

    /**
     * Lets the kernels go. Closing closed kernels does nothing.
     *
     * @throws IllegalStateException if plans are open; the message names them
     */
    @Override
    void close();
}
