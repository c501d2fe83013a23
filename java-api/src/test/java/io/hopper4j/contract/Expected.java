package io.hopper4j.contract;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** The formulas of the specs, one element at a time. */
final class Expected {
    private Expected() {}

    /** Quantises: E4M3 rounding is that of {@link HostTensor#setFloat}, which golden files of other software check. */
    static Scaled<HostTensor> quantize(
            final HostTensor in, final Scaling.Block block, final ScaleKind kind, final Arena arena) {
        final long rows = in.shape().size(0);
        final long cols = in.shape().size(1);
        final HostTensor values = HostTensor.allocate(arena, DType.F8_E4M3, rows, cols);
        final TensorSpec scaleSpec = Backend.scaleSpec(block, rows, cols);
        final HostTensor scales = HostTensor.allocate(arena, scaleSpec);
        for (long i = 0; i < scaleSpec.shape().size(0); i++) {
            for (long j = 0; j < scaleSpec.shape().size(1); j++) {
                final long bottom = Math.min(rows, (i + 1) * block.rows());
                final long right = Math.min(cols, (j + 1) * block.cols());
                float amax = 1e-4f;
                for (long r = i * block.rows(); r < bottom; r++) {
                    for (long c = j * block.cols(); c < right; c++) {
                        final float x = in.getFloat(r, c);
                        amax = Float.isNaN(x) ? amax : Math.max(amax, Math.abs(x));
                    }
                }
                final float scale = scale(amax, kind);
                scales.setFloat(scale, i, j);
                for (long r = i * block.rows(); r < bottom; r++) {
                    for (long c = j * block.cols(); c < right; c++) {
                        values.setFloat(in.getFloat(r, c) / scale, r, c);
                    }
                }
            }
        }
        return new Scaled<>(values, scales, block);
    }

    private static float scale(final float amax, final ScaleKind kind) {
        final float scale = amax * (1 / 448f);
        if (kind == ScaleKind.F32) {
            return scale;
        }
        // The least power of two that is not smaller, found by trying.
        int exponent = Math.getExponent(scale);
        while (Math.scalb(1f, exponent) < scale) {
            exponent++;
        }
        return Math.scalb(1f, exponent);
    }

    /** Gives a quantised matrix its size back. */
    static HostTensor dequantize(final Scaled<HostTensor> in, final DType outDType, final Arena arena) {
        final Scaling.Block block = (Scaling.Block) in.scaling();
        final HostTensor out = HostTensor.allocate(arena, outDType, in.rows(), in.cols());
        for (long r = 0; r < in.rows(); r++) {
            for (long c = 0; c < in.cols(); c++) {
                out.setFloat(
                        in.values().getFloat(r, c) * in.scales().getFloat(r / block.rows(), c / block.cols()), r, c);
            }
        }
        return out;
    }

    /** An element of an exact product. */
    @FunctionalInterface
    private interface Element {
        void visit(int row, int col, double value, double magnitude);
    }

    /** The exact product against an output; the first {@code rows} rows count. */
    static GemmTolerance.Result gemmError(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final long rows) {
        final int n = Math.toIntExact(b.rows());
        final float[] got = out.toFloats();
        final GemmTolerance tolerance = GemmTolerance.of(out.dtype());
        product(a, b, c, rows, (i, j, value, magnitude) -> tolerance.add(got[i * n + j], value, magnitude));
        return tolerance.result();
    }

    /** The exact product against quantised output; the first {@code rows} rows count. */
    static QuantizeTolerance quantizedGemmError(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final Scaled<HostTensor> out,
            final ScaleKind kind,
            final long rows) {
        final int n = Math.toIntExact(b.rows());
        final GemmTolerance sums = GemmTolerance.of(DType.F32);
        final double[] exact = new double[Math.toIntExact(rows * n)];
        final double[] slack = new double[exact.length];
        product(a, b, null, rows, (i, j, value, magnitude) -> {
            exact[i * n + j] = value;
            slack[i * n + j] = sums.bound(value, magnitude);
        });
        final float[] got = out.values().toFloats();
        final QuantizeTolerance tolerance = new QuantizeTolerance(kind);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < n; j += 128) {
                final int from = i * n + j;
                final int to = i * n + Math.min(j + 128, n);
                tolerance.add(
                        Arrays.copyOfRange(got, from, to),
                        out.scales().getFloat(i, j / 128),
                        Arrays.copyOfRange(exact, from, to),
                        Arrays.copyOfRange(slack, from, to));
            }
        }
        return tolerance;
    }

    private static void product(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final long rows,
            final Element element) {
        final int k = Math.toIntExact(a.cols());
        final int n = Math.toIntExact(b.rows());
        final int blocks = Math.ceilDiv(k, 128);
        final float[] av = a.values().toFloats();
        final float[] bv = b.values().toFloats();
        final float[] as = a.scales().toFloats();
        final float[] bs = b.scales().toFloats();
        final float[] cv = c == null ? new float[0] : c.toFloats();
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < n; j++) {
                double sum = c == null ? 0 : cv[i * n + j];
                double magnitude = Math.abs(sum);
                for (int kb = 0; kb < blocks; kb++) {
                    final double scale = (double) as[i * blocks + kb] * bs[j / 128 * blocks + kb];
                    for (int x = kb * 128; x < Math.min(k, kb * 128 + 128); x++) {
                        final double product = (double) av[i * k + x] * bv[j * k + x] * scale;
                        sum += product;
                        magnitude += Math.abs(product);
                    }
                }
                element.visit(i, j, sum, magnitude);
            }
        }
    }

    /** The exact product of two matrices with 1x128 scales against an output. */
    static GemmTolerance.Result columnScaledError(
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final @Nullable HostTensor c,
            final HostTensor out) {
        final GemmTolerance tolerance = GemmTolerance.of(out.dtype());
        for (int i = 0; i < a.rows(); i++) {
            for (int j = 0; j < b.rows(); j++) {
                double sum = c == null ? 0 : c.getFloat(i, j);
                double magnitude = Math.abs(sum);
                for (int x = 0; x < a.cols(); x++) {
                    final double scale = (double) a.scales().getFloat(i, x / 128)
                            * b.scales().getFloat(j, x / 128);
                    final double product =
                            (double) a.values().getFloat(i, x) * b.values().getFloat(j, x) * scale;
                    sum += product;
                    magnitude += Math.abs(product);
                }
                tolerance.add(out.getFloat(i, j), sum, magnitude);
            }
        }
        return tolerance.result();
    }

    /** The exact product of BF16 rows against an output: row {@code i} of A meets the B that begins at row {@code bRow[i]}, -1: not in use. */
    static GemmTolerance.Result bf16GemmError(
            final HostTensor a,
            final HostTensor b,
            final @Nullable HostTensor c,
            final HostTensor out,
            final int n,
            final int[] bRow) {
        final int k = Math.toIntExact(a.shape().size(a.shape().rank() - 1));
        final float[] av = a.toFloats();
        final float[] bv = b.toFloats();
        final float[] cv = c == null ? new float[0] : c.toFloats();
        final float[] got = out.toFloats();
        final GemmTolerance tolerance = GemmTolerance.ofBf16(out.dtype(), k);
        for (int i = 0; i < bRow.length; i++) {
            for (int j = 0; bRow[i] >= 0 && j < n; j++) {
                double sum = c == null ? 0 : cv[i * n + j];
                double magnitude = Math.abs(sum);
                for (int x = 0; x < k; x++) {
                    final double product = (double) av[i * k + x] * bv[(bRow[i] + j) * k + x];
                    sum += product;
                    magnitude += Math.abs(product);
                }
                tolerance.add(got[i * n + j], sum, magnitude);
            }
        }
        return tolerance.result();
    }

    /** The bits of all elements in row-major order, so that NaN and signed zeros count. */
    static int[] bits(final HostTensor tensor) {
        final float[] values = tensor.toFloats();
        final int[] bits = new int[values.length];
        Arrays.setAll(bits, i -> Float.floatToRawIntBits(values[i]));
        return bits;
    }
}
