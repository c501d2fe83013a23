package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceInfo;
import io.hopper4j.DeviceTensor;
import io.hopper4j.OpSpec;
import io.hopper4j.TensorSpec;
import io.hopper4j.bindings.h4j_group_buffers_info;
import io.hopper4j.bindings.h4j_group_spec;
import io.hopper4j.bindings.h4j_moe_combine_args;
import io.hopper4j.bindings.h4j_moe_combine_spec;
import io.hopper4j.bindings.h4j_moe_dispatch_args;
import io.hopper4j.bindings.h4j_moe_dispatch_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.MoeOperands;
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
import io.hopper4j.moe.GroupBuffers;
import io.hopper4j.moe.Rendezvous;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A rank with a window of device memory that its peers reach. */
final class CudaExpertGroup implements ExpertGroup<DeviceTensor> {
    private static final int BLOB = hopper4j_h.H4J_GROUP_BLOB_BYTES();
    private static final int TMA = 16;
    private static final int HANDLE = 256;

    private final CudaKernels kernels;
    private final Lifetime.Lease kernelsLease;
    private final ExpertGroupSpec spec;
    private final int rank;
    private final MemorySegment handle;
    private final Lifetime lifetime;
    /** Has views of the window, no memory. */
    private final CudaArena arena;

    private final CudaStream stream;
    /** This device, with the NVLink rate that all ranks plan with. */
    private final DeviceInfo planned;

    private final List<GroupBuffers<DeviceTensor>> buffers = new ArrayList<>();

    private CudaExpertGroup(
            final CudaKernels kernels,
            final Lifetime.Lease kernelsLease,
            final ExpertGroupSpec spec,
            final int rank,
            final MemorySegment handle,
            final float linkGBs) {
        this.kernels = kernels;
        this.kernelsLease = kernelsLease;
        this.spec = spec;
        this.rank = rank;
        this.handle = handle;
        final DeviceInfo info = kernels.device().info();
        this.planned = linkGBs > 0 ? info.withNvlinkGBs(linkGBs) : info;
        this.lifetime = new Lifetime(this, "expert group, rank " + rank + " of " + spec.ranks());
        this.stream = (CudaStream) kernels.device().openStream();
        this.arena = new CudaArena(stream);
        for (int channel = 0; channel < spec.channels(); channel++) {
            buffers.add(view(channel));
        }
    }

    /** Opens the native group and brings it together with its peers; takes over the lease, and returns it on failure. */
    static CudaExpertGroup open(
            final CudaKernels kernels,
            final Lifetime.Lease lease,
            final ExpertGroupSpec spec,
            final Rendezvous rendezvous) {
        MemorySegment opened = MemorySegment.NULL;
        try (Call call = new Call()) {
            Arguments.require(
                    rendezvous.ranks() == spec.ranks(),
                    "group: rendezvous",
                    rendezvous,
                    "one of " + spec.ranks() + " ranks");
            final int rank = rendezvous.rank();
            final BitSet all = new BitSet();
            all.set(0, spec.ranks());
            // Before memory is taken, which depends on the spec.
            final List<byte @Nullable []> specs = rendezvous.allGather(
                    MoeOperands.describe(spec).getBytes(StandardCharsets.US_ASCII), all, spec.deadline());
            for (int peer = 0; peer < spec.ranks(); peer++) {
                MoeOperands.requireSame(spec, rank, new String(given(specs, peer), StandardCharsets.US_ASCII), peer);
            }
            call.check(hopper4j_h.h4j_group_open(
                    kernels.device().handle(), describe(spec, rank, call.arena()), call.output(), call.error()));
            opened = call.handle();
            final MemorySegment blob = call.arena().allocate(BLOB);
            call.check(hopper4j_h.h4j_group_export(opened, blob, BLOB, call.error()));
            final List<byte @Nullable []> blobs =
                    rendezvous.allGather(blob.toArray(ValueLayout.JAVA_BYTE), all, spec.deadline());
            final MemorySegment together = call.arena().allocate((long) BLOB * spec.ranks());
            for (int peer = 0; peer < spec.ranks(); peer++) {
                MemorySegment.copy(given(blobs, peer), 0, together, ValueLayout.JAVA_BYTE, (long) peer * BLOB, BLOB);
            }
            call.check(hopper4j_h.h4j_group_connect(opened, together, together.byteSize(), call.error()));
            // Nobody writes to a peer before that peer has connected too, and has told what its links reach.
            final float link = h4j_group_buffers_info.link_gbs(info(opened, 0, call));
            final List<byte @Nullable []> links = rendezvous.allGather(MoeOperands.link(link), all, spec.deadline());
            return new CudaExpertGroup(kernels, lease, spec, rank, opened, MoeOperands.leastLink(links));
        } catch (RuntimeException e) {
            if (!opened.equals(MemorySegment.NULL)) {
                hopper4j_h.h4j_group_close(opened, MemorySegment.NULL);
            }
            lease.release();
            throw e;
        }
    }

    private static byte[] given(final List<byte @Nullable []> parts, final int peer) {
        final byte[] part = parts.get(peer);
        if (part == null) {
            throw new IllegalStateException("group: rendezvous: got nothing from rank " + peer + ", need its part");
        }
        return part;
    }

    private static MemorySegment describe(final ExpertGroupSpec spec, final int rank, final Arena arena) {
        final MemorySegment s = arena.allocate(h4j_group_spec.layout());
        h4j_group_spec.struct_size(s, (int) h4j_group_spec.sizeof());
        h4j_group_spec.rank(s, rank);
        h4j_group_spec.ranks(s, spec.ranks());
        h4j_group_spec.experts(s, spec.experts());
        h4j_group_spec.top_k(s, spec.topK());
        h4j_group_spec.hidden(s, spec.hidden());
        h4j_group_spec.max_tokens(s, spec.maxTokens());
        h4j_group_spec.latency_tokens(s, spec.latencyTokens());
        h4j_group_spec.channels(s, spec.channels());
        h4j_group_spec.sm_budget(s, spec.smBudget());
        h4j_group_spec.row_dtype(s, spec.rowDType().code());
        h4j_group_spec.scale_kind(
                s,
                spec.scaleKind() == ScaleKind.POWER_OF_TWO
                        ? hopper4j_h.H4J_SCALE_POWER_OF_TWO()
                        : hopper4j_h.H4J_SCALE_F32());
        h4j_group_spec.deadline_us(s, Math.max(1, spec.deadline().toNanos() / 1000));
        return s;
    }

    private static MemorySegment info(final MemorySegment group, final int channel, final Call call) {
        final MemorySegment info = call.arena().allocate(h4j_group_buffers_info.layout());
        h4j_group_buffers_info.struct_size(info, (int) h4j_group_buffers_info.sizeof());
        call.check(hopper4j_h.h4j_group_buffers(group, channel, info, call.error()));
        return info;
    }

    private GroupBuffers<DeviceTensor> view(final int channel) {
        try (Call call = new Call()) {
            final MemorySegment info = info(handle, channel, call);
            final GroupBuffers.Specs specs = MoeOperands.bufferSpecs(spec);
            return new GroupBuffers<>(
                    arena.wrap(h4j_group_buffers_info.rows(info), specs.rows()),
                    spec.isScaled() ? arena.wrap(h4j_group_buffers_info.scales(info), specs.scales()) : null,
                    arena.wrap(h4j_group_buffers_info.experts(info), specs.experts()),
                    arena.wrap(h4j_group_buffers_info.weights(info), specs.weights()),
                    arena.wrap(h4j_group_buffers_info.partials(info), specs.partials()));
        }
    }

    @Override
    public ExpertGroupSpec spec() {
        return spec;
    }

    @Override
    public int rank() {
        return rank;
    }

    @Override
    public GroupBuffers<DeviceTensor> buffers(final int channel) {
        lifetime.requireOpen();
        Arguments.require(
                channel >= 0 && channel < buffers.size(), "group: channel", channel, "0.." + (buffers.size() - 1));
        return buffers.get(channel);
    }

    @Override
    public DispatchPlan<DeviceTensor> plan(final DispatchSpec call) {
        MoeOperands.requireGroup(call.operation(), call.group(), spec);
        return leased(
                call.operation(),
                groupLease -> kernels.plan(planned, call, (s, made) -> new PlannedDispatch(this, groupLease, s, made)));
    }

    @Override
    public CombinePlan<DeviceTensor> plan(final CombineSpec call) {
        MoeOperands.requireGroup(call.operation(), call.group(), spec);
        return leased(
                call.operation(),
                groupLease -> kernels.plan(planned, call, (s, made) -> new PlannedCombine(this, groupLease, s, made)));
    }

    private <P> P leased(final String operation, final java.util.function.Function<Lifetime.Lease, P> maker) {
        final Lifetime.Lease lease = lifetime.lease(operation + " plan");
        try {
            return maker.apply(lease);
        } catch (RuntimeException e) {
            lease.release();
            throw e;
        }
    }

    @Override
    public void setActive(final int... ranks) {
        final BitSet active = MoeOperands.active(spec, ranks);
        final long[] bits = active.toLongArray();
        lifetime.enterExclusively("setActive");
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_group_set_active(handle, bits.length == 0 ? 0 : bits[0], call.error()));
        } finally {
            lifetime.endExclusive();
        }
    }

    @Override
    public void check() {
        lifetime.enter();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_group_check(handle, call.error()));
        } finally {
            lifetime.exit();
        }
    }

    @Override
    public void close() {
        if (!lifetime.close()) {
            return;
        }
        arena.close();
        stream.close();
        try (Call call = new Call()) {
            call.check(hopper4j_h.h4j_group_close(handle, call.error()));
        } finally {
            kernelsLease.release();
        }
    }

    @Override
    public String toString() {
        return "rank " + rank + " of " + spec.ranks() + " on " + kernels.device();
    }

    // ---- plans

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final DispatchSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_dispatch_spec.layout());
        h4j_moe_dispatch_spec.struct_size(s, (int) h4j_moe_dispatch_spec.sizeof());
        h4j_moe_dispatch_spec.mode(s, spec.mode().code());
        h4j_moe_dispatch_spec.layout(s, spec.layout().code());
        h4j_moe_dispatch_spec.half(s, spec.half().code());
        h4j_moe_dispatch_spec.in_dtype(s, spec.inDType().code());
        h4j_moe_dispatch_spec.alignment(s, spec.alignment());
        h4j_moe_dispatch_spec.channel(s, spec.channel());
        h4j_moe_dispatch_spec.reuse(s, spec.reuse() ? 1 : 0);
        final MemorySegment group = describe(spec.group(), 0, call.arena());
        return hopper4j_h.h4j_moe_dispatch_plan(device, group, s, call.output(), call.error());
    }

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final CombineSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_combine_spec.layout());
        h4j_moe_combine_spec.struct_size(s, (int) h4j_moe_combine_spec.sizeof());
        h4j_moe_combine_spec.mode(s, spec.mode().code());
        h4j_moe_combine_spec.layout(s, spec.layout().code());
        h4j_moe_combine_spec.half(s, spec.half().code());
        h4j_moe_combine_spec.residual(s, spec.residual() ? 1 : 0);
        h4j_moe_combine_spec.channel(s, spec.channel());
        final MemorySegment group = describe(spec.group(), 0, call.arena());
        return hopper4j_h.h4j_moe_combine_plan(device, group, s, call.output(), call.error());
    }

    /** Elements between rows; for one row or none, what packed rows of whole units would have. */
    private static long rowStride(final @Nullable DeviceTensor rows) {
        if (rows == null) {
            return 0;
        }
        final TensorSpec spec = rows.spec();
        final int dim = spec.rank() - 2;
        final long unit = 16 / spec.dtype().size();
        return spec.shape().size(dim) <= 1
                ? Math.ceilDiv(spec.shape().size(dim + 1), unit) * unit
                : spec.strides().step(dim);
    }

    private MemorySegment dispatchArgs(
            final DispatchSpec call, final DispatchOperands<DeviceTensor> x, final Binding binding, final Call memory) {
        final MemorySegment args = memory.arena().allocate(h4j_moe_dispatch_args.layout());
        h4j_moe_dispatch_args.struct_size(args, (int) h4j_moe_dispatch_args.sizeof());
        h4j_moe_dispatch_args.x(args, binding.address("x", x.x(), TMA));
        h4j_moe_dispatch_args.x_ld(args, rowStride(x.x()));
        h4j_moe_dispatch_args.x_scales(args, binding.address("xScales", x.xScales(), Float.BYTES));
        final DeviceTensor xScales = x.xScales();
        if (xScales != null) {
            h4j_moe_dispatch_args.x_scales_ld(args, MoeOperands.scaleStride(call, xScales.spec()));
        }
        h4j_moe_dispatch_args.experts(args, binding.address("experts", x.experts(), TMA));
        h4j_moe_dispatch_args.weights(args, binding.address("weights", x.weights(), TMA));
        h4j_moe_dispatch_args.handle(args, binding.address("handle", x.handle(), HANDLE));
        h4j_moe_dispatch_args.received(args, binding.address("received", x.received(), Integer.BYTES));
        final DeviceTensor out = x.out();
        if (out != null) {
            h4j_moe_dispatch_args.out(args, binding.address("out", out, TMA));
            h4j_moe_dispatch_args.out_ld(args, rowStride(out));
            h4j_moe_dispatch_args.out_rows(args, out.shape().size(0));
        }
        final DeviceTensor outScales = x.outScales();
        if (outScales != null) {
            h4j_moe_dispatch_args.out_scales(args, binding.address("outScales", outScales, Float.BYTES));
            h4j_moe_dispatch_args.out_scales_ld(args, MoeOperands.scaleStride(call, outScales.spec()));
        }
        h4j_moe_dispatch_args.expert_rows(args, binding.address("expertRows", x.expertRows(), Integer.BYTES));
        return args;
    }

    private MemorySegment combineArgs(final CombineOperands<DeviceTensor> x, final Binding binding, final Call memory) {
        final MemorySegment args = memory.arena().allocate(h4j_moe_combine_args.layout());
        h4j_moe_combine_args.struct_size(args, (int) h4j_moe_combine_args.sizeof());
        h4j_moe_combine_args.handle(args, binding.address("handle", x.handle(), HANDLE));
        h4j_moe_combine_args.x(args, binding.address("x", x.x(), TMA));
        h4j_moe_combine_args.x_ld(args, rowStride(x.x()));
        h4j_moe_combine_args.residual(args, binding.address("residual", x.residual(), TMA));
        h4j_moe_combine_args.residual_ld(args, rowStride(x.residual()));
        h4j_moe_combine_args.out(args, binding.address("out", x.out(), TMA));
        h4j_moe_combine_args.out_ld(args, rowStride(x.out()));
        return args;
    }

    /** A plan made for a group, which it keeps open. */
    private abstract static class GroupPlan<S extends OpSpec> extends CudaPlan<S> {
        final CudaExpertGroup group;
        private final Lifetime.Lease groupLease;

        GroupPlan(final CudaExpertGroup group, final Lifetime.Lease groupLease, final S spec, final NativePlan made) {
            super(spec, made);
            this.group = group;
            this.groupLease = groupLease;
        }

        @Override
        public final void close() {
            super.close();
            groupLease.release();
        }
    }

    private static final class PlannedDispatch extends GroupPlan<DispatchSpec> implements DispatchPlan<DeviceTensor> {
        PlannedDispatch(
                final CudaExpertGroup group,
                final Lifetime.Lease groupLease,
                final DispatchSpec spec,
                final NativePlan made) {
            super(group, groupLease, spec, made);
        }

        @Override
        public long outRows() {
            return MoeOperands.worstRows(spec(), group.rank);
        }

        @Override
        public DispatchLaunch<DeviceTensor> bind(final DispatchOperands<DeviceTensor> operands) {
            MoeOperands.check(spec(), group.rank, operands, handleBytes());
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    group.handle,
                    hopper4j_h::h4j_moe_dispatch_bind,
                    (binding, call) -> group.dispatchArgs(spec(), operands, binding, call),
                    BoundDispatch::new);
        }

        private final class BoundDispatch extends CudaLaunch implements DispatchLaunch<DeviceTensor> {
            BoundDispatch(final NativeLaunch made) {
                super(PlannedDispatch.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final DispatchOperands<DeviceTensor> operands) {
                MoeOperands.check(spec(), group.rank, operands, handleBytes());
                rebind(
                        hopper4j_h::h4j_moe_dispatch_rebind,
                        (binding, call) -> group.dispatchArgs(spec(), operands, binding, call));
            }
        }
    }

    private static final class PlannedCombine extends GroupPlan<CombineSpec> implements CombinePlan<DeviceTensor> {
        PlannedCombine(
                final CudaExpertGroup group,
                final Lifetime.Lease groupLease,
                final CombineSpec spec,
                final NativePlan made) {
            super(group, groupLease, spec, made);
        }

        @Override
        public CombineLaunch<DeviceTensor> bind(final CombineOperands<DeviceTensor> operands) {
            MoeOperands.check(spec(), group.rank, operands, handleBytes());
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    group.handle,
                    hopper4j_h::h4j_moe_combine_bind,
                    (binding, call) -> group.combineArgs(operands, binding, call),
                    BoundCombine::new);
        }

        private final class BoundCombine extends CudaLaunch implements CombineLaunch<DeviceTensor> {
            BoundCombine(final NativeLaunch made) {
                super(PlannedCombine.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final CombineOperands<DeviceTensor> operands) {
                MoeOperands.check(spec(), group.rank, operands, handleBytes());
                rebind(
                        hopper4j_h::h4j_moe_combine_rebind,
                        (binding, call) -> group.combineArgs(operands, binding, call));
            }
        }
    }
}
