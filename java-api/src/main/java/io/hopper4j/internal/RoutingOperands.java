package io.hopper4j.internal;

import io.hopper4j.DType;
import io.hopper4j.Scaling;
import io.hopper4j.Shape;
import io.hopper4j.Support.Reason;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermuteSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** What {@link Operands} is for matrices, for the pieces of a mixture-of-experts layer: what a spec and its tensors must satisfy, in one place each. */
public final class RoutingOperands {
    private static final int MAX_EXPERTS = 1024;
    private static final int MAX_TOP_K = 32;
    private static final int ROW_BYTES = 16;

    /** Rows and ids are numbered by 32-bit integers. */
    private static final long MOST = Integer.MAX_VALUE - 255;

    private RoutingOperands() {}

    // ---- specs ----

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final GateSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(
                reasons,
                spec.logitsDType() == DType.F32 || spec.logitsDType() == DType.BF16,
                "moe_gate: logits",
                "dtype " + spec.logitsDType(),
                "F32 or BF16");
        experts(reasons, spec.operation(), spec.experts());
        Operands.need(reasons, spec.groups() <= 32, "moe_gate: groups", spec.groups(), "at most 32");
        topK(reasons, spec.operation(), spec.topK());
        tokens(reasons, spec.operation(), spec.maxTokens(), spec.maxTokens() <= MOST / spec.topK());
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final BiasUpdateSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        experts(reasons, spec.operation(), spec.experts());
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final PermuteSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        final boolean fromBf16 = spec.inDType() == DType.BF16;
        Operands.need(
                reasons,
                fromBf16 || spec.inDType() == DType.F8_E4M3,
                "moe_permute: in",
                "dtype " + spec.inDType(),
                "BF16 or F8_E4M3");
        Operands.need(
                reasons,
                spec.outDType() == DType.F8_E4M3 || (fromBf16 && spec.outDType() == DType.BF16),
                "moe_permute: out",
                "dtype " + spec.outDType() + " from " + spec.inDType(),
                "F8_E4M3, or BF16 from BF16");
        final int unit = ROW_BYTES / spec.outDType().size();
        Operands.need(
                reasons, spec.hidden() % unit == 0, "moe_permute: hidden", spec.hidden(), "a multiple of " + unit);
        Operands.need(reasons, spec.hidden() <= MOST / 2, "moe_permute: hidden", spec.hidden(), "at most " + MOST / 2);
        experts(reasons, spec.operation(), spec.experts());
        topK(reasons, spec.operation(), spec.topK());
        Operands.need(
                reasons,
                spec.alignment() <= 256 && Integer.bitCount(spec.alignment()) == 1,
                "moe_permute: alignment",
                spec.alignment(),
                "a power of two up to 256");
        tokens(reasons, spec.operation(), spec.maxTokens(), spec.rows() <= MOST);
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final UnpermuteSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(reasons, spec.hidden() % 8 == 0, "moe_unpermute: hidden", spec.hidden(), "a multiple of 8");
        Operands.need(reasons, spec.hidden() <= MOST, "moe_unpermute: hidden", spec.hidden(), "at most " + MOST);
        topK(reasons, spec.operation(), spec.topK());
        tokens(reasons, spec.operation(), spec.maxTokens(), spec.maxTokens() <= MOST);
        Operands.need(reasons, spec.rows() <= MOST, "moe_unpermute: rows", spec.rows(), "at most " + MOST);
        return reasons;
    }

    private static void experts(final List<Reason> reasons, final String operation, final int experts) {
        Operands.need(reasons, experts <= MAX_EXPERTS, operation + ": experts", experts, "at most " + MAX_EXPERTS);
    }

    private static void topK(final List<Reason> reasons, final String operation, final int topK) {
        Operands.need(reasons, topK <= MAX_TOP_K, operation + ": topK", topK, "at most " + MAX_TOP_K);
    }

    private static void tokens(
            final List<Reason> reasons, final String operation, final long tokens, final boolean fits) {
        Operands.need(reasons, fits, operation + ": maxTokens", tokens, "at most " + MOST + " tokens, ids and rows");
    }

    // ---- operands ----

    /**
     * Checks the operands of a gate.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final GateSpec spec, final GateOperands<?> x) {
        Objects.requireNonNull(x, "operands");
        final String operation = spec.operation();
        final Shape each = Shape.of(spec.experts());
        final Shape choices = Shape.of(spec.maxTokens(), spec.topK());
        Operands.matrix(
                operation, "logits", x.logits().spec(), spec.logitsDType(), spec.maxTokens(), spec.experts(), 1);
        packed(operation, "bias", x.bias(), DType.F32, each);
        packed(operation, "disabled", x.disabled(), DType.U8, each);
        packed(operation, "ids", x.ids(), DType.I32, choices);
        packed(operation, "weights", x.weights(), DType.F32, choices);
        packed(operation, "counts", x.counts(), DType.I32, each);
    }

    /**
     * Checks the operands of a bias update.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final BiasUpdateSpec spec, final BiasUpdateOperands<?> x) {
        Objects.requireNonNull(x, "operands");
        final Shape each = Shape.of(spec.experts());
        packed(spec.operation(), "counts", x.counts(), DType.I32, each);
        packed(spec.operation(), "bias", x.bias(), DType.F32, each);
    }

    /**
     * Checks the operands of a permutation.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final PermuteSpec spec, final PermuteOperands<?> x) {
        Objects.requireNonNull(x, "operands");
        final String operation = spec.operation();
        final Shape choices = Shape.of(spec.maxTokens(), spec.topK());
        packed(operation, "ids", x.ids(), DType.I32, choices);
        rows(operation, "in", x.in().spec(), spec.inDType(), spec.maxTokens(), spec.hidden());
        scales(operation, "inScales", x.inScales(), spec.inDType(), spec.maxTokens(), spec.hidden());
        rows(operation, "out", x.out().spec(), spec.outDType(), spec.rows(), spec.hidden());
        scales(operation, "outScales", x.outScales(), spec.outDType(), spec.rows(), spec.hidden());
        packed(operation, "groupEnds", x.groupEnds(), DType.I32, Shape.of(spec.experts()));
        packed(operation, "places", x.places(), DType.I32, choices);
        packed(operation, "sources", x.sources(), DType.I32, Shape.of(spec.rows()));
    }

    /**
     * Checks the operands of an unpermutation.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final UnpermuteSpec spec, final UnpermuteOperands<?> x) {
        Objects.requireNonNull(x, "operands");
        final String operation = spec.operation();
        final Shape choices = Shape.of(spec.maxTokens(), spec.topK());
        rows(operation, "x", x.x().spec(), DType.BF16, spec.rows(), spec.hidden());
        packed(operation, "places", x.places(), DType.I32, choices);
        given(operation, "weights", x.weights(), spec.weighted(), "the spec has weights", "the spec has no weights");
        packed(operation, "weights", x.weights(), DType.F32, choices);
        given(operation, "residual", x.residual(), spec.residual(), "the spec has one", "the spec has none");
        if (x.residual() != null) {
            rows(operation, "residual", x.residual().spec(), DType.BF16, spec.maxTokens(), spec.hidden());
        }
        rows(operation, "out", x.out().spec(), DType.BF16, spec.maxTokens(), spec.hidden());
    }

    private static void rows(
            final String operation,
            final String name,
            final TensorSpec spec,
            final DType dtype,
            final long rows,
            final long hidden) {
        Operands.matrix(operation, name, spec, dtype, rows, hidden, ROW_BYTES / dtype.size());
    }

    /** Scales of E4M3 rows, column by column; BF16 rows have none. */
    private static void scales(
            final String operation,
            final String name,
            final @Nullable Tensor scales,
            final DType dtype,
            final long rows,
            final long hidden) {
        given(operation, name, scales, dtype == DType.F8_E4M3, "rows are F8_E4M3", "rows are BF16");
        if (scales == null) {
            return;
        }
        final TensorSpec spec = scales.spec();
        final Shape need = Scaling.ACTIVATION_1X128.scaleShape(rows, hidden);
        if (spec.dtype() != DType.F32 || !spec.shape().equals(need)) {
            throw Arguments.bad(operation + ": " + name, spec.dtype() + " " + spec.shape(), "F32 " + need);
        }
        Operands.columns(operation, name, spec);
    }

    private static void given(
            final String operation,
            final String name,
            final @Nullable Tensor tensor,
            final boolean wanted,
            final String whyWanted,
            final String whyNot) {
        if (wanted != (tensor != null)) {
            throw Arguments.bad(
                    operation + ": " + name,
                    tensor == null ? "null" : tensor.spec(),
                    wanted ? "a tensor, as " + whyWanted : "null, as " + whyNot);
        }
    }

    private static void packed(
            final String operation,
            final String name,
            final @Nullable Tensor tensor,
            final DType dtype,
            final Shape shape) {
        if (tensor == null) {
            return;
        }
        final TensorSpec spec = tensor.spec();
        if (spec.dtype() != dtype || !spec.shape().equals(shape) || !spec.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, spec, "contiguous " + dtype + " " + shape);
        }
    }
}
