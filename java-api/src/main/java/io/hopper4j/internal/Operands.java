package io.hopper4j.internal;

import io.hopper4j.DType;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Shape;
import io.hopper4j.Support.Reason;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What every implementation asks of the operands of an operation, in one place each: what a spec must satisfy to be served
 * ({@code unmetNeeds}), and what tensors must satisfy to be bound to it ({@code check}). A check that passes allocates nothing.
 */
public final class Operands {
    private static final int ROW_BYTES = 16;

    private Operands() {}

    // ---- specs ----

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final GemmSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        final int unit = spec.quantizedOut() ? 16 : 8;
        need(reasons, spec.n() % unit == 0, "gemm: n", spec.n(), "a multiple of " + unit);
        need(reasons, spec.k() % 16 == 0, "gemm: k", spec.k(), "a multiple of 16");
        need(
                reasons,
                spec.outDType() == DType.BF16 || spec.outDType() == DType.F32 || spec.quantizedOut(),
                "gemm: out",
                "dtype " + spec.outDType(),
                "BF16, F32 or F8_E4M3");
        need(
                reasons,
                !spec.accumulate() || !spec.quantizedOut(),
                "gemm: accumulate",
                spec.accumulate(),
                "false, as the output is F8_E4M3");
        need(
                reasons,
                spec.aScaling().equals(Scaling.ACTIVATION_1X128),
                "gemm: a.scaling",
                spec.aScaling(),
                Scaling.ACTIVATION_1X128);
        need(
                reasons,
                spec.bScaling().equals(Scaling.WEIGHT_128X128),
                "gemm: b.scaling",
                spec.bScaling(),
                Scaling.WEIGHT_128X128);
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final QuantizeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        need(reasons, isWide(spec.inDType()), "quantize: in", "dtype " + spec.inDType(), "F32, F16 or BF16");
        need(reasons, spec.cols() % 8 == 0, "quantize: cols", spec.cols(), "a multiple of 8");
        need(reasons, isServed(spec.scaling()), "quantize: scaling", spec.scaling(), "1x128 or 128x128");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final DequantizeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        need(reasons, isWide(spec.outDType()), "dequantize: out", "dtype " + spec.outDType(), "F32, F16 or BF16");
        need(reasons, spec.cols() % 8 == 0, "dequantize: cols", spec.cols(), "a multiple of 8");
        need(reasons, isServed(spec.scaling()), "dequantize: scaling", spec.scaling(), "1x128 or 128x128");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final SwigluQuantizeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        need(reasons, spec.groups() <= 1024, "swiglu_quantize: groups", spec.groups(), "at most 1024");
        need(reasons, spec.cols() % 8 == 0, "swiglu_quantize: cols", spec.cols(), "a multiple of 8");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final RmsNormQuantizeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        need(
                reasons,
                spec.cols() % 8 == 0 && spec.cols() <= 32_768,
                "rmsnorm_quantize: cols",
                spec.cols(),
                "a multiple of 8 up to 32768");
        need(
                reasons,
                spec.weightDType() == DType.BF16 || spec.weightDType() == DType.F32,
                "rmsnorm_quantize: weight",
                "dtype " + spec.weightDType(),
                "BF16 or F32");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final TransposeQuantizeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        need(reasons, spec.cols() % 8 == 0, "transpose_quantize: cols", spec.cols(), "a multiple of 8");
        return reasons;
    }

    static void need(
            final List<Reason> reasons, final boolean met, final String name, final Object got, final Object needed) {
        if (!met) {
            reasons.add(new Reason(name, got.toString(), needed.toString()));
        }
    }

    private static boolean isWide(final DType type) {
        return type == DType.F32 || type == DType.F16 || type == DType.BF16;
    }

    private static boolean isServed(final Scaling scaling) {
        return scaling.equals(Scaling.ACTIVATION_1X128) || scaling.equals(Scaling.WEIGHT_128X128);
    }

    // ---- operands ----

    /**
     * Checks the operands of a GEMM.
     *
     * @return M, the rows of {@code a}: as many as the spec allows, since kernels read ahead to that
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(
            final GemmSpec spec,
            final Scaled<?> a,
            final Scaled<?> b,
            final @Nullable TensorSpec c,
            final TensorSpec out) {
        final long m = checkFactors(spec, a, b);
        if (spec.quantizedOut()) {
            throw Arguments.bad("gemm: out", out, "values and scales, as the spec's output is quantised");
        }
        if (spec.accumulate()) {
            if (c == null) {
                throw Arguments.bad("gemm: c", "null", "a tensor, as the spec accumulates");
            }
            matrix(
                    "gemm",
                    "c",
                    c,
                    spec.outDType(),
                    m,
                    spec.n(),
                    ROW_BYTES / spec.outDType().size());
        } else if (c != null) {
            throw Arguments.bad("gemm: c", c, "null, as the spec does not accumulate");
        }
        matrix(
                "gemm",
                "out",
                out,
                spec.outDType(),
                m,
                spec.n(),
                ROW_BYTES / spec.outDType().size());
        return m;
    }

    /**
     * Checks the operands of a GEMM with quantised output.
     *
     * @return M, the rows of {@code a}
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(final GemmSpec spec, final Scaled<?> a, final Scaled<?> b, final Scaled<?> out) {
        final long m = checkFactors(spec, a, b);
        if (!spec.quantizedOut()) {
            throw Arguments.bad(
                    "gemm: out", "values and scales", "one tensor, as the spec's output is " + spec.outDType());
        }
        quantized("gemm", "out", out, m, spec.n(), Scaling.ACTIVATION_1X128);
        return m;
    }

    private static long checkFactors(final GemmSpec spec, final Scaled<?> a, final Scaled<?> b) {
        quantized("gemm", "a", a, spec.maxM(), spec.k(), spec.aScaling());
        quantized("gemm", "b", b, spec.n(), spec.k(), spec.bScaling());
        return spec.maxM();
    }

    /**
     * Checks the operands of a quantisation.
     *
     * @return the rows of the operands: as many as the spec allows
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(final QuantizeSpec spec, final TensorSpec in, final Scaled<?> out) {
        matrix("quantize", "in", in, spec.inDType(), spec.maxRows(), spec.cols(), 8);
        quantized("quantize", "out", out, spec.maxRows(), spec.cols(), spec.scaling());
        return spec.maxRows();
    }

    /**
     * Checks the operands of a dequantisation.
     *
     * @return the rows of the operands: as many as the spec allows
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static long check(final DequantizeSpec spec, final Scaled<?> in, final TensorSpec out) {
        quantized("dequantize", "in", in, spec.maxRows(), spec.cols(), spec.scaling());
        matrix("dequantize", "out", out, spec.outDType(), spec.maxRows(), spec.cols(), 8);
        return spec.maxRows();
    }

    /**
     * Checks the operands of SwiGLU and quantisation.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(
            final SwigluQuantizeSpec spec,
            final TensorSpec in,
            final @Nullable TensorSpec weights,
            final @Nullable TensorSpec rowCounts,
            final Scaled<?> out) {
        final String operation = spec.operation();
        matrix(operation, "in", in, DType.BF16, spec.rows(), 2 * spec.cols(), 8);
        vector(operation, "weights", weights, spec.weighted(), DType.F32, spec.rows());
        vector(operation, "rowCounts", rowCounts, spec.masked(), DType.I32, spec.groups());
        quantized(operation, "out", out, spec.rows(), spec.cols(), Scaling.ACTIVATION_1X128);
    }

    /**
     * Checks the operands of RMSNorm and quantisation.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(
            final RmsNormQuantizeSpec spec,
            final TensorSpec in,
            final @Nullable TensorSpec residual,
            final TensorSpec weight,
            final Scaled<?> out,
            final @Nullable TensorSpec normalized) {
        final String operation = spec.operation();
        matrix(operation, "in", in, DType.BF16, spec.maxRows(), spec.cols(), 8);
        optionalRows(spec, "residual", residual, spec.residual());
        vector(operation, "weight", weight, true, spec.weightDType(), spec.cols());
        quantized(operation, "out", out, spec.maxRows(), spec.cols(), Scaling.ACTIVATION_1X128);
        optionalRows(spec, "normalized", normalized, spec.normalized());
    }

    private static void optionalRows(
            final RmsNormQuantizeSpec spec, final String name, final @Nullable TensorSpec rows, final boolean wanted) {
        if (present(spec.operation(), name, rows, wanted) && rows != null) {
            matrix(spec.operation(), name, rows, DType.BF16, spec.maxRows(), spec.cols(), 8);
        }
    }

    /**
     * Checks the operands of transposition and quantisation.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final TransposeQuantizeSpec spec, final TensorSpec in, final Scaled<?> out) {
        matrix(spec.operation(), "in", in, DType.BF16, spec.maxRows(), spec.cols(), 8);
        quantized(spec.operation(), "out", out, spec.cols(), spec.maxRows(), Scaling.ACTIVATION_1X128);
    }

    /** {@return whether there is a tensor, as the spec says there must or must not be} */
    private static boolean present(
            final String operation, final String name, final @Nullable TensorSpec tensor, final boolean wanted) {
        if (wanted != (tensor != null)) {
            throw Arguments.bad(
                    operation + ": " + name,
                    tensor == null ? "null" : tensor,
                    wanted ? "a tensor, as the spec asks for it" : "null, as the spec does not ask for it");
        }
        return wanted;
    }

    /** A contiguous vector, or none where the spec does not want it. */
    static void vector(
            final String operation,
            final String name,
            final @Nullable TensorSpec tensor,
            final boolean wanted,
            final DType dtype,
            final long size) {
        if (!present(operation, name, tensor, wanted) || tensor == null) {
            return;
        }
        if (tensor.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + tensor.dtype(), dtype);
        }
        if (!tensor.shape().equals(Shape.of(size))) {
            throw Arguments.bad(operation + ": " + name, "shape " + tensor.shape(), "[" + size + "]");
        }
        if (!tensor.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, "strides " + tensor.strides(), "a contiguous tensor");
        }
    }

    /**
     * Checks a workspace.
     *
     * @throws IllegalArgumentException if it is missing, too small or not of bytes
     */
    public static void checkWorkspace(final String operation, final @Nullable TensorSpec workspace, final long bytes) {
        if (workspace == null) {
            if (bytes > 0) {
                throw Arguments.bad(operation + ": workspace", "null", "at least " + bytes + " bytes");
            }
            return;
        }
        if (workspace.dtype() != DType.U8 || !workspace.isContiguous()) {
            throw Arguments.bad(operation + ": workspace", workspace, "contiguous U8");
        }
        if (workspace.elements() < bytes) {
            throw Arguments.bad(
                    operation + ": workspace", workspace.elements() + " bytes", "at least " + bytes + " bytes");
        }
    }

    /**
     * Checks the rows of a launch.
     *
     * @throws IllegalArgumentException if there are not that many
     */
    public static void checkRows(final String operation, final long rows, final long bound) {
        if (rows < 0 || rows > bound) {
            throw Arguments.bad(operation + ": rows", rows, "0.." + bound + ", the rows bound");
        }
    }

    /** {@return the layout of a tensor, null where there is none} */
    public static @Nullable TensorSpec specOf(final @Nullable Tensor tensor) {
        return tensor == null ? null : tensor.spec();
    }

    /**
     * {@return the layout of a tensor that must be there}
     *
     * @throws NullPointerException if it is not; the message is its name
     */
    public static TensorSpec specOf(final @Nullable Tensor tensor, final String name) {
        return Objects.requireNonNull(tensor, name).spec();
    }

    // ---- strides ----

    /** {@return elements between the rows of a checked matrix; for one row or none, what a packed matrix of whole units would have} */
    public static long rowStride(final TensorSpec matrix, final int unit) {
        return matrix.shape().size(0) <= 1 || matrix.shape().size(1) == 0
                ? Math.ceilDiv(matrix.shape().size(1), unit) * unit
                : matrix.strides().step(0);
    }

    /** {@return elements between the columns (1x128) or rows (128x128) of checked scales} */
    public static long scaleStride(final TensorSpec scales, final Scaling scaling) {
        if (scaling.equals(Scaling.ACTIVATION_1X128)) {
            return scales.shape().size(1) <= 1
                    ? Math.max(4, Math.ceilDiv(scales.shape().size(0), 4) * 4)
                    : scales.strides().step(1);
        }
        return rowStride(scales, 1);
    }

    private static void quantized(
            final String operation,
            final String name,
            final Scaled<?> scaled,
            final long rows,
            final long cols,
            final Scaling scaling) {
        Objects.requireNonNull(scaled, name);
        if (!scaled.scaling().equals(scaling)) {
            throw Arguments.bad(operation + ": " + name + ".scaling", scaled.scaling(), scaling);
        }
        matrix(operation, name + ".values", scaled.values().spec(), DType.F8_E4M3, rows, cols, 16);
        final TensorSpec scales = scaled.scales().spec();
        if (scaling.equals(Scaling.ACTIVATION_1X128)) {
            columns(operation, name + ".scales", scales);
        } else {
            matrix(
                    operation,
                    name + ".scales",
                    scales,
                    DType.F32,
                    scales.shape().size(0),
                    scales.shape().size(1),
                    1);
        }
    }

    /** Type, shape, packed rows, and rows that start at a multiple of {@code unit} elements. */
    static void matrix(
            final String operation,
            final String name,
            final TensorSpec spec,
            final DType dtype,
            final long rows,
            final long cols,
            final int unit) {
        if (spec.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + spec.dtype(), dtype);
        }
        final Shape shape = spec.shape();
        if (shape.rank() != 2 || shape.size(0) != rows || shape.size(1) != cols) {
            throw Arguments.bad(operation + ": " + name, "shape " + shape, "[" + rows + "," + cols + "]");
        }
        final boolean packed = cols <= 1 || spec.strides().step(1) == 1;
        final long ld = spec.strides().step(0);
        if (!packed || (rows > 1 && cols > 0 && (ld < cols || ld % unit != 0))) {
            final String multiple = unit == 1 ? "" : ", a multiple of " + unit;
            throw Arguments.bad(
                    operation + ": " + name, "strides " + spec.strides(), "[ld,1] with ld at least " + cols + multiple);
        }
    }

    /** Scales of 1x128 blocks: packed columns that start at a multiple of 4 elements, which TMA can read. */
    static void columns(final String operation, final String name, final TensorSpec scales) {
        final long rows = scales.shape().size(0);
        final long blocks = scales.shape().size(1);
        final boolean packed = rows <= 1 || scales.strides().step(0) == 1;
        final long ld = scales.strides().step(1);
        if (!packed || (blocks > 1 && rows > 0 && (ld < rows || ld % 4 != 0))) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "strides " + scales.strides(),
                    "[1,ld] with ld at least " + rows + ", a multiple of 4");
        }
    }
}
