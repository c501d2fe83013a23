package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.moe.PermuteLaunch;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteLaunch;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import java.lang.foreign.Arena;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Rows to experts, or BF16 rows to experts and back, against the reference, bit for bit.
 *
 * @param spec of the way there
 * @param back of the way back; null: only the way there is run
 * @param tokens tokens in use
 * @param dropped how many of 100 ids are -1
 * @param seed of the operands
 */
record ExpertRowsCase(PermuteSpec spec, @Nullable UnpermuteSpec back, long tokens, long dropped, long seed)
        implements VerifyCase {
    @Override
    public String operation() {
        return back == null ? spec.operation() : back.operation();
    }

    @Override
    public String shape() {
        return "t=%s h=%d e=%d top %d %s->%s aligned %d%s%s"
                .formatted(
                        HostData.rows(tokens, spec.maxTokens()),
                        spec.hidden(),
                        spec.experts(),
                        spec.topK(),
                        spec.inDType(),
                        spec.outDType(),
                        spec.alignment(),
                        dropped == 0 ? "" : " dropped " + dropped + "%",
                        back == null
                                ? ""
                                : (back.weighted() ? " weighted" : "") + (back.residual() ? " residual" : ""));
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena();
                Kernels<HostTensor> reference = Kernels.reference();
                Stream here = reference.openStream();
                PermutePlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                PermutePlan<HostTensor> exact = reference.plan(spec)) {
            final PermuteOperands<HostTensor> x = operands(host, random);
            final PermuteOperands<DeviceTensor> there = new PermuteOperands<>(
                    arena.copyOf(x.ids(), gpu.stream()),
                    arena.copyOf(x.in(), gpu.stream()),
                    copy(gpu, arena, x.inScales()),
                    arena.copyOf(x.out(), gpu.stream()),
                    copy(gpu, arena, x.outScales()),
                    arena.copyOf(x.groupEnds(), gpu.stream()),
                    arena.copyOf(x.places(), gpu.stream()),
                    copy(gpu, arena, x.sources()));
            try (PermuteLaunch<DeviceTensor> launch = plan.bind(there);
                    PermuteLaunch<HostTensor> expected = exact.bind(x)) {
                launch.launch(gpu.stream(), tokens);
                expected.launch(here, tokens);
                final double rows = differing(gpu, host, there.out(), x.out())
                        + differing(gpu, host, there.outScales(), x.outScales());
                final double numbers = differing(gpu, host, there.groupEnds(), x.groupEnds())
                        + differing(gpu, host, there.places(), x.places())
                        + differing(gpu, host, there.sources(), x.sources());
                final Row.Measure[] measures = {new Row.Measure("rows", rows, 0), new Row.Measure("numbers", numbers, 0)
                };
                return back == null
                        ? Row.measured(operation(), shape(), plan.kernel(), gpu.microseconds(launch, tokens), measures)
                        : goBack(gpu, host, arena, reference, here, x, there, random, measures);
            }
        }
    }

    private Row goBack(
            final Gpu gpu,
            final Arena host,
            final DeviceArena arena,
            final Kernels<HostTensor> reference,
            final Stream here,
            final PermuteOperands<HostTensor> x,
            final PermuteOperands<DeviceTensor> there,
            final SplitMix64 random,
            final Row.Measure... measures) {
        final UnpermuteSpec way = Objects.requireNonNull(back);
        final HostTensor weights = HostTensor.allocate(host, DType.F32, way.maxTokens(), way.topK());
        final HostTensor residual = HostTensor.allocate(host, DType.BF16, way.maxTokens(), way.hidden());
        final HostTensor out = HostTensor.allocate(host, DType.BF16, way.maxTokens(), way.hidden());
        HostData.fillWithNormal(weights, random);
        HostData.fillWithNormal(residual, random);
        final UnpermuteOperands<HostTensor> operands = new UnpermuteOperands<>(
                x.out(), x.places(), way.weighted() ? weights : null, way.residual() ? residual : null, out);
        final UnpermuteOperands<DeviceTensor> operandsThere = new UnpermuteOperands<>(
                there.out(),
                there.places(),
                copy(gpu, arena, operands.weights()),
                copy(gpu, arena, operands.residual()),
                arena.copyOf(out, gpu.stream()));
        try (UnpermutePlan<DeviceTensor> plan = gpu.kernels().plan(way);
                UnpermuteLaunch<DeviceTensor> launch = plan.bind(operandsThere);
                UnpermutePlan<HostTensor> exact = reference.plan(way);
                UnpermuteLaunch<HostTensor> expected = exact.bind(operands)) {
            launch.launch(gpu.stream(), tokens);
            expected.launch(here, tokens);
            return Row.measured(
                    operation(),
                    shape(),
                    plan.kernel(),
                    gpu.microseconds(launch, tokens),
                    measures[0],
                    measures[1],
                    new Row.Measure("sums", differing(gpu, host, operandsThere.out(), out), 0));
        }
    }

    private PermuteOperands<HostTensor> operands(final Arena host, final SplitMix64 random) {
        final long t = spec.maxTokens();
        final boolean fp8 = spec.inDType() == DType.F8_E4M3;
        final Scaled<HostTensor> quantized =
                fp8 ? HostData.anyQuantized(host, random, Scaling.ACTIVATION_1X128, t, spec.hidden()) : null;
        final HostTensor in =
                quantized == null ? HostTensor.allocate(host, DType.BF16, t, spec.hidden()) : quantized.values();
        if (quantized == null) {
            HostData.fillForQuantization(in, random);
        }
        final HostTensor ids = HostTensor.allocate(host, DType.I32, t, spec.topK());
        for (long i = 0; i < t; i++) {
            for (long j = 0; j < spec.topK(); j++) {
                ids.setFloat(random.below(100) < dropped ? -1 : (float) random.below(spec.experts()), i, j);
            }
        }
        final PermuteOperands<HostTensor> x = new PermuteOperands<>(
                ids,
                in,
                quantized == null ? null : quantized.scales(),
                HostTensor.allocate(host, spec.outDType(), spec.rows(), spec.hidden()),
                spec.outDType() == DType.BF16
                        ? null
                        : HostTensor.allocate(host, Scaled.activationScaleSpec(spec.rows(), spec.hidden())),
                HostTensor.allocate(host, DType.I32, spec.experts()),
                HostTensor.allocate(host, DType.I32, t, spec.topK()),
                HostTensor.allocate(host, DType.I32, spec.rows()));
        x.out().segment().fill((byte) 0x55); // what must not be written stays so on both sides
        return x;
    }

    private static @Nullable DeviceTensor copy(
            final Gpu gpu, final DeviceArena arena, final @Nullable HostTensor source) {
        return source == null ? null : arena.copyOf(source, gpu.stream());
    }

    private static double differing(
            final Gpu gpu, final Arena host, final @Nullable DeviceTensor there, final @Nullable HostTensor expected) {
        if (there == null || expected == null) {
            return 0;
        }
        final HostTensor got = HostTensor.allocate(host, there.spec());
        gpu.download(there, got);
        return (double) HostData.differing(got, expected);
    }
}
