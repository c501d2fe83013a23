package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.CombineLaunch;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombinePlan;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchLaunch;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchPlan;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import io.hopper4j.moe.Rendezvous;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.jspecify.annotations.Nullable;

/**
 * One dispatch and the combine that follows, by ranks as threads, against ranks of the reference: rows bit for bit, sums within a bound.
 *
 * @param call the dispatch; the combine follows from it
 * @param devices how many devices the ranks are dealt out to
 * @param seed of tokens and routing
 */
record ExpertGroupCase(DispatchSpec call, int devices, long seed) implements VerifyCase {
    /** Squared error of the sums beside the squared sums. */
    private static final double COMBINE_BOUND = 5e-6;

    @Override
    public String operation() {
        return call.operation();
    }

    @Override
    public String shape() {
        final ExpertGroupSpec group = call.group();
        return "ranks=%d gpus=%d tokens=%d hidden=%d topk=%d experts=%d %s %s %s"
                .formatted(
                        group.ranks(),
                        devices,
                        call.maxTokens(),
                        group.hidden(),
                        group.topK(),
                        group.experts(),
                        call.isCast() ? "cast" : group.rowDType(),
                        call.layout(),
                        call.mode());
    }

    /** What a rank found. */
    private record Found(String kernel, long rows, long scales, long counts, double error, double size) {}

    @Override
    public Row run(final Gpu gpu) {
        final int ranks = call.group().ranks();
        final List<Rendezvous> onDevice = Rendezvous.inProcess(ranks);
        final List<Rendezvous> onHost = Rendezvous.inProcess(ranks);
        final List<Found> found = new ArrayList<>();
        try (ExecutorService threads = Executors.newFixedThreadPool(ranks)) {
            final List<Future<Found>> running = new ArrayList<>();
            for (int rank = 0; rank < ranks; rank++) {
                final Rendezvous device = onDevice.get(rank);
                final Rendezvous host = onHost.get(rank);
                running.add(threads.submit(() -> new Rank(device, host).run()));
            }
            for (final Future<Found> one : running) {
                found.add(one.get());
            }
        } catch (final ExecutionException e) {
            throw new IllegalStateException(String.valueOf(e.getCause()), e);
        } catch (final InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
        return Row.measured(
                operation(),
                shape(),
                found.getFirst().kernel(),
                Double.NaN,
                new Row.Measure("rows", found.stream().mapToLong(Found::rows).sum(), 0),
                new Row.Measure(
                        "scales", found.stream().mapToLong(Found::scales).sum(), 0),
                new Row.Measure(
                        "counts", found.stream().mapToLong(Found::counts).sum(), 0),
                new Row.Measure(
                        "combine",
                        found.stream()
                                .mapToDouble(f -> f.error() / Math.max(f.size(), Double.MIN_NORMAL))
                                .max()
                                .orElse(0),
                        COMBINE_BOUND));
    }

    /** One rank: on its device, and in the reference. */
    private final class Rank {
        private final int number;
        private final Rendezvous onDevice;
        private final Rendezvous onHost;
        private final ExpertGroupSpec group = call.group();

        Rank(final Rendezvous onDevice, final Rendezvous onHost) {
            this.number = onDevice.rank();
            this.onDevice = onDevice;
            this.onHost = onHost;
        }

        Found run() {
            final Device device = Device.all().get(number % devices);
            try (Arena host = Arena.ofConfined();
                    Kernels<HostTensor> reference = Kernels.reference();
                    Kernels<DeviceTensor> cuda = Kernels.cuda(device);
                    Stream stream = cuda.openStream();
                    Stream now = reference.openStream();
                    DeviceArena arena = device.openArena(stream);
                    ExpertGroup<DeviceTensor> there = cuda.openGroup(group, onDevice);
                    ExpertGroup<HostTensor> here = reference.openGroup(group, onHost);
                    DispatchPlan<DeviceTensor> plan = there.plan(call);
                    DispatchPlan<HostTensor> meaning = here.plan(call)) {
                final SplitMix64 random = new SplitMix64(seed + number);
                final int tokens = number == 0 ? call.maxTokens() : (int) random.below(call.maxTokens() + 1L);
                final DispatchOperands<HostTensor> expected = operands(host, meaning, random);
                final DispatchOperands<DeviceTensor> given = upload(arena, stream, plan, expected);
                try (DispatchLaunch<DeviceTensor> launch = plan.bind(given);
                        DispatchLaunch<HostTensor> mean = meaning.bind(expected)) {
                    launch.launch(stream, tokens);
                    stream.synchronize();
                    there.check();
                    mean.launch(now, tokens);
                }
                final Differences differ = new Differences(host, stream);
                if (call.layout() == MoeLayout.RANK) {
                    final long rows = expected.received() == null
                            ? 0
                            : expected.received().segment().getAtIndex(ValueLayout.JAVA_INT, group.ranks());
                    final var got = there.buffers(0);
                    final var need = here.buffers(0);
                    differ.rows +=
                            differ.in(got.rows().slice(0, 0, rows), need.rows().slice(0, 0, rows));
                    differ.scales += differ.in(first(got.scales(), rows), first(need.scales(), rows));
                    differ.counts += differ.in(
                            got.experts().slice(0, 0, rows), need.experts().slice(0, 0, rows));
                    differ.counts += differ.in(
                            got.weights().slice(0, 0, rows), need.weights().slice(0, 0, rows));
                } else {
                    differ.rows += differ.in(given.out(), expected.out());
                    differ.scales += differ.in(given.outScales(), expected.outScales());
                    differ.counts += differ.in(given.expertRows(), expected.expertRows());
                }
                differ.counts += differ.in(given.received(), expected.received());
                return combined(host, arena, stream, now, there, here, given, expected, tokens, plan.kernel(), differ);
            }
        }

        private Found combined(
                final Arena host,
                final DeviceArena arena,
                final Stream stream,
                final Stream now,
                final ExpertGroup<DeviceTensor> there,
                final ExpertGroup<HostTensor> here,
                final DispatchOperands<DeviceTensor> given,
                final DispatchOperands<HostTensor> expected,
                final int tokens,
                final String kernel,
                final Differences differ) {
            final CombineSpec back = CombineSpec.of(call).withResidual(true);
            final SplitMix64 random = new SplitMix64(seed + 1000 + number);
            final HostTensor out = expected.out();
            final HostTensor partials = out == null
                    ? here.buffers(0).partials()
                    : HostTensor.allocate(
                            host, TensorSpec.packed(DType.BF16, out.shape().toArray()));
            fill(partials, random);
            final HostTensor residual = HostTensor.allocate(host, DType.BF16, call.maxTokens(), group.hidden());
            fill(residual, random);
            final HostTensor sums = HostTensor.allocate(host, DType.BF16, call.maxTokens(), group.hidden());
            final DeviceTensor rows = out == null ? there.buffers(0).partials() : arena.allocate(partials.spec());
            rows.copyFrom(partials, stream);
            final DeviceTensor got = arena.allocate(sums.spec());
            final DeviceTensor added = arena.allocate(residual.spec());
            added.copyFrom(residual, stream);
            stream.synchronize();
            try (CombinePlan<DeviceTensor> plan = there.plan(back);
                    CombinePlan<HostTensor> meaning = here.plan(back);
                    CombineLaunch<DeviceTensor> launch =
                            plan.bind(new CombineOperands<>(given.handle(), out == null ? null : rows, added, got));
                    CombineLaunch<HostTensor> mean = meaning.bind(
                            new CombineOperands<>(expected.handle(), out == null ? null : partials, residual, sums))) {
                launch.launch(stream, tokens);
                stream.synchronize();
                there.check();
                mean.launch(now, tokens);
            }
            final HostTensor copy = HostTensor.allocate(host, sums.spec());
            got.copyTo(copy, stream);
            stream.synchronize();
            double error = 0;
            double size = 0;
            final float[] found = copy.slice(0, 0, tokens).toFloats();
            final float[] needed = sums.slice(0, 0, tokens).toFloats();
            for (int i = 0; i < found.length; i++) {
                error += Math.pow((double) found[i] - needed[i], 2);
                size += (double) needed[i] * needed[i];
            }
            return new Found(kernel, differ.rows, differ.scales, differ.counts, error, size);
        }

        private DispatchOperands<HostTensor> operands(
                final Arena host, final DispatchPlan<HostTensor> plan, final SplitMix64 random) {
            final int max = call.maxTokens();
            HostTensor scales = null;
            HostTensor x;
            if (call.inDType() == DType.F8_E4M3) {
                final Scaled<HostTensor> rows =
                        HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, max, group.hidden());
                x = rows.values();
                scales = rows.scales();
            } else {
                x = HostData.matrix(host, DType.BF16, max, group.hidden());
                HostData.fillWithNormal(x, random);
            }
            final HostTensor experts = HostTensor.allocate(host, DType.I32, max, group.topK());
            final HostTensor weights = HostTensor.allocate(host, DType.F32, max, group.topK());
            for (long i = 0; i < (long) max * group.topK(); i++) {
                final int expert = random.below(16) == 0 ? -1 : (int) random.below(group.experts());
                experts.segment().setAtIndex(ValueLayout.JAVA_INT, i, expert);
                weights.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) (random.fraction() - 0.25));
            }
            final HostTensor handle = HostTensor.allocate(host, DType.U8, plan.handleBytes());
            final HostTensor received = HostTensor.allocate(host, DType.I32, group.ranks() + 1L);
            final DispatchOperands<HostTensor> operands =
                    DispatchOperands.of(x, scales, experts, weights, handle).withReceived(received);
            if (call.layout() == MoeLayout.RANK) {
                return operands;
            }
            final int local = group.localExperts(number);
            final long slots = plan.outRows();
            final long ld = HostData.rowStride(group.hidden(), 0);
            final boolean latency = call.mode() == MoeMode.LATENCY;
            final TensorSpec rows = latency
                    ? TensorSpec.strided(
                            group.rowDType(), new long[] {local, slots, group.hidden()}, new long[] {slots * ld, ld, 1})
                    : TensorSpec.strided(group.rowDType(), new long[] {slots, group.hidden()}, new long[] {ld, 1});
            final TensorSpec outScales = latency
                    ? TensorSpec.strided(DType.F32, new long[] {local, slots, group.blocks()}, new long[] {
                        group.blocks() * slots, 1, slots
                    })
                    : Scaled.activationScaleSpec(slots, group.hidden());
            return operands.withOut(
                    HostTensor.allocate(host, rows),
                    group.isScaled() ? HostTensor.allocate(host, outScales) : null,
                    latency
                            ? HostTensor.allocate(host, DType.I32, local)
                            : HostTensor.allocate(host, DType.I32, local, 2));
        }

        private DispatchOperands<DeviceTensor> upload(
                final DeviceArena arena,
                final Stream stream,
                final DispatchPlan<DeviceTensor> plan,
                final DispatchOperands<HostTensor> x) {
            final DispatchOperands<DeviceTensor> operands = new DispatchOperands<>(
                    copy(arena, stream, x.x()),
                    copyOf(arena, stream, x.xScales()),
                    copy(arena, stream, x.experts()),
                    copy(arena, stream, x.weights()),
                    arena.allocate(DType.U8, plan.handleBytes()),
                    copyOf(arena, stream, x.received()),
                    copyOf(arena, stream, x.out()),
                    copyOf(arena, stream, x.outScales()),
                    copyOf(arena, stream, x.expertRows()));
            stream.synchronize();
            return operands;
        }

        private static DeviceTensor copy(final DeviceArena arena, final Stream stream, final HostTensor tensor) {
            final DeviceTensor made = arena.allocate(tensor.spec());
            made.copyFrom(tensor, stream);
            return made;
        }

        private static @Nullable DeviceTensor copyOf(
                final DeviceArena arena, final Stream stream, final @Nullable HostTensor tensor) {
            return tensor == null ? null : copy(arena, stream, tensor);
        }
    }

    /** Small multiples of 1/64, so that what is compared is the sum and not the rounding of its terms. */
    private static void fill(final HostTensor tensor, final SplitMix64 random) {
        final float[] values = new float[Math.toIntExact(tensor.spec().elements())];
        for (int i = 0; i < values.length; i++) {
            values[i] = (random.below(255) - 127) / 64f;
        }
        tensor.setFloats(values);
    }

    private static @Nullable DeviceTensor first(final @Nullable DeviceTensor tensor, final long rows) {
        return tensor == null ? null : tensor.slice(0, 0, rows);
    }

    private static @Nullable HostTensor first(final @Nullable HostTensor tensor, final long rows) {
        return tensor == null ? null : tensor.slice(0, 0, rows);
    }

    /** Counts elements that differ. */
    private static final class Differences {
        private final Arena host;
        private final Stream stream;
        private long rows;
        private long scales;
        private long counts;

        Differences(final Arena host, final Stream stream) {
            this.host = host;
            this.stream = stream;
        }

        long in(final @Nullable DeviceTensor got, final @Nullable HostTensor need) {
            if (got == null || need == null || need.spec().elements() == 0) {
                return 0;
            }
            final HostTensor copy = HostTensor.allocate(host, need.spec());
            got.copyTo(copy, stream);
            stream.synchronize();
            return HostData.differing(copy, need);
        }
    }
}
