package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.gemm.Bf16GroupedGemmLaunch;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.reference.MatrixProduct;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;

/**
 * Groups of rows, each with its own BF16 matrix, against the reference.
 *
 * @param spec the operation
 * @param ends of the groups
 * @param gap least number of elements between the rows of each operand; they hold NaN
 * @param seed of the operands
 */
record Bf16GroupedGemmCase(Bf16GroupedGemmSpec spec, List<Integer> ends, long gap, long seed) implements VerifyCase {
    /** Multiply-adds of the sample that is compared: about 2 GFLOP. */
    private static final long BUDGET = 1_000_000_000L;

    private static final long WIDEST = 512;

    @Override
    public String operation() {
        return spec.operation();
    }

    @Override
    public String shape() {
        return "groups=%d rows=%d n=%d k=%d %s%s"
                .formatted(spec.groups(), spec.maxM(), spec.n(), spec.k(), spec.outDType(), gap == 0 ? "" : " gaps");
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor a = HostTensor.allocate(host, DType.BF16, spec.maxM(), spec.k());
            final HostTensor b = HostTensor.allocate(host, DType.BF16, spec.groups() * spec.n(), spec.k());
            HostData.fillWithNormalFast(a, random);
            HostData.fillWithNormalFast(b, random);
            final HostTensor groupEnds = HostTensor.allocate(host, DType.I32, spec.groups());
            for (int g = 0; g < ends.size(); g++) {
                groupEnds.segment().setAtIndex(ValueLayout.JAVA_INT, g, ends.get(g));
            }
            final DeviceTensor deviceEnds = arena.allocate(groupEnds.spec());
            deviceEnds.copyFrom(groupEnds, gpu.stream());
            final Gpu.Padded out = gpu.poisoned(arena, spec.outDType(), spec.maxM(), spec.n(), gap);
            try (Bf16GroupedGemmPlan<DeviceTensor> plan = gpu.kernels().plan(spec);
                    Bf16GroupedGemmLaunch<DeviceTensor> launch = plan.bind(
                            gpu.upload(arena, a, gap),
                            Bf16Operands.stacked(arena, gpu.upload(arena, b, gap), spec.groups()),
                            deviceEnds,
                            out.matrix(),
                            gpu.workspace(arena, plan))) {
                launch.launch(gpu.stream());
                final HostTensor result = HostTensor.allocate(host, spec.outDType(), spec.maxM(), spec.n());
                gpu.download(out.matrix(), result);
                final long stray = gpu.strayWrites(out, ends.getLast());
                final GemmTolerance.Result error = compare(a, b, result, random);
                return Row.measured(
                        operation(),
                        shape(),
                        plan.kernel(),
                        gpu.microseconds(launch, spec.maxM()),
                        new Row.Measure("error/bound", error.worstRatio(), 1),
                        new Row.Measure("1-cos", error.cosineDistance(), error.maxCosineDistance()),
                        new Row.Measure("stray", (double) stray, 0));
            }
        }
    }

    private GemmTolerance.Result compare(
            final HostTensor a, final HostTensor b, final HostTensor result, final SplitMix64 random) {
        final GemmTolerance error = GemmTolerance.ofBf16(spec.outDType(), spec.k());
        final long[] columns = HostData.sample(random, spec.n(), WIDEST);
        final long most = Math.max(4, BUDGET / spec.k() / columns.length / ends.size());
        int begin = 0;
        for (int g = 0; g < ends.size(); g++) {
            final int end = ends.get(g);
            final HostTensor weights = b.slice(0, g * spec.n(), (g + 1) * spec.n());
            final long[] rows = HostData.sample(random, end - begin, most);
            Bf16GemmCase.add(
                    error,
                    MatrixProduct.sample(a.slice(0, begin, end), weights, null, rows, columns),
                    result.slice(0, begin, end));
            begin = end;
        }
        return error.result();
    }
}
