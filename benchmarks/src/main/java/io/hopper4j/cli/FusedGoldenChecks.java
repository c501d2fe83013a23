package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteLaunch;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.RopeTable;
import io.hopper4j.quant.RmsNormQuantizeLaunch;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeLaunch;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.safetensors.SafeTensors;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/**
 * The reference of what is fused with quantisation against torch, bit for bit, and of cache writing against transformers' norm and rotary embedding,
 * which computes in FP32.
 */
final class FusedGoldenChecks {
    /** Rounding to BF16, and a few units of F32 in what the file holds. */
    private static final double BF16_BOUND = 0x1.01p-8;

    /** Angles were rounded to F32 before their cosine was taken. */
    private static final double ANGLE_BOUND = 0x1p-23;

    private FusedGoldenChecks() {}

    /** {@return all checks} */
    static List<GoldenChecks.Check> all() {
        final List<GoldenChecks.Check> checks = new ArrayList<>();
        for (final ScaleKind kind : ScaleKind.values()) {
            for (final boolean second : new boolean[] {false, true}) {
                checks.add(new GoldenChecks.Check("swiglu_quantize", () -> swiglu(kind, second)));
                checks.add(new GoldenChecks.Check("rmsnorm_quantize", () -> rmsNorm(kind, second)));
            }
        }
        for (final String name : List.of("plain", "yarn")) {
            checks.add(new GoldenChecks.Check("mla_cache_write", () -> latentCache(name)));
        }
        return checks;
    }

    /** The part of the names of a file's tensors that says their size. */
    private static List<String> sizes(final SafeTensors file, final String prefix) {
        return file.names().stream()
                .filter(name -> name.startsWith(prefix))
                .map(name -> name.substring(prefix.length()))
                .toList();
    }

    private static HostTensor copy(final Arena arena, final HostTensor source) {
        final HostTensor copy = HostData.matrix(
                arena, source.dtype(), source.shape().size(0), source.shape().size(1));
        HostData.copy(source, copy);
        return copy;
    }

    private static long differing(
            final SafeTensors file,
            final String name,
            final ScaleKind kind,
            final String size,
            final Scaled<HostTensor> out) {
        return HostData.differing(out.values(), GoldenChecks.tensor(file, name + ".values." + kind + "." + size))
                + HostData.differing(out.scales(), GoldenChecks.tensor(file, name + ".scales." + kind + "." + size));
    }

    private static Row swiglu(final ScaleKind kind, final boolean weighted) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, "fused_quantize");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            long differing = 0;
            final List<String> sizes = sizes(file, "swiglu.in.");
            for (final String size : sizes) {
                final HostTensor in = copy(arena, GoldenChecks.tensor(file, "swiglu.in." + size));
                final long rows = in.shape().size(0);
                final long cols = in.shape().size(1) / 2;
                final Scaled<HostTensor> out = HostData.quantized(arena, Scaling.ACTIVATION_1X128, rows, cols);
                final SwigluQuantizeSpec spec =
                        SwigluQuantizeSpec.of(rows, cols).withWeights(weighted).withScaleKind(kind);
                final HostTensor weights = GoldenChecks.tensor(file, "swiglu.weights." + size);
                try (SwigluQuantizePlan<HostTensor> plan = kernels.plan(spec);
                        SwigluQuantizeLaunch<HostTensor> launch = plan.bind(in, weighted ? weights : null, null, out)) {
                    launch.launch(stream);
                }
                differing += differing(file, weighted ? "swiglu.weighted" : "swiglu.plain", kind, size, out);
            }
            return GoldenChecks.differences(
                    "swiglu_quantize",
                    kind + " scales" + (weighted ? ", weighted, " : ", ") + sizes.size() + " sizes",
                    sizes.size(),
                    differing);
        }
    }

    private static Row rmsNorm(final ScaleKind kind, final boolean withResidual) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, "fused_quantize");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            long differing = 0;
            final List<String> sizes = sizes(file, "rmsnorm.in.");
            for (final String size : sizes) {
                final HostTensor in = copy(arena, GoldenChecks.tensor(file, "rmsnorm.in." + size));
                final HostTensor residual = copy(arena, GoldenChecks.tensor(file, "rmsnorm.residual." + size));
                final long rows = in.shape().size(0);
                final long cols = in.shape().size(1);
                final Scaled<HostTensor> out = HostData.quantized(arena, Scaling.ACTIVATION_1X128, rows, cols);
                final HostTensor normalized = HostData.matrix(arena, DType.BF16, rows, cols);
                final RmsNormQuantizeSpec spec = RmsNormQuantizeSpec.of(rows, cols)
                        .withResidual(withResidual)
                        .withNormalized(!withResidual)
                        .withScaleKind(kind);
                try (RmsNormQuantizePlan<HostTensor> plan = kernels.plan(spec);
                        RmsNormQuantizeLaunch<HostTensor> launch = plan.bind(
                                in,
                                withResidual ? residual : null,
                                GoldenChecks.tensor(file, "rmsnorm.weight." + size),
                                out,
                                withResidual ? null : normalized)) {
                    launch.launch(stream);
                }
                differing += differing(file, withResidual ? "rmsnorm.residual" : "rmsnorm.plain", kind, size, out);
                differing += withResidual
                        ? HostData.differing(residual, GoldenChecks.tensor(file, "rmsnorm.sum." + size))
                        : HostData.differing(normalized, GoldenChecks.tensor(file, "rmsnorm.normalized." + size));
            }
            return GoldenChecks.differences(
                    "rmsnorm_quantize",
                    kind + " scales" + (withResidual ? ", residual, " : ", ") + sizes.size() + " sizes",
                    sizes.size(),
                    differing);
        }
    }

    /** Tokens at the positions of the file, each in a page of its own, and the table of angles itself. */
    private static Row latentCache(final String name) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, "latent_cache");
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            final HostTensor positions = GoldenChecks.tensor(file, "positions");
            final int count = Math.toIntExact(positions.shape().size(0));
            final long length = (long) positions.getFloat(count - 1) + 1;
            final HostTensor rope = name.equals("yarn")
                    ? RopeTable.yarn(arena, length, 10_000, 40, 4096, 32, 1)
                    : RopeTable.plain(arena, length, 10_000);
            final HostTensor angles = GoldenChecks.tensor(file, name + ".rope");
            double worstAngle = 0;
            for (int t = 0; t < count; t++) {
                final float position = positions.getFloat(t);
                final float[] expected = angles.select(0, t).toFloats();
                final float[] got = rope.select(0, (long) position).toFloats();
                for (int i = 0; i < expected.length; i++) {
                    worstAngle =
                            Math.max(worstAngle, Math.abs(got[i] - expected[i]) / (ANGLE_BOUND * (2 + 2 * position)));
                }
            }
            // The file's own angles, so that they do not count twice.
            for (int t = 0; t < count; t++) {
                rope.select(0, (long) positions.getFloat(t))
                        .setFloats(angles.select(0, t).toFloats());
            }
            final MlaCacheWriteSpec spec = MlaCacheWriteSpec.of(MlaDecodeSpec.of(1, 1, 1, length, length))
                    .withMaxTokens(count);
            final HostTensor table = HostTensor.allocate(arena, DType.I32, 1, length);
            for (long page = 0; page < length; page++) {
                table.setFloat((float) (length - 1 - page), 0, page);
            }
            final HostTensor cache = HostTensor.allocate(
                    arena, TensorSpec.packed(DType.BF16, length, 1, MlaCacheFormat.BF16.tokenSize()));
            final HostTensor requests = HostTensor.allocate(arena, DType.I32, count);
            try (MlaCacheWritePlan<HostTensor> plan = kernels.plan(spec);
                    MlaCacheWriteLaunch<HostTensor> launch = plan.bind(new MlaCacheWriteOperands<>(
                            GoldenChecks.tensor(file, name + ".in"),
                            GoldenChecks.tensor(file, name + ".weight"),
                            rope,
                            positions,
                            requests,
                            table,
                            cache))) {
                launch.launch(stream);
            }
            double worstLatent = 0;
            double worstRope = 0;
            for (int t = 0; t < count; t++) {
                final float[] expected =
                        GoldenChecks.tensor(file, name + ".tokens").select(0, t).toFloats();
                final float[] got = cache.select(0, length - 1 - (long) positions.getFloat(t))
                        .select(0, 0)
                        .toFloats();
                for (int i = 0; i < TOKEN_DIM; i++) {
                    final double ratio = Math.abs(got[i] - expected[i]) / (BF16_BOUND * Math.abs(expected[i]));
                    if (i < VALUE_DIM) {
                        worstLatent = Math.max(worstLatent, ratio);
                    } else {
                        worstRope = Math.max(worstRope, ratio);
                    }
                }
            }
            return Row.measured(
                    "mla_cache_write",
                    "transformers, " + name + " positions, " + count + " tokens",
                    GoldenChecks.REFERENCE,
                    Double.NaN,
                    new Row.Measure("latent", worstLatent, 1),
                    new Row.Measure("rope", worstRope, 1),
                    new Row.Measure("angles", worstAngle, 1));
        }
    }
}
