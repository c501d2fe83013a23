package io.hopper4j.cli;

import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Stream;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeLaunch;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaScheduleLaunch;
import io.hopper4j.attention.MlaSoftmaxScale;
import io.hopper4j.reference.AttentionRow;
import io.hopper4j.reference.LatentAttention;
import io.hopper4j.safetensors.SafeTensors;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The reference of attention against transformers' DeepseekV3Attention, in both forms, and against torch's softmax over paged caches, bit for bit. */
final class AttentionGoldenChecks {
    /** The tensors of the file are rounded to F32, what they were computed from was not; outputs are around 0.5. */
    private static final double ROUNDED_TO_F32 = 2e-6;

    private static final String OPERATION = "mla_decode";

    private AttentionGoldenChecks() {}

    /** {@return all checks} */
    static List<GoldenChecks.Check> all() {
        final List<GoldenChecks.Check> checks = new ArrayList<>();
        for (final String name : List.of("plain", "yarn")) {
            checks.add(new GoldenChecks.Check(OPERATION, () -> latentAttention(name)));
        }
        for (final int pageSize : new int[] {1, 16, 64}) {
            checks.add(new GoldenChecks.Check(OPERATION, () -> decode("mla_decode", MlaCacheFormat.BF16, pageSize)));
        }
        checks.add(new GoldenChecks.Check(
                OPERATION, () -> decode("mla_decode_fp8_blocks", MlaCacheFormat.FP8_BLOCKS, 16)));
        checks.add(
                new GoldenChecks.Check(OPERATION, () -> decode("mla_decode_fp8_token", MlaCacheFormat.FP8_TOKEN, 16)));
        return checks;
    }

    private static Row latentAttention(final String name) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, "latent_attention")) {
            final HostTensor tokens = GoldenChecks.tensor(file, name + ".tokens");
            final HostTensor qNope = GoldenChecks.tensor(file, name + ".q_nope");
            final HostTensor qRope = GoldenChecks.tensor(file, name + ".q_rope");
            final HostTensor wUk = GoldenChecks.tensor(file, name + ".w_uk");
            final HostTensor wUv = GoldenChecks.tensor(file, name + ".w_uv");
            final HostTensor out = GoldenChecks.tensor(file, name + ".out");
            final float[] positions =
                    GoldenChecks.tensor(file, name + ".positions").toFloats();
            final int headDim =
                    Math.toIntExact(qNope.shape().size(2) + qRope.shape().size(2));
            final float scale =
                    name.equals("yarn") ? MlaSoftmaxScale.yarn(headDim, 40, 1) : MlaSoftmaxScale.plain(headDim);
            double expandedError = 0;
            double absorbedError = 0;
            for (int i = 0; i < positions.length; i++) {
                final HostTensor seen = tokens.slice(0, 0, (long) positions[i] + 1);
                for (long head = 0; head < out.shape().size(1); head++) {
                    final HostTensor nope = qNope.select(0, i).select(0, head);
                    final HostTensor rope = qRope.select(0, i).select(0, head);
                    final HostTensor toKey = wUk.select(0, head);
                    final HostTensor toValue = wUv.select(0, head);
                    final float[] expected = out.select(0, i).select(0, head).toFloats();
                    expandedError = Math.max(
                            expandedError,
                            distance(LatentAttention.expanded(nope, rope, toKey, toValue, seen, scale), expected));
                    final AttentionRow latent =
                            LatentAttention.absorbed(LatentAttention.absorb(nope, rope, toKey), seen, scale);
                    absorbedError =
                            Math.max(absorbedError, distance(LatentAttention.project(latent, toValue), expected));
                }
            }
            return Row.measured(
                    OPERATION,
                    "transformers, " + name + " scale, " + positions.length + " positions",
                    GoldenChecks.REFERENCE,
                    Double.NaN,
                    new Row.Measure("expanded", expandedError, ROUNDED_TO_F32),
                    new Row.Measure("absorbed", absorbedError, ROUNDED_TO_F32),
                    new Row.Measure(
                            "scale",
                            Math.abs(scale
                                    - GoldenChecks.tensor(file, name + ".scale").getFloat(0)),
                            0));
        }
    }

    private static double distance(final AttentionRow row, final float[] expected) {
        double worst = row.size() == expected.length ? 0 : Double.NaN;
        for (int d = 0; d < expected.length; d++) {
            worst = Math.max(worst, Math.abs(row.value(d) - expected[d])); // NaN stays
        }
        return worst;
    }

    private static Row decode(final String fileName, final MlaCacheFormat format, final int pageSize) {
        try (Arena arena = Arena.ofConfined();
                SafeTensors file = GoldenChecks.open(arena, fileName);
                Kernels<HostTensor> kernels = Kernels.reference();
                Stream stream = kernels.openStream()) {
            final String prefix = "out." + pageSize + ".";
            long differing = 0;
            int cases = 0;
            for (final String name : file.names()) {
                if (name.startsWith(prefix)) {
                    final String lse = "lse." + name.substring("out.".length());
                    differing += decode(arena, file, format, kernels, stream, name, lse);
                    cases++;
                }
            }
            return GoldenChecks.differences(
                    OPERATION, format + ", pages of " + pageSize + ", " + cases + " masks", cases, differing);
        }
    }

    /** Decodes as the name of an output says, {@code out.pageSize.causal.window.sink.ragged}, and counts what differs. */
    private static long decode(
            final Arena arena,
            final SafeTensors file,
            final MlaCacheFormat format,
            final Kernels<HostTensor> kernels,
            final Stream stream,
            final String outName,
            final String lseName) {
        final String[] parts = outName.split("\\.", -1);
        final int pageSize = Integer.parseInt(parts[1]);
        final HostTensor q = GoldenChecks.tensor(file, "q");
        final HostTensor slots = GoldenChecks.tensor(file, "cache");
        final HostTensor table = GoldenChecks.tensor(file, "table." + pageSize);
        final HostTensor lengths = GoldenChecks.tensor(file, "lengths");
        final HostTensor qTokens = parts[5].equals("1") ? GoldenChecks.tensor(file, "q_tokens") : null;
        final long batch = q.shape().size(0);
        final int sQ = Math.toIntExact(q.shape().size(1));
        final int heads = Math.toIntExact(q.shape().size(2));
        final long pages = slots.shape().size(0) / pageSize;
        final MlaDecodeSpec spec = MlaDecodeSpec.of(
                        heads, pageSize, batch, table.shape().size(1) * pageSize, pages)
                .withSQ(sQ)
                .withCausal(parts[2].equals("1"))
                .withWindow(Integer.parseInt(parts[3]))
                .withCacheFormat(format)
                .withSoftmaxScale(GoldenChecks.tensor(file, "scale").getFloat(0));
        final HostTensor out = HostTensor.allocate(arena, DType.BF16, batch, sQ, heads, VALUE_DIM);
        final HostTensor lse = HostTensor.allocate(arena, DType.F32, batch, heads, sQ);
        // What is not in use is not written; the file holds 0 and infinity there.
        final float[] infinite = lse.toFloats();
        Arrays.fill(infinite, Float.POSITIVE_INFINITY);
        lse.setFloats(infinite);
        try (MlaDecodePlan<HostTensor> plan = kernels.plan(spec)) {
            final HostTensor schedule = HostTensor.allocate(arena, DType.U8, plan.scheduleBytes());
            final MlaDecodeOperands<HostTensor> operands = MlaDecodeOperands.<HostTensor>builder()
                    .q(q)
                    .cache(slots.reshape(pages, pageSize, format.tokenSize()))
                    .blockTable(table)
                    .lengths(lengths)
                    .qTokens(qTokens)
                    .sink(parts[4].equals("1") ? GoldenChecks.tensor(file, "sink") : null)
                    .schedule(schedule)
                    .out(out)
                    .lse(lse)
                    .build();
            try (MlaScheduleLaunch<HostTensor> first = plan.bindSchedule(lengths, qTokens, schedule);
                    MlaDecodeLaunch<HostTensor> then = plan.bind(operands)) {
                first.launch(stream);
                then.launch(stream);
            }
        }
        return HostData.differing(out, GoldenChecks.tensor(file, outName))
                + HostData.differing(lse, GoldenChecks.tensor(file, lseName));
    }
}
