package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.internal.codec.Bf16;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeSpec;
import java.lang.foreign.Arena;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * What is computed on the way to a quantised matrix: SwiGLU, RMSNorm, transposition. Numbers are computed in {@code double}, rounded once to F32, and
 * quantised by {@link BlockQuantization}.
 */
public final class FusedQuantization {
    /** Rows computed at a time. */
    private static final int CHUNK = 128;

    private FusedQuantization() {}

    /** A row before quantisation. */
    @FunctionalInterface
    private interface Row {
        double[] compute(int row);
    }

    /** Computes rows in parallel, rounds them to F32 and quantises them. Memory of a confined arena is touched by this thread only. */
    private static void quantize(
            final long first, final int rows, final Row row, final Scaled<HostTensor> out, final ScaleKind kind) {
        final double[][] computed =
                IntStream.range(0, rows).parallel().mapToObj(row::compute).toArray(double[][]::new);
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor wide = HostTensor.allocate(arena, DType.F32, rows, out.cols());
            for (int r = 0; r < rows; r++) {
                wide.select(0, r).setFloats(rounded(computed[r]));
            }
            BlockQuantization.quantize(wide, rowsOf(out, first, first + rows), kind);
        }
    }

    static float[] rounded(final double... values) {
        final float[] floats = new float[values.length];
        for (int i = 0; i < values.length; i++) {
            floats[i] = (float) values[i];
        }
        return floats;
    }

    private static Scaled<HostTensor> rowsOf(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(matrix.values().slice(0, from, to), matrix.scales().slice(0, from, to), matrix.scaling());
    }

    // ---- SwiGLU ----

    /**
     * {@return SwiGLU of one row (Shazeer, arXiv 2002.05202, equation 6, with the products already made): {@code g / (1 + exp(-g)) * u * weight}}
     *
     * @param gateAndUp the gate's columns, then as many of the up projection
     * @param weight of the row; 1 for none
     */
    public static double[] swiglu(final float[] gateAndUp, final float weight) {
        final int cols = gateAndUp.length / 2;
        final double[] v = new double[cols];
        for (int c = 0; c < cols; c++) {
            final double gate = gateAndUp[c];
            v[c] = gate / (1 + Math.exp(-gate)) * gateAndUp[cols + c] * weight;
        }
        return v;
    }

    /**
     * SwiGLU and quantisation.
     *
     * @param spec the operation
     * @param in {@code [groups * maxRows, 2 * cols]}
     * @param weights {@code [groups * maxRows]}, or null
     * @param rowCounts {@code [groups]}, or null
     * @param out {@code [groups * maxRows, cols]}; the rows in use are overwritten
     * @param used rows in use, or, where there are counts, what they may be at most
     * @throws IllegalArgumentException if a count is not in 0..used; all groups are done before
     */
    public static void swigluQuantize(
            final SwigluQuantizeSpec spec,
            final HostTensor in,
            final @Nullable HostTensor weights,
            final @Nullable HostTensor rowCounts,
            final Scaled<HostTensor> out,
            final long used) {
        DeviceFault fault = DeviceFault.NONE;
        if (used == 0) {
            return; // nothing is launched, and no count is read
        }
        for (long group = 0; group < spec.groups(); group++) {
            final long count = rowCounts == null ? used : PagedLatentAttention.integer(rowCounts, group);
            if (count < 0 || count > used) {
                fault = fault.or(spec.operation(), "row_counts", group, count, used);
            }
            final long begin = group * spec.maxRows();
            final long end = begin + Math.clamp(count, 0, used);
            for (long first = begin; first < end; first += CHUNK) {
                final int rows = (int) Math.min(CHUNK, end - first);
                final float[][] x = rows(in, first, rows);
                final float[] w = weights == null
                        ? new float[0]
                        : weights.slice(0, first, first + rows).toFloats();
                quantize(first, rows, r -> swiglu(x[r], w.length == 0 ? 1 : w[r]), out, spec.scaleKind());
            }
        }
        fault.throwIfAny();
    }

    private static float[][] rows(final HostTensor matrix, final long first, final int count) {
        final float[][] rows = new float[count][];
        for (int r = 0; r < count; r++) {
            rows[r] = matrix.select(0, first + r).toFloats();
        }
        return rows;
    }

    // ---- RMSNorm ----

    /**
     * RMSNorm and quantisation.
     *
     * @param spec the operation
     * @param in {@code [rows, cols]}
     * @param residual {@code [rows, cols]}, overwritten by the sum; or null
     * @param weight {@code [cols]}
     * @param out {@code [rows, cols]}; overwritten
     * @param normalized {@code [rows, cols]}; overwritten; or null
     */
    public static void rmsNormQuantize(
            final RmsNormQuantizeSpec spec,
            final HostTensor in,
            final @Nullable HostTensor residual,
            final HostTensor weight,
            final Scaled<HostTensor> out,
            final @Nullable HostTensor normalized) {
        final float[] w = weight.toFloats();
        for (long first = 0; first < out.rows(); first += CHUNK) {
            final int rows = (int) Math.min(CHUNK, out.rows() - first);
            final float[][] x = rows(in, first, rows);
            if (residual != null) {
                final float[][] addend = rows(residual, first, rows);
                for (int r = 0; r < rows; r++) {
                    for (int c = 0; c < x[r].length; c++) {
                        x[r][c] = Bf16.toFloat(Bf16.fromFloat(x[r][c] + addend[r][c]));
                    }
                    residual.select(0, first + r).setFloats(x[r]);
                }
            }
            quantize(first, rows, r -> RmsNorm.normalize(x[r], w, spec.eps()), out, spec.scaleKind());
            if (normalized != null) {
                for (int r = 0; r < rows; r++) {
                    normalized.select(0, first + r).setFloats(roundedToBf16(RmsNorm.normalize(x[r], w, spec.eps())));
                }
            }
        }
    }

    static float[] roundedToBf16(final double... values) {
        final float[] floats = new float[values.length];
        for (int i = 0; i < values.length; i++) {
            floats[i] = Bf16.toFloat(Bf16.fromDouble(values[i]));
        }
        return floats;
    }

    // ---- transposition ----

    /**
     * Transposition and quantisation: {@link BlockQuantization#quantize} of the transposed matrix.
     *
     * @param in {@code [rows, cols]}
     * @param out {@code [cols, rows]}; overwritten
     * @param kind of the scales
     */
    public static void transposeQuantize(final HostTensor in, final Scaled<HostTensor> out, final ScaleKind kind) {
        BlockQuantization.quantize(in.transpose(0, 1), out, kind);
    }
}
