package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.OpSpec;
import io.hopper4j.PeerTimeoutException;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import io.hopper4j.TensorSpec;
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
import io.hopper4j.moe.MoeHalf;
import io.hopper4j.moe.Rendezvous;
import java.lang.foreign.Arena;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * A rank of any number of them in one process or several: it shows its tokens to the others in the rendezvous and takes what comes to it. A launch waits on
 * the calling thread, so each rank needs a thread of its own.
 */
final class ReferenceExpertGroup implements ExpertGroup<HostTensor> {
    private final ExpertGroupSpec spec;
    private final Rendezvous rendezvous;
    private final Lifetime lifetime;
    private final Arena arena = Arena.ofShared();
    private final List<GroupBuffers<HostTensor>> buffers = new ArrayList<>();
    /** What a first half has taken up for its second one, one for each channel. */
    private final byte[] @Nullable [] started;

    private volatile BitSet active;
    private volatile @Nullable PeerTimeoutException lost;

    ReferenceExpertGroup(final ExpertGroupSpec spec, final Rendezvous rendezvous, final Lifetime kernels) {
        Arguments.require(
                rendezvous.ranks() == spec.ranks(),
                "group: rendezvous",
                rendezvous,
                "one of " + spec.ranks() + " ranks");
        this.spec = spec;
        this.rendezvous = rendezvous;
        this.started = new byte[spec.channels()][];
        this.active = new BitSet();
        active.set(0, spec.ranks());
        final List<byte @Nullable []> specs = rendezvous.allGather(
                MoeOperands.describe(spec).getBytes(StandardCharsets.US_ASCII), active, spec.deadline());
        for (int peer = 0; peer < spec.ranks(); peer++) {
            final byte[] theirs = specs.get(peer);
            if (theirs != null) {
                MoeOperands.requireSame(spec, rank(), new String(theirs, StandardCharsets.US_ASCII), peer);
            }
        }
        this.lifetime = new Lifetime("expert group", List.of(kernels));
        final GroupBuffers.Specs specsOf = MoeOperands.bufferSpecs(spec);
        for (int channel = 0; channel < spec.channels(); channel++) {
            buffers.add(new GroupBuffers<>(
                    allocate(specsOf.rows()),
                    spec.isScaled() ? allocate(specsOf.scales()) : null,
                    allocate(specsOf.experts()),
                    allocate(specsOf.weights()),
                    allocate(specsOf.partials())));
        }
    }

    private HostTensor allocate(final TensorSpec tensor) {
        return HostTensor.allocate(arena, tensor);
    }

    @Override
    public ExpertGroupSpec spec() {
        return spec;
    }

    @Override
    public int rank() {
        return rendezvous.rank();
    }

    @Override
    public GroupBuffers<HostTensor> buffers(final int channel) {
        lifetime.requireOpen();
        Arguments.require(
                channel >= 0 && channel < buffers.size(), "group: channel", channel, "0.." + (buffers.size() - 1));
        return buffers.get(channel);
    }

    @Override
    public DispatchPlan<HostTensor> plan(final DispatchSpec call) {
        MoeOperands.requireGroup(call.operation(), call.group(), spec);
        return new HostDispatch(this, call);
    }

    @Override
    public CombinePlan<HostTensor> plan(final CombineSpec call) {
        MoeOperands.requireGroup(call.operation(), call.group(), spec);
        return new HostCombine(this, call);
    }

    @Override
    public void setActive(final int... ranks) {
        active = MoeOperands.active(spec, ranks);
    }

    @Override
    public void check() {
        final PeerTimeoutException failure = lost;
        if (failure != null) {
            throw new PeerTimeoutException(failure.rank(), String.valueOf(failure.getMessage()));
        }
    }

    @Override
    public void close() {
        lifetime.close();
        if (arena.scope().isAlive()) {
            arena.close();
        }
    }

    /** What the ranks that take part show each other. The CUDA kernels tell of a lost peer when they are waited for; here that is at once. */
    private List<byte @Nullable []> exchange(final byte[] mine) {
        try {
            return rendezvous.allGather(mine, active, spec.deadline());
        } catch (final PeerTimeoutException e) {
            lost = e;
            throw e;
        }
    }

    private boolean takesPart() {
        return active.get(rank());
    }

    /** What plans of both calls have in common. */
    private abstract static class GroupPlan<S extends OpSpec> extends HostPlan<S> {
        final ReferenceExpertGroup group;

        GroupPlan(final ReferenceExpertGroup group, final S spec) {
            super(spec, group.lifetime);
            this.group = group;
        }

        /** What launches of both calls have in common. */
        abstract class GroupLaunch extends HostLaunch {
            @Override
            public void launch(final Stream on, final long rows) {
                group.check();
                super.launch(on, rows);
            }
        }
    }

    // ---- dispatch

    private static final class HostDispatch extends GroupPlan<DispatchSpec> implements DispatchPlan<HostTensor> {
        HostDispatch(final ReferenceExpertGroup group, final DispatchSpec spec) {
            super(group, spec);
        }

        @Override
        public long handleBytes() {
            return ExpertExchange.handleBytes(spec().group(), spec().maxTokens());
        }

        @Override
        public long outRows() {
            return MoeOperands.worstRows(spec(), group.rank());
        }

        @Override
        public DispatchLaunch<HostTensor> bind(final DispatchOperands<HostTensor> operands) {
            final BoundDispatch launch = new BoundDispatch();
            launch.rebind(operands);
            return launch;
        }

        private final class BoundDispatch extends GroupLaunch implements DispatchLaunch<HostTensor> {
            @Override
            public void rebind(final DispatchOperands<HostTensor> x) {
                MoeOperands.check(spec(), group.rank(), x, handleBytes());
                bindTo(spec().maxTokens(), tokens -> run(x, (int) tokens));
            }
        }

        private void run(final DispatchOperands<HostTensor> x, final int tokens) {
            final DispatchSpec spec = spec();
            if (spec.half() != MoeHalf.FINISH) {
                group.started[spec.channel()] = travelling(x, tokens).toBytes();
            }
            if (spec.half() == MoeHalf.START) {
                return;
            }
            final byte[] mine = group.started[spec.channel()];
            if (mine == null) {
                throw new IllegalStateException("moe_dispatch: half: got FINISH, need START before it");
            }
            final List<byte @Nullable []> all = group.exchange(mine);
            if (!group.takesPart()) {
                return;
            }
            final List<@Nullable Parcel> parcels = new ArrayList<>();
            for (final byte[] part : all) {
                parcels.add(part == null ? null : Parcel.of(part));
            }
            ExpertExchange.dispatch(spec, group.rank(), parcels, group.buffers(spec.channel()), x);
            ExpertExchange.requireExperts(spec, x, tokens);
        }

        private Parcel travelling(final DispatchOperands<HostTensor> x, final int tokens) {
            final DispatchSpec spec = spec();
            final HostTensor rows = x.x().slice(0, 0, tokens);
            if (!spec.isCast()) {
                return ExpertExchange.parcel(spec, x, rows, x.xScales(), tokens);
            }
            try (Arena scratch = Arena.ofConfined()) {
                final HostTensor values = HostTensor.allocate(
                        scratch,
                        TensorSpec.packed(DType.F8_E4M3, tokens, spec.group().hidden()));
                final HostTensor scales = HostTensor.allocate(
                        scratch, Scaled.activationScaleSpec(tokens, spec.group().hidden()));
                BlockQuantization.quantize(
                        rows,
                        new Scaled<>(values, scales, Scaling.ACTIVATION_1X128),
                        spec.group().scaleKind());
                return ExpertExchange.parcel(spec, x, values, scales, tokens);
            }
        }
    }

    // ---- combine

    private static final class HostCombine extends GroupPlan<CombineSpec> implements CombinePlan<HostTensor> {
        HostCombine(final ReferenceExpertGroup group, final CombineSpec spec) {
            super(group, spec);
        }

        @Override
        public CombineLaunch<HostTensor> bind(final CombineOperands<HostTensor> operands) {
            final BoundCombine launch = new BoundCombine();
            launch.rebind(operands);
            return launch;
        }

        private final class BoundCombine extends GroupLaunch implements CombineLaunch<HostTensor> {
            @Override
            public void rebind(final CombineOperands<HostTensor> x) {
                final long bytes = ExpertExchange.handleBytes(spec().group(), spec().maxTokens());
                MoeOperands.check(spec(), group.rank(), x, bytes);
                bindTo(spec().maxTokens(), tokens -> run(x, (int) tokens));
            }
        }

        private void run(final CombineOperands<HostTensor> x, final int tokens) {
            final CombineSpec spec = spec();
            if (spec.half() != MoeHalf.FINISH) {
                group.started[spec.channel()] = group.takesPart()
                        ? ExpertExchange.partials(spec, group.rank(), group.buffers(spec.channel()), x)
                        : new byte[0];
            }
            if (spec.half() == MoeHalf.START) {
                return;
            }
            final byte[] mine = group.started[spec.channel()];
            if (mine == null) {
                throw new IllegalStateException("moe_combine: half: got FINISH, need START before it");
            }
            final List<byte @Nullable []> all = group.exchange(mine);
            if (group.takesPart()) {
                ExpertExchange.combine(spec, all, x, tokens);
            }
        }
    }

    @Override
    public String toString() {
        return "rank " + rank() + " of " + spec.ranks() + " of the reference";
    }
}
