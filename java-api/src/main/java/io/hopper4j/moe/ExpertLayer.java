package io.hopper4j.moe;

import io.hopper4j.DType;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Stream;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * The experts of a mixture-of-experts layer on one device ({@link ExpertLayerSpec}), composed of the library's operations: rows to experts, quantised on the
 * way; gate and up projection as one grouped product; SwiGLU and quantisation; down projection; weighted sum. Rows are quantised before they are copied, so a
 * copy is a byte a value; the numbers are those of quantising after. Nothing is read back by the host, so a launch may be captured:
 *
 * <p>{@snippet :
 * try (ExpertLayer<DeviceTensor> layer = ExpertLayer.open(kernels, spec, operands, arena::allocate);
 *         Graph graph = stream.capture(layer::launch)) {
 *     graph.launch(stream);
 * }
 * }
 *
 * <p>A layer has tensors of its own between its operations: it may run on one stream at a time.
 *
 * @param <T> host or device tensors
 */
public final class ExpertLayer<T extends Tensor> implements Launch {
    private final ExpertLayerSpec spec;
    private final PermuteLaunch<T> permute;
    private final Launch gateUp;
    private final Launch activate;
    private final Launch down;
    private final UnpermuteLaunch<T> unpermute;
    private final Deque<AutoCloseable> opened;

    private ExpertLayer(
            final Kernels<T> kernels,
            final ExpertLayerSpec spec,
            final ExpertLayerOperands<T> x,
            final Function<TensorSpec, T> memory,
            final Deque<AutoCloseable> opened) {
        this.spec = spec;
        this.opened = opened;
        final PermuteSpec there = PermuteSpec.of(
                        spec.maxTokens(), spec.hidden(), spec.experts(), spec.topK(), DType.BF16)
                .withQuantize(spec.scaleKind())
                .withSmBudget(spec.smBudget());
        final long rows = there.rows();
        final Scaled<T> in = quantized(memory, rows, spec.hidden());
        final T projected = memory.apply(TensorSpec.packed(DType.BF16, rows, 2 * spec.intermediate()));
        final Scaled<T> activated = quantized(memory, rows, spec.intermediate());
        final T result = memory.apply(TensorSpec.packed(DType.BF16, rows, spec.hidden()));
        final T ends = memory.apply(TensorSpec.packed(DType.I32, spec.experts()));
        final T places = memory.apply(TensorSpec.packed(DType.I32, spec.maxTokens(), spec.topK()));

        final PermutePlan<T> permuting = keep(kernels.plan(there));
        permute = keep(permuting.bind(
                new PermuteOperands<>(x.ids(), x.x(), null, in.values(), in.scales(), ends, places, null)));
        gateUp = product(kernels, memory, in, x.gateUp(), ends, projected, 2 * spec.intermediate(), spec.hidden());
        final SwigluQuantizePlan<T> activating = keep(kernels.plan(SwigluQuantizeSpec.of(rows, spec.intermediate())
                .withScaleKind(spec.scaleKind())
                .withSmBudget(spec.smBudget())));
        activate = keep(activating.bind(projected, null, null, activated));
        down = product(kernels, memory, activated, x.down(), ends, result, spec.hidden(), spec.intermediate());
        final UnpermutePlan<T> summing =
                keep(kernels.plan(UnpermuteSpec.of(spec.maxTokens(), rows, spec.hidden(), spec.topK())
                        .withResidual(spec.residual())
                        .withSmBudget(spec.smBudget())));
        unpermute = keep(summing.bind(new UnpermuteOperands<>(result, places, x.weights(), x.residual(), x.out())));
    }

    /**
     * Plans and binds a layer.
     *
     * @param <T> host or device tensors
     * @param kernels the operations
     * @param spec the layer
     * @param operands its tensors
     * @param memory allocates the tensors between its operations, which must live as long as the layer: {@code arena::allocate}
     * @return the layer, which the caller closes
     * @throws io.hopper4j.UnsupportedKernelException if an operation cannot be served
     * @throws IllegalArgumentException if a type, shape, stride, alignment or device does not fit
     */
    public static <T extends Tensor> ExpertLayer<T> open(
            final Kernels<T> kernels,
            final ExpertLayerSpec spec,
            final ExpertLayerOperands<T> operands,
            final Function<TensorSpec, T> memory) {
        final Deque<AutoCloseable> opened = new ArrayDeque<>();
        try {
            return new ExpertLayer<>(kernels, spec, operands, memory, opened);
        } catch (final RuntimeException e) {
            close(opened);
            throw e;
        }
    }

    private static <T extends Tensor> Scaled<T> quantized(
            final Function<TensorSpec, T> memory, final long rows, final long cols) {
        return Scaled.activation(
                memory.apply(TensorSpec.packed(DType.F8_E4M3, rows, cols)),
                memory.apply(Scaled.activationScaleSpec(rows, cols)));
    }

    private Launch product(
            final Kernels<T> kernels,
            final Function<TensorSpec, T> memory,
            final Scaled<T> a,
            final Scaled<T> b,
            final T ends,
            final T out,
            final long n,
            final long k) {
        final GroupedGemmPlan<T> plan = keep(
                kernels.plan(GroupedGemmSpec.of(spec.experts(), a.rows(), n, k).withSmBudget(spec.smBudget())));
        final @Nullable T workspace =
                plan.workspaceBytes() == 0 ? null : memory.apply(TensorSpec.packed(DType.U8, plan.workspaceBytes()));
        return keep(plan.bind(a, b, ends, out, workspace));
    }

    private <C extends AutoCloseable> C keep(final C resource) {
        opened.push(resource);
        return resource;
    }

    /** {@return the layer} */
    public ExpertLayerSpec spec() {
        return spec;
    }

    @Override
    public void launch(final Stream on) {
        launch(on, spec.maxTokens());
    }

    /**
     * Runs the layer on its first tokens.
     *
     * @param on the stream
     * @param tokens tokens in use
     */
    @Override
    public void launch(final Stream on, final long tokens) {
        permute.launch(on, tokens);
        gateUp.launch(on, tokens * spec.topK());
        activate.launch(on, tokens * spec.topK());
        down.launch(on, tokens * spec.topK());
        unpermute.launch(on, tokens);
    }

    /** Lets plans and launches go. Closing a closed layer does nothing. */
    @Override
    public void close() {
        close(opened);
    }

    private static void close(final Deque<AutoCloseable> opened) {
        while (!opened.isEmpty()) {
            switch (opened.pop()) {
                case Launch launch -> launch.close();
                case Plan plan -> plan.close();
                case AutoCloseable other -> throw new AssertionError(other);
            }
        }
    }
}
