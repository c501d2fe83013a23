package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.safetensors.SafeTensors;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import java.util.zip.GZIPInputStream;

/**
 * The Java reference against results of torch and ml_dtypes, bit for bit. {@code ci/golden} makes the files and describes them; they are resources of
 * this module.
 */
final class GoldenChecks {
    static final String REFERENCE = "reference";

    /**
     * One check, run when its row is asked for.
     *
     * @param operation what is checked
     * @param row runs it
     */
    record Check(String operation, Supplier<Row> row) {}

    private GoldenChecks() {}

    /** {@return all checks} */
    static List<Check> all() {
        final List<Check> checks = new ArrayList<>();
        for (final DType type : List.of(DType.F8_E4M3, DType.F8_E5M2)) {
            checks.add(new Check("convert", () -> everyBf16(type)));
            checks.add(new Check("convert", () -> seededFloats(type)));
        }
        for (final Scaling.Block block : List.of(Scaling.ACTIVATION_1X128, Scaling.WEIGHT_128X128)) {
            for (final ScaleKind kind : ScaleKind.values()) {
                checks.add(new Check("quantize", () -> quantized(block, kind)));
            }
            checks.add(new Check("dequantize", () -> dequantized(block)));
        }
        for (final DType out : List.of(DType.F32, DType.BF16)) {
            checks.add(new Check("gemm", () -> products("d", out)));
            checks.add(new Check("gemm", () -> products("dc", out)));
        }
        checks.addAll(AttentionGoldenChecks.all());
        checks.addAll(FusedGoldenChecks.all());
        checks.addAll(MoeGoldenChecks.all());
        return checks;
    }

    static SafeTensors open(final Arena arena, final String name) {
        final String resource = "/golden/" + name + ".safetensors.gz";
        try (InputStream packed = GoldenChecks.class.getResourceAsStream(resource)) {
            if (packed == null) {
                throw new IllegalStateException("golden: got no resource " + resource + ", need it in the jar");
            }
            final byte[] bytes = new GZIPInputStream(packed).readAllBytes();
            final MemorySegment segment = arena.allocate(bytes.length, 64);
            MemorySegment.copy(bytes, 0, segment, ValueLayout.JAVA_BYTE, 0, bytes.length);
            return SafeTensors.of(segment, Path.of(name + ".safetensors"));
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static HostTensor tensor(final SafeTensors file, final String name) {
        try {
            return file.tensor(name);
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static Row differences(final String operation, final String shape, final int cases, final long differing) {
        if (cases == 0) {
            throw new IllegalStateException("golden: " + operation + ": got no tensors of " + shape + ", need some");
        }
        return Row.measured(
                operation, shape, REFERENCE, Double.NaN, new Row.Measure("differing", (double) differing, 0));
    }

    // ---- conversion ----

    private static Row everyBf16(final DType type) {
        final float[] values = new float[1 << 16];
        for (int bits = 0; bits < values.length; bits++) {
            values[bits] = Float.intBitsToFloat(bits << 16);
        }
        return converted("every BF16 -> " + type, "bf16", type, values);
    }

    private static Row seededFloats(final DType type) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = open(arena, "conversion")) {
            final SplitMix64 random =
                    new SplitMix64(Long.parseLong(file.metadata().getOrDefault("seed", "")));
            final float[] values = new float[1 << 20];
            for (int i = 0; i < values.length; i++) {
                values[i] = seededFloat(random.next());
            }
            return converted("2^20 F32 -> " + type, "f32", type, values);
        }
    }

    /** The FP32 number that the generator makes of a random one; {@code seeded_floats} in {@code ci/golden/generate.py} explains it. */
    private static float seededFloat(final long z) {
        int bits = (int) (z >>> 32);
        if ((z & 1) != 0) {
            final int exponent = 105 + (int) (((z >>> 2) & 63) % 44);
            bits = (bits & 0x807F_FFFF) | (exponent << 23);
            if ((z & 2) != 0) {
                bits &= 0xFFFC_0000;
            }
        }
        return Float.intBitsToFloat(bits);
    }

    private static Row converted(final String shape, final String source, final DType type, final float[] values) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = open(arena, "conversion")) {
            final HostTensor converted = HostTensor.allocate(arena, type, values.length);
            converted.setFloats(values);
            final HostTensor codes = HostTensor.wrap(converted.segment(), TensorSpec.packed(DType.U8, values.length));
            final String name = source + (type == DType.F8_E4M3 ? ".e4m3" : ".e5m2");
            return differences("convert", shape, values.length, HostData.differing(codes, tensor(file, name)));
        }
    }

    // ---- quantisation ----

    private static Row quantized(final Scaling.Block block, final ScaleKind kind) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = open(arena, "quantize");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            long differing = 0;
            int cases = 0;
            for (final String name : file.names()) {
                if (!name.startsWith("in." + block.rows() + ".")) {
                    continue;
                }
                final String rest = name.substring("in".length());
                final HostTensor source = tensor(file, name);
                final long rows = source.shape().size(0);
                final long cols = source.shape().size(1);
                final HostTensor in = HostData.matrix(arena, source.dtype(), rows, cols);
                HostData.copy(source, in);
                final Scaled<HostTensor> out = HostData.quantized(arena, block, rows, cols);
                kernels.quantize(in, kind, out, stream);
                differing += HostData.differing(out.values(), tensor(file, "values." + kind + rest));
                differing += HostData.differing(out.scales(), tensor(file, "scales." + kind + rest));
                cases++;
            }
            return differences("quantize", block + " " + kind + " scales, " + cases + " tensors", cases, differing);
        }
    }

    private static Row dequantized(final Scaling.Block block) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = open(arena, "quantize");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            long differing = 0;
            int cases = 0;
            for (final ScaleKind kind : ScaleKind.values()) {
                final String prefix = "values." + kind;
                for (final String name : file.names()) {
                    if (!name.startsWith(prefix + "." + block.rows() + ".")) {
                        continue;
                    }
                    final String rest = name.substring(prefix.length());
                    final HostTensor values = tensor(file, name);
                    final HostTensor expected = tensor(file, "back." + kind + rest);
                    final long rows = values.shape().size(0);
                    final long cols = values.shape().size(1);
                    final Scaled<HostTensor> in = HostData.quantized(arena, block, rows, cols);
                    HostData.copy(values, in.values());
                    HostData.copy(tensor(file, "scales." + kind + rest), in.scales());
                    final HostTensor out = HostData.matrix(arena, expected.dtype(), rows, cols);
                    kernels.dequantize(in, out, stream);
                    differing += HostData.differing(out, expected);
                    cases++;
                }
            }
            return differences("dequantize", block + ", " + cases + " tensors", cases, differing);
        }
    }

    // ---- product ----

    /** All products of one kind: {@code d} without C, {@code dc} with it. */
    private static Row products(final String kind, final DType outType) {
        final String tag = outType == DType.F32 ? "f32" : "bf16";
        final String prefix = kind + "." + tag + ".";
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = open(arena, "gemm");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            long differing = 0;
            int cases = 0;
            for (final String name : file.names()) {
                if (!name.startsWith(prefix)) {
                    continue;
                }
                final String[] mnk = name.substring(prefix.length()).split("\\.", -1);
                final long m = Long.parseLong(mnk[0]);
                final long n = Long.parseLong(mnk[1]);
                final long k = Long.parseLong(mnk[2]);
                final Scaled<HostTensor> a = HostData.quantized(arena, Scaling.ACTIVATION_1X128, m, k);
                final Scaled<HostTensor> b = HostData.quantized(arena, Scaling.WEIGHT_128X128, n, k);
                HostData.copy(tensor(file, "a." + m + "." + k), a.values());
                HostData.copy(tensor(file, "sa." + m + "." + k), a.scales());
                HostData.copy(tensor(file, "b." + n + "." + k), b.values());
                HostData.copy(tensor(file, "sb." + n + "." + k), b.scales());
                final HostTensor out = HostData.matrix(arena, outType, m, n);
                if (kind.equals("dc")) {
                    HostData.copy(tensor(file, "c." + m + "." + n), out); // C may be D
                    kernels.gemm(a, b, out, out, stream);
                } else {
                    kernels.gemm(a, b, out, stream);
                }
                differing += HostData.differing(out, tensor(file, name));
                cases++;
            }
            final String shape = outType + (kind.equals("dc") ? " accumulate, " : ", ") + cases + " shapes";
            return differences("gemm", shape, cases, differing);
        }
    }
}
