package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Event;
import io.hopper4j.HostTensor;
import io.hopper4j.KernelException;
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
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.jspecify.annotations.Nullable;

/**
 * Dispatch and combine of an expert group whose ranks are dealt out to the GPUs of the run: threads of this process, or, with as many processes as ranks, a JVM each
 * ({@link ExpertRankProcess}). Every rank has all tokens of the shape, each with distinct experts drawn at random. Times are of events around one call, after the L2
 * of every GPU was flushed and all ranks have met; the slower rank counts. Keys: ranks, processes, tokens (of a rank), hidden, topk, experts (of all ranks), bits of an
 * element that travels, SMs of a rank's kernel.
 */
final class ExpertGroupBench implements BenchOperation {
    private static final long FP8 = 8;
    private static final long BF16 = 16;
    private static final int BLOCK = 128;
    private static final int ALIGNMENT = 128;

    /** Rows that are drawn; the others repeat them. */
    private static final int DRAWN_ROWS = 509;

    /** Tokens of each rank whose rows or sums are compared bit by bit. */
    private static final long COMPARED_TOKENS = 12;

    private static final int WARM_UPS = 3;

    /** Cases that are timed with a process a rank too. */
    private static final Set<Long> PROCESS_TOKENS = Set.of(4096L, 128L, 8L);

    /** Ranks of hosts where each has a GPU of its own. */
    private static final long[] HOSTS = {4, 8};

    /** How peers flush for these operations. */
    private static final KernelTimer.Flush PEERS_FLUSH = new KernelTimer.Flush(512L << 20, 0);

    /** What is timed. */
    enum Part {
        DISPATCH("moe_dispatch", false, false, false),
        DISPATCH_EXPERT("moe_dispatch_expert", true, false, false),
        DISPATCH_LATENCY("moe_dispatch_latency", true, true, false),
        COMBINE("moe_combine", false, false, true),
        COMBINE_EXPERT("moe_combine_expert", true, false, true),
        COMBINE_LATENCY("moe_combine_latency", true, true, true);

        private final String text;
        private final boolean expert;
        private final boolean latency;
        private final boolean back;

        Part(final String text, final boolean expert, final boolean latency, final boolean back) {
            this.text = text;
            this.expert = expert;
            this.latency = latency;
            this.back = back;
        }
    }

    private final Part part;

    ExpertGroupBench(final Part part) {
        this.part = part;
    }

    @Override
    public String name() {
        return part.text;
    }

    @Override
    public String family() {
        return "moe";
    }

    @Override
    public List<String> keys() {
        return List.of("ranks", "processes", "tokens", "hidden", "topk", "experts", "bits", "sms");
    }

    private static BenchShape shape(final long ranks, final long tokens, final long bits, final long sms) {
        return BenchShape.of("ranks", ranks, "processes", 1)
                .with("tokens", tokens)
                .with("hidden", 7168)
                .with("topk", 8)
                .with("experts", 256)
                .with("bits", bits)
                .with("sms", sms);
    }

    @Override
    public List<BenchShape> cases(final CaseList list) {
        if (list != CaseList.PEERS) {
            return List.of();
        }
        final List<BenchShape> shapes = new ArrayList<>(withProcesses(ofTwo()));
        for (final long ranks : HOSTS) {
            shapes.addAll(withProcesses(ofHost(ranks)));
        }
        return shapes;
    }

    /** Two ranks may share a GPU; more are listed where each has its own. */
    @Override
    public boolean isFor(final BenchShape shape, final int gpus) {
        return shape.get("ranks") <= Math.max(2, gpus);
    }

    private List<BenchShape> ofTwo() {
        final List<BenchShape> shapes = new ArrayList<>();
        switch (part) {
            case DISPATCH -> {
                for (final long sms : new long[] {24, 16, 64}) {
                    shapes.add(shape(2, 4096, FP8, sms));
                }
                shapes.add(shape(2, 8192, FP8, 24));
                shapes.add(shape(2, 4096, BF16, 24));
            }
            case DISPATCH_EXPERT -> {
                for (final long sms : new long[] {96, 64}) {
                    shapes.add(shape(2, 4096, FP8, sms));
                }
            }
            case COMBINE -> {
                for (final long tokens : new long[] {4096, 8192}) {
                    shapes.add(shape(2, tokens, BF16, 24));
                }
                shapes.add(shape(2, 4096, BF16, 64));
            }
            case COMBINE_EXPERT -> shapes.add(shape(2, 4096, BF16, 128));
            case DISPATCH_LATENCY, COMBINE_LATENCY -> {
                for (final long tokens : new long[] {128, 64, 8}) {
                    shapes.add(shape(2, tokens, part == Part.COMBINE_LATENCY ? BF16 : FP8, 128));
                    shapes.add(shape(2, tokens, part == Part.COMBINE_LATENCY ? BF16 : FP8, 64));
                }
            }
        }
        return shapes;
    }

    /** Every size that peers publish, in both widths, by as many SMs as theirs take and by more. */
    private List<BenchShape> ofHost(final long ranks) {
        final List<BenchShape> shapes = new ArrayList<>();
        for (final long tokens : part.latency ? new long[] {128, 64, 8} : new long[] {4096, 8192}) {
            for (final long bits : part.back ? new long[] {BF16} : new long[] {FP8, BF16}) {
                for (final long sms : budgets()) {
                    shapes.add(shape(ranks, tokens, bits, sms));
                }
            }
        }
        return shapes;
    }

    /** SMs: first what the library takes where it may have all, then 24, or all where it takes 24. */
    private long[] budgets() {
        return switch (part) {
            case DISPATCH, COMBINE -> new long[] {24, 132};
            case DISPATCH_EXPERT -> new long[] {96, 24};
            case COMBINE_EXPERT, DISPATCH_LATENCY, COMBINE_LATENCY -> new long[] {128, 24};
        };
    }

    /** Some of them with a process a rank: each of these starts JVMs, which takes seconds. */
    private static List<BenchShape> withProcesses(final List<BenchShape> shapes) {
        final List<BenchShape> all = new ArrayList<>(shapes);
        final Set<Long> seen = new HashSet<>();
        for (final BenchShape shape : shapes) {
            if (PROCESS_TOKENS.contains(shape.get("tokens")) && seen.add(shape.get("tokens"))) {
                all.add(shape.with("processes", shape.get("ranks")));
            }
        }
        return all;
    }

    /** Bytes by expectation, for tokens whose experts are distinct and each as likely. */
    @Override
    public Work work(final BenchShape shape) {
        final double ranks = (double) shape.get("ranks");
        final double tokens = (double) shape.get("tokens");
        final double hidden = (double) shape.get("hidden");
        final double topK = (double) shape.get("topk");
        final double experts = (double) shape.get("experts");
        double missed = 1; // that none of a token's experts is at a rank
        for (int k = 0; k < topK; k++) {
            missed *= Math.max(0, experts - experts / ranks - k) / (experts - k);
        }
        final double rows = tokens * (1 - missed); // from one rank to one rank
        final boolean scaled = shape.get("bits") == FP8;
        final double row = hidden * (double) shape.get("bits") / 8 + (scaled ? 4 * Math.ceil(hidden / BLOCK) : 0);
        final double given = part.latency && !part.back ? 2 * hidden : row; // latency calls cast
        final double local;
        if (part.back) {
            local = (part.expert ? tokens * topK : rows * ranks) * row + tokens * row;
        } else {
            local = tokens * given + (part.expert ? tokens * topK : rows * ranks) * row;
        }
        return new Work(local, 0, false, new Traffic(rows * (ranks - 1) * row, rows * ranks * row, (int) ranks));
    }

    @Override
    public Optional<String> obstacle(final BenchGpu gpu, final BenchShape shape) {
        final int gpus = gpu.devices().size();
        final long sharing = Math.ceilDiv(shape.get("ranks"), gpus);
        final int sms = gpu.device().info().smCount();
        final long processes = shape.get("processes");
        if (processes != 1 && (processes != shape.get("ranks") || processes > gpus)) {
            return Optional.of("ranks are of one process, or have a process and a GPU each: more --gpus");
        }
        return sharing * shape.get("sms") <= sms
                ? Optional.empty()
                : Optional.of(sharing + " ranks of " + shape.get("sms") + " SMs do not fit a GPU of " + sms
                        + ": more --gpus, or fewer SMs");
    }

    @Override
    public Prepared prepare(final BenchGpu gpu, final BenchShape shape, final long seed) {
        if (shape.get("processes") == 1) {
            return new Ranks(gpu, part, shape, seed, List.of(), inProcess(shape));
        }
        final int ranks = Math.toIntExact(shape.get("ranks"));
        final ExpertRankProcess.Meeting meeting = ExpertRankProcess.Meeting.choose();
        final List<ExpertRankProcess> others = new ArrayList<>();
        for (int rank = 1; rank < ranks; rank++) {
            others.add(
                    ExpertRankProcess.start(new BenchOperations.Case(this, shape), seed, rank, gpu.devices(), meeting));
        }
        return new Ranks(gpu, part, shape, seed, others, List.of(() -> meeting.end(0, ranks)));
    }

    private static List<Callable<Rendezvous>> inProcess(final BenchShape shape) {
        final List<Callable<Rendezvous>> ends = new ArrayList<>();
        Rendezvous.inProcess(Math.toIntExact(shape.get("ranks"))).forEach(end -> ends.add(() -> end));
        return ends;
    }

    /** One rank of a case with a process each; {@link #prepare} makes the first. */
    Ranks prepareRank(
            final BenchGpu gpu,
            final BenchShape shape,
            final long seed,
            final int rank,
            final ExpertRankProcess.Meeting meeting) {
        final int ranks = Math.toIntExact(shape.get("ranks"));
        return new Ranks(gpu, part, shape, seed, List.of(), List.of(() -> meeting.end(rank, ranks)));
    }

    private static DispatchSpec call(final Part part, final BenchShape shape) {
        final int tokens = Math.toIntExact(shape.get("tokens"));
        final boolean fp8 = shape.get("bits") == FP8;
        final ExpertGroupSpec group = ExpertGroupSpec.of(
                        Math.toIntExact(shape.get("ranks")),
                        Math.toIntExact(shape.get("experts")),
                        Math.toIntExact(shape.get("topk")),
                        Math.toIntExact(shape.get("hidden")),
                        part.latency ? 0 : tokens)
                .withLatencyTokens(part.latency ? tokens : 0)
                .withRows(fp8 ? DType.F8_E4M3 : DType.BF16)
                .withSmBudget(Math.toIntExact(shape.get("sms")))
                // A process that has stopped is found soon, and the next case begins.
                .withDeadline(Duration.ofSeconds(shape.get("processes") == 1 ? 10 : 3));
        if (part.latency) {
            return DispatchSpec.latency(group, DType.BF16);
        }
        return DispatchSpec.of(group, group.rowDType())
                .withLayout(part.expert ? MoeLayout.EXPERT : MoeLayout.RANK)
                .withAlignment(ALIGNMENT);
    }

    /** Where every row must be: found by going through all tokens in order. */
    private static final class Places {
        private final ExpertGroupSpec group;
        private final int tokens;
        /** {@code [source][token * topK + k]}. */
        private final int[][] experts;
        /** {@code [rank][source][token]}: the row of the rank layout, or -1. */
        private final int[][][] slots;
        /** {@code [rank][source][token * topK + k]}: the row of the expert layout, or -1. */
        private final int[][][] rows;
        /** {@code [rank]}: first row and end, or only the count, of each expert. */
        private final int[][] ranges;
        /** {@code [rank][source]}. */
        private final int[][] received;

        Places(final DispatchSpec call, final int[][] experts) {
            this.group = call.group();
            this.tokens = call.maxTokens();
            this.experts = experts;
            final int ranks = group.ranks();
            final int per = group.expertsPerRank();
            final boolean latency = call.mode() == MoeMode.LATENCY;
            this.slots = new int[ranks][ranks][tokens];
            this.rows = new int[ranks][ranks][tokens * group.topK()];
            this.ranges = new int[ranks][latency ? per : 2 * per];
            this.received = new int[ranks][ranks];
            for (int rank = 0; rank < ranks; rank++) {
                final int[] counts = new int[per];
                int slot = 0;
                for (int source = 0; source < ranks; source++) {
                    for (int token = 0; token < tokens; token++) {
                        boolean here = false;
                        for (int k = 0; k < group.topK(); k++) {
                            final int entry = token * group.topK() + k;
                            final boolean mine = experts[source][entry] / per == rank;
                            here |= mine;
                            rows[rank][source][entry] = mine ? counts[experts[source][entry] % per]++ : -1;
                        }
                        slots[rank][source][token] = here ? slot++ : -1;
                        received[rank][source] += here || latency ? 1 : 0;
                    }
                }
                final int[] starts = new int[per];
                int begin = 0;
                for (int expert = 0; expert < per; expert++) {
                    starts[expert] = latency ? expert * ranks * tokens : begin;
                    begin += Math.ceilDiv(counts[expert], ALIGNMENT) * ALIGNMENT;
                    if (latency) {
                        ranges[rank][expert] = counts[expert];
                    } else {
                        ranges[rank][2 * expert] = starts[expert];
                        ranges[rank][2 * expert + 1] = starts[expert] + counts[expert];
                    }
                }
                for (int source = 0; source < ranks; source++) {
                    for (int entry = 0; entry < rows[rank][source].length; entry++) {
                        if (rows[rank][source][entry] >= 0) {
                            rows[rank][source][entry] += starts[experts[source][entry] % per];
                        }
                    }
                }
            }
        }
    }

    /** Streams of all ranks go on from here together. */
    private interface Together extends AutoCloseable {
        void meet(int rank, Stream stream);

        @Override
        void close();
    }

    /** Of ranks in one process, which closes it. */
    private record MeetingHere(NativeBench.Meeting meeting) implements Together {
        @Override
        public void meet(final int rank, final Stream stream) {
            meeting.meet(rank, stream.handle());
        }

        @Override
        public void close() {}
    }

    /** Of ranks in several processes: a call that sends nothing ends when all ranks have begun it. */
    private static final class MeetingByCall implements Together {
        private final ExpertGroup<DeviceTensor> group;
        private final DispatchPlan<DeviceTensor> plan;
        private final DispatchLaunch<DeviceTensor> launch;

        MeetingByCall(final Kernels<DeviceTensor> kernels, final DeviceArena arena, final Rendezvous end) {
            final int hidden = BLOCK;
            final ExpertGroupSpec spec = ExpertGroupSpec.of(end.ranks(), end.ranks(), 1, hidden, 0)
                    .withLatencyTokens(1)
                    .withRows(DType.BF16)
                    .withDeadline(Duration.ofSeconds(3))
                    .withSmBudget(2);
            this.group = kernels.openGroup(spec, end);
            this.plan = group.plan(DispatchSpec.latency(spec, DType.BF16));
            this.launch = plan.bind(DispatchOperands.of(
                            arena.allocate(DType.BF16, 1, hidden),
                            null,
                            arena.allocate(DType.I32, 1, 1),
                            arena.allocate(DType.F32, 1, 1),
                            arena.allocate(DType.U8, plan.handleBytes()))
                    .withOut(
                            arena.allocate(DType.BF16, 1, plan.outRows(), hidden), null, arena.allocate(DType.I32, 1)));
        }

        @Override
        public void meet(final int rank, final Stream stream) {
            launch.launch(stream, 0);
        }

        @Override
        public void close() {
            launch.close();
            plan.close();
            group.close();
        }
    }

    /** The ranks of this process, ready for the call. */
    static final class Ranks implements Prepared {
        private final BenchGpu gpu;
        private final Part part;
        private final DispatchSpec call;
        private final SplitMix64 random;
        private final Arena host = Arena.ofShared();
        private final List<Member> members = new ArrayList<>();
        private final List<NativeBench.Session> sessions = new ArrayList<>();
        /** Where all ranks are of this process. */
        private final NativeBench.@Nullable Meeting meeting;

        private final List<ExpertRankProcess> others;
        private final Places places;
        /** Rows as they are given, and, where they travel as FP8, as they travel. */
        private final HostTensor drawn;

        private final @Nullable Scaled<HostTensor> travelling;
        private final HostTensor weights;

        Ranks(
                final BenchGpu gpu,
                final Part part,
                final BenchShape shape,
                final long seed,
                final List<ExpertRankProcess> others,
                final List<Callable<Rendezvous>> ends) {
            this.gpu = gpu;
            this.others = others;
            this.part = part;
            this.call = call(part, shape);
            this.random = new SplitMix64(seed);
            final ExpertGroupSpec group = call.group();
            final int[][] experts = new int[group.ranks()][];
            Arrays.setAll(experts, rank -> distinctExperts());
            this.places = new Places(call, experts);
            if (call.inDType() == DType.F8_E4M3) {
                this.travelling =
                        HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, DRAWN_ROWS, group.hidden());
                this.drawn = travelling.values();
            } else {
                this.drawn = HostData.matrix(host, DType.BF16, DRAWN_ROWS, group.hidden());
                HostData.fillWithNormal(drawn, random);
                this.travelling = call.isCast()
                        ? HostData.quantized(host, Scaling.ACTIVATION_1X128, DRAWN_ROWS, group.hidden())
                        : null;
                if (travelling != null) {
                    BlockQuantization.quantize(drawn, travelling, ScaleKind.F32);
                }
            }
            this.weights = HostTensor.allocate(host, DType.F32, call.maxTokens(), group.topK());
            HostData.fillWithNormal(weights, random);
            final boolean alone = ends.size() < group.ranks(); // a process a rank
            final int[] ordinals = new int[group.ranks()];
            Arrays.setAll(ordinals, rank -> device(rank).index());
            this.meeting = alone ? null : gpu.library().openMeeting(ordinals);
            try {
                final List<Device> own = gpu.devices()
                        .subList(0, Math.min(group.ranks(), gpu.devices().size()));
                for (final Device device : alone ? List.of(gpu.device()) : own) {
                    sessions.add(
                            device.index() == gpu.device().index()
                                    ? gpu.session()
                                    : gpu.library().open(device.index()));
                }
                open(ends);
                // Combine needs what a dispatch leaves.
                members.forEach(member -> member.launchDispatch());
                members.forEach(member -> member.finish());
            } catch (final RuntimeException e) {
                close();
                throw e;
            }
        }

        private Device device(final int rank) {
            return gpu.devices().get(rank % gpu.devices().size());
        }

        private int[] distinctExperts() {
            final ExpertGroupSpec group = call.group();
            final int[] all = new int[group.experts()];
            Arrays.setAll(all, e -> e);
            final int[] chosen = new int[call.maxTokens() * group.topK()];
            for (int i = 0; i < chosen.length; i++) {
                final int k = i % group.topK();
                final int other = k + (int) random.below(all.length - k);
                chosen[i] = all[other];
                all[other] = all[k];
                all[k] = chosen[i];
            }
            return chosen;
        }

        /** Opening a group needs all ranks at once. */
        private void open(final List<Callable<Rendezvous>> ends) {
            try (ExecutorService threads = Executors.newFixedThreadPool(ends.size())) {
                final List<Future<Member>> opening = new ArrayList<>();
                for (final Callable<Rendezvous> end : ends) {
                    opening.add(threads.submit(() -> new Member(end.call())));
                }
                for (final Future<Member> one : opening) {
                    members.add(one.get());
                }
            } catch (final ExecutionException e) {
                if (e.getCause() instanceof RuntimeException cause) {
                    throw cause;
                }
                throw new IllegalStateException(e);
            } catch (final InterruptedException e) {
                Thread.currentThread().interrupt();
                throw new IllegalStateException(e);
            }
        }

        /** Which drawn row a token has. */
        private static int drawnRow(final int rank, final int token) {
            return (token + 131 * rank) % DRAWN_ROWS;
        }

        @Override
        public String kernel() {
            return members.getFirst().kernel();
        }

        @Override
        public void run() {
            others.forEach(other -> other.tell("run"));
            members.forEach(Member::launch);
        }

        @Override
        public Optional<KernelTimer.Timing> time(final Method method, final int repetitions) {
            others.forEach(other -> other.tell("time " + method.name() + " " + repetitions));
            final double[] times;
            try {
                times = times(method, repetitions);
            } catch (final KernelException e) {
                others.forEach(ExpertRankProcess::requireAlive); // what stopped it is why this rank waited in vain
                throw e;
            }
            for (final ExpertRankProcess other : others) {
                final String[] theirs = other.answer().split(" ", -1);
                for (int i = 0; i < repetitions; i++) {
                    times[i] = Math.max(times[i], Double.parseDouble(theirs[i]));
                }
            }
            final Statistics statistics = Statistics.of(times);
            return Optional.of(new KernelTimer.Timing(KernelTimer.Method.EVENTS, statistics, statistics.median(), 0));
        }

        /** Microseconds of each call, of the slower rank of this process. */
        double[] times(final Method method, final int repetitions) {
            final KernelTimer.Flush flush = method == Method.OURS ? KernelTimer.Flush.CLEAN : PEERS_FLUSH;
            final List<List<Event>> events = new ArrayList<>();
            members.forEach(_ -> events.add(new ArrayList<>()));
            try {
                for (int i = -WARM_UPS; i < repetitions; i++) {
                    for (final NativeBench.Session session : sessions) {
                        final Member on = members.get(sessions.indexOf(session));
                        session.flush(on.stream.handle(), flush.writeBytes(), flush.readBytes());
                    }
                    for (int m = 0; m < members.size(); m++) {
                        final Member member = members.get(m);
                        member.meet();
                        if (i >= 0) {
                            events.get(m).add(member.stream.record());
                        }
                        member.launch();
                        if (i >= 0) {
                            events.get(m).add(member.stream.record());
                        }
                    }
                }
                members.forEach(member -> member.finish());
                final double[] times = new double[repetitions];
                for (final List<Event> of : events) {
                    for (int i = 0; i < repetitions; i++) {
                        final double us =
                                of.get(2 * i + 1).elapsedSince(of.get(2 * i)).toNanos() / 1e3;
                        times[i] = Math.max(times[i], us);
                    }
                }
                return times;
            } finally {
                events.forEach(of -> of.forEach(Event::close));
            }
        }

        @Override
        public Deviation check() {
            others.forEach(other -> other.tell("check"));
            long differing = differing();
            for (final ExpertRankProcess other : others) {
                differing += Long.parseLong(other.answer());
            }
            return new Deviation("differing", (double) differing, 0, Double.NaN, differing == 0);
        }

        /** Calls once more, and counts what is not as it must be at the ranks of this process. */
        long differing() {
            members.forEach(Member::clear);
            members.forEach(Member::launch);
            members.forEach(member -> member.finish());
            long differing = 0;
            for (final Member member : members) {
                differing += part.back ? member.differingSums() : member.differingRows();
            }
            return differing;
        }

        @Override
        public List<Peer> peers() {
            return List.of();
        }

        @Override
        public void close() {
            members.forEach(member -> member.stream.synchronize());
            members.forEach(Member::close);
            sessions.stream().filter(session -> session != gpu.session()).forEach(NativeBench.Session::close);
            if (meeting != null) {
                meeting.close();
            }
            others.forEach(ExpertRankProcess::close);
            host.close();
        }

        /** One rank with its bound calls. */
        private final class Member implements AutoCloseable {
            private final int rank;
            private final Kernels<DeviceTensor> kernels;
            private final Stream stream;
            private final DeviceArena arena;
            private final ExpertGroup<DeviceTensor> group;
            private final Together together;
            private final DispatchPlan<DeviceTensor> there;
            private final CombinePlan<DeviceTensor> back;
            private final DispatchOperands<DeviceTensor> operands;
            private final DispatchLaunch<DeviceTensor> dispatch;
            private final CombineLaunch<DeviceTensor> combine;
            private final DeviceTensor returned;
            private final DeviceTensor sums;

            Member(final Rendezvous end) {
                this.rank = end.rank();
                this.kernels = Kernels.cuda(device(rank));
                this.stream = kernels.openStream();
                this.arena = device(rank).openArena(stream);
                this.group = kernels.openGroup(call.group(), end);
                final NativeBench.Meeting here = meeting;
                this.together = here == null ? new MeetingByCall(kernels, arena, end) : new MeetingHere(here);
                this.there = group.plan(call);
                this.back = group.plan(CombineSpec.of(call));
                this.operands = operands();
                this.returned = operands.out() == null
                        ? group.buffers(0).partials()
                        : arena.allocate(TensorSpec.packed(
                                DType.BF16, operands.out().shape().toArray()));
                this.sums = arena.allocate(
                        DType.BF16, call.maxTokens(), call.group().hidden());
                if (part.back) {
                    fillReturned();
                }
                this.dispatch = there.bind(operands);
                this.combine = back.bind(
                        new CombineOperands<>(operands.handle(), operands.out() == null ? null : returned, null, sums));
                stream.synchronize();
            }

            private DispatchOperands<DeviceTensor> operands() {
                final ExpertGroupSpec spec = call.group();
                final int tokens = call.maxTokens();
                try (Arena local = Arena.ofConfined()) {
                    final HostTensor x = HostData.matrix(local, call.inDType(), tokens, spec.hidden());
                    HostTensor xScales = null;
                    for (int token = 0; token < tokens; token++) {
                        copyRow(drawn, drawnRow(rank, token), x, token);
                    }
                    if (call.inDType() == DType.F8_E4M3) {
                        xScales = HostTensor.allocate(local, Scaled.activationScaleSpec(tokens, spec.hidden()));
                        for (int token = 0; token < tokens; token++) {
                            xScales.select(0, token).setFloats(scalesOf(drawnRow(rank, token)));
                        }
                    }
                    final HostTensor ids = HostTensor.allocate(local, DType.I32, tokens, spec.topK());
                    MemorySegment.copy(
                            places.experts[rank],
                            0,
                            ids.segment(),
                            ValueLayout.JAVA_INT,
                            0,
                            places.experts[rank].length);
                    final DispatchOperands<DeviceTensor> made = DispatchOperands.of(
                                    copy(x),
                                    xScales == null ? null : copy(xScales),
                                    copy(ids),
                                    copy(weights),
                                    arena.allocate(DType.U8, there.handleBytes()))
                            .withReceived(arena.allocate(DType.I32, spec.ranks() + 1L));
                    stream.synchronize();
                    return part.expert ? withOut(made) : made;
                }
            }

            private DispatchOperands<DeviceTensor> withOut(final DispatchOperands<DeviceTensor> made) {
                final ExpertGroupSpec spec = call.group();
                final long local = spec.localExperts(rank);
                final long rows = there.outRows();
                final long ld = HostData.rowStride(spec.hidden(), 0);
                final TensorSpec out = part.latency
                        ? TensorSpec.strided(
                                spec.rowDType(), new long[] {local, rows, spec.hidden()}, new long[] {rows * ld, ld, 1})
                        : TensorSpec.strided(spec.rowDType(), new long[] {rows, spec.hidden()}, new long[] {ld, 1});
                final TensorSpec scales = part.latency
                        ? TensorSpec.strided(DType.F32, new long[] {local, rows, spec.blocks()}, new long[] {
                            spec.blocks() * rows, 1, rows
                        })
                        : Scaled.activationScaleSpec(rows, spec.hidden());
                return made.withOut(
                        arena.allocate(out),
                        spec.isScaled() ? arena.allocate(scales) : null,
                        part.latency ? arena.allocate(DType.I32, local) : arena.allocate(DType.I32, local, 2));
            }

            private DeviceTensor copy(final HostTensor tensor) {
                final DeviceTensor made = arena.allocate(tensor.spec());
                made.copyFrom(tensor, stream);
                return made;
            }

            /** Row i of what comes back is the (i mod 509)-th of some drawn rows. */
            private void fillReturned() {
                final long[] dims = returned.shape().toArray();
                final long rows = dims.length == 3 ? dims[0] * dims[1] : dims[0];
                try (Arena local = Arena.ofConfined()) {
                    final HostTensor source = backRows(local);
                    final DeviceTensor flat = arena.wrap(
                            returned.address(),
                            TensorSpec.packed(DType.BF16, rows, call.group().hidden()));
                    for (long row = 0; row < rows; row += DRAWN_ROWS) {
                        final long end = Math.min(rows, row + DRAWN_ROWS);
                        flat.slice(0, row, end).copyFrom(source.slice(0, 0, end - row), stream);
                    }
                    stream.synchronize();
                }
            }

            void meet() {
                together.meet(rank, stream);
            }

            void launchDispatch() {
                dispatch.launch(stream, call.maxTokens());
            }

            void launch() {
                if (part.back) {
                    combine.launch(stream, call.maxTokens());
                } else {
                    launchDispatch();
                }
            }

            void finish() {
                stream.synchronize();
                group.check();
            }

            String kernel() {
                return part.back ? back.kernel() : there.kernel();
            }

            /** What is not written is found. */
            void clear() {
                for (final DeviceTensor tensor :
                        part.back ? List.of(sums) : List.of(Objects.requireNonNull(operands.received()))) {
                    try (Arena local = Arena.ofConfined()) {
                        final HostTensor none = HostTensor.allocate(local, tensor.spec());
                        none.segment().fill((byte) 0xFF);
                        tensor.copyFrom(none, stream);
                        stream.synchronize();
                    }
                }
            }

            private HostTensor download(final DeviceTensor tensor, final Arena local) {
                final HostTensor made = HostTensor.allocate(local, tensor.spec());
                tensor.copyTo(made, stream);
                stream.synchronize();
                return made;
            }

            /** All counts, and a sample of rows with their scales. */
            long differingRows() {
                long differing = 0;
                try (Arena local = Arena.ofConfined()) {
                    final int[] got = download(Objects.requireNonNull(operands.received()), local)
                            .segment()
                            .toArray(ValueLayout.JAVA_INT);
                    for (int source = 0; source < call.group().ranks(); source++) {
                        differing += got[source] == places.received[rank][source] ? 0 : 1;
                    }
                    if (part.expert) {
                        final int[] ranges = download(Objects.requireNonNull(operands.expertRows()), local)
                                .segment()
                                .toArray(ValueLayout.JAVA_INT);
                        for (int i = 0; i < ranges.length; i++) {
                            differing += ranges[i] == places.ranges[rank][i] ? 0 : 1;
                        }
                    }
                    for (int source = 0; source < call.group().ranks(); source++) {
                        for (final long token : HostData.sample(random, call.maxTokens(), COMPARED_TOKENS)) {
                            differing += differingRowsOf(source, (int) token, local);
                        }
                    }
                }
                return differing;
            }

            private long differingRowsOf(final int source, final int token, final Arena local) {
                if (!part.expert) {
                    final int slot = places.slots[rank][source][token];
                    return slot < 0
                            ? 0
                            : differing(
                                    group.buffers(0).rows().select(0, slot),
                                    scalesAt(group.buffers(0).scales(), slot),
                                    source,
                                    token,
                                    local);
                }
                final DeviceTensor out = Objects.requireNonNull(operands.out());
                final int capacity = Math.toIntExact(there.outRows());
                long differing = 0;
                for (int k = 0; k < call.group().topK(); k++) {
                    final int row =
                            places.rows[rank][source][token * call.group().topK() + k];
                    if (row < 0) {
                        continue;
                    }
                    final DeviceTensor scales = operands.outScales();
                    differing += part.latency
                            ? differing(
                                    out.select(0, row / capacity).select(0, row % capacity),
                                    scales == null
                                            ? null
                                            : scales.select(0, row / capacity).select(0, row % capacity),
                                    source,
                                    token,
                                    local)
                            : differing(out.select(0, row), scalesAt(scales, row), source, token, local);
                }
                return differing;
            }

            private static @Nullable DeviceTensor scalesAt(final @Nullable DeviceTensor scales, final long row) {
                return scales == null ? null : scales.select(0, row);
            }

            private long differing(
                    final DeviceTensor row,
                    final @Nullable DeviceTensor scales,
                    final int source,
                    final int token,
                    final Arena local) {
                final int from = drawnRow(source, token);
                final HostTensor values = travelling == null ? drawn : travelling.values();
                long differing = HostData.differing(download(row, local), values.select(0, from));
                if (scales != null) {
                    final float[] got = download(scales, local).toFloats();
                    final float[] need = scalesOf(from);
                    for (int i = 0; i < need.length; i++) {
                        differing += got[i] == need[i] ? 0 : 1;
                    }
                }
                return differing;
            }

            /** A sample of sums, in the order and with the roundings that the specification states. */
            long differingSums() {
                long differing = 0;
                try (Arena local = Arena.ofConfined()) {
                    final int hidden = call.group().hidden();
                    final HostTensor rows = backRows(local);
                    final HostTensor rounded = HostTensor.allocate(local, DType.BF16, hidden);
                    for (final long chosen : HostData.sample(random, call.maxTokens(), COMPARED_TOKENS)) {
                        final int token = (int) chosen;
                        final float[] sum = new float[hidden];
                        if (part.expert) {
                            addExperts(sum, rank, token, rows);
                        }
                        for (int peer = 0; peer < call.group().ranks(); peer++) {
                            final int slot = places.slots[peer][rank][token];
                            if (slot < 0 || (part.expert && peer == rank)) {
                                continue;
                            }
                            float[] partial = new float[hidden];
                            if (part.expert) {
                                addExperts(partial, peer, token, rows);
                                rounded.setFloats(partial);
                                partial = rounded.toFloats();
                            } else {
                                partial = rows.select(0, slot % DRAWN_ROWS).toFloats();
                            }
                            for (int i = 0; i < hidden; i++) {
                                sum[i] += partial[i];
                            }
                        }
                        rounded.setFloats(sum);
                        differing += HostData.differing(download(sums.select(0, token), local), rounded);
                    }
                }
                return differing;
            }

            private void addExperts(final float[] sum, final int peer, final int token, final HostTensor rows) {
                for (int k = 0; k < call.group().topK(); k++) {
                    final int row = places.rows[peer][rank][token * call.group().topK() + k];
                    if (row < 0) {
                        continue;
                    }
                    final float[] values = rows.select(0, row % DRAWN_ROWS).toFloats();
                    final float weight = weights.getFloat(token, k);
                    for (int i = 0; i < sum.length; i++) {
                        sum[i] = Math.fma(weight, values[i], sum[i]);
                    }
                }
            }

            @Override
            public void close() {
                dispatch.close();
                combine.close();
                there.close();
                back.close();
                together.close();
                group.close();
                arena.close();
                stream.close();
                kernels.close();
            }
        }

        private float[] scalesOf(final int row) {
            return Objects.requireNonNull(travelling).scales().select(0, row).toFloats();
        }

        private static void copyRow(final HostTensor from, final int row, final HostTensor to, final int place) {
            final long bytes = from.shape().size(1) * from.dtype().size();
            MemorySegment.copy(
                    from.segment(),
                    row * from.spec().strides().step(0) * from.dtype().size(),
                    to.segment(),
                    place * to.spec().strides().step(0) * to.dtype().size(),
                    bytes);
        }

        /** BF16 rows from which the rows that come back are made, packed; the same for every rank. */
        private HostTensor backRows(final Arena local) {
            final HostTensor rows = HostTensor.allocate(
                    local,
                    TensorSpec.packed(DType.BF16, DRAWN_ROWS, call.group().hidden()));
            HostData.fillWithNormalFast(rows, new SplitMix64(DRAWN_ROWS));
            return rows;
        }
    }
}
