package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.internal.codec.Bf16;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GroupBuffers;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.BitSet;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What dispatch and combine compute, as one rank sees it: {@link DispatchSpec} and {@link CombineSpec} with loops. Ranks are shown each other's tokens
 * whole; which rows a rank keeps, and where, is what the loops say.
 */
final class ExpertExchange {
    private static final int NONE = -1;

    private ExpertExchange() {}

    // ---- what a handle holds

    /** {@return memory of a handle in bytes: rows from each rank, a slot for each token and rank, a row and a weight for each row and k} */
    static long handleBytes(final ExpertGroupSpec group, final int tokens) {
        final long rows = (long) group.ranks() * tokens;
        return Integer.BYTES * (group.ranks() + rows + 2 * rows * group.topK());
    }

    /** Reads and writes a handle. */
    private record Handle(ExpertGroupSpec group, int tokens, MemorySegment memory) {
        private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
        private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

        int received(final int rank) {
            return memory.getAtIndex(INT, rank);
        }

        void setReceived(final int rank, final int rows) {
            memory.setAtIndex(INT, rank, rows);
        }

        private long slotAt(final int token, final int rank) {
            return group.ranks() + (long) token * group.ranks() + rank;
        }

        int slot(final int token, final int rank) {
            return memory.getAtIndex(INT, slotAt(token, rank));
        }

        void setSlot(final int token, final int rank, final int slot) {
            memory.setAtIndex(INT, slotAt(token, rank), slot);
        }

        private long entryAt(final int slot, final int k) {
            return group.ranks() + (long) group.ranks() * tokens + (long) slot * group.topK() + k;
        }

        int row(final int slot, final int k) {
            return memory.getAtIndex(INT, entryAt(slot, k));
        }

        float weight(final int slot, final int k) {
            return memory.getAtIndex(FLOAT, entryAt(slot, k) + (long) group.ranks() * tokens * group.topK());
        }

        void setRow(final int slot, final int k, final int row, final float weight) {
            memory.setAtIndex(INT, entryAt(slot, k), row);
            memory.setAtIndex(FLOAT, entryAt(slot, k) + (long) group.ranks() * tokens * group.topK(), weight);
        }
    }

    // ---- dispatch

    /** {@return this rank's tokens as they travel} */
    static Parcel parcel(
            final DispatchSpec spec,
            final DispatchOperands<HostTensor> x,
            final HostTensor rows,
            final @Nullable HostTensor scales,
            final int tokens) {
        final ExpertGroupSpec group = spec.group();
        final int k = group.topK();
        final int[] experts = new int[tokens * k];
        final float[] weights = new float[tokens * k];
        final MemorySegment expertMemory = x.experts().segment();
        for (int i = 0; i < experts.length; i++) {
            final int expert = expertMemory.getAtIndex(ValueLayout.JAVA_INT_UNALIGNED, i);
            experts[i] = expert >= 0 && expert < group.experts() ? expert : NONE;
            weights[i] = x.weights().segment().getAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, i);
        }
        final int width = group.hidden() * group.rowDType().size();
        final byte[] bytes = new byte[tokens * width];
        for (int token = 0; token < tokens; token++) {
            MemorySegment.copy(rows.select(0, token).segment(), ValueLayout.JAVA_BYTE, 0, bytes, token * width, width);
        }
        final float[] scaleValues =
                scales == null ? new float[0] : scales.slice(0, 0, tokens).toFloats();
        return new Parcel(tokens, experts, weights, bytes, scaleValues);
    }

    /**
     * Refuses expert numbers that do not exist.
     *
     * @throws IllegalArgumentException if there is one; the message names the first
     */
    static void requireExperts(final DispatchSpec spec, final DispatchOperands<HostTensor> x, final int tokens) {
        final int experts = spec.group().experts();
        for (int i = 0; i < tokens * spec.group().topK(); i++) {
            final int expert = x.experts().segment().getAtIndex(ValueLayout.JAVA_INT_UNALIGNED, i);
            if (expert < NONE || expert >= experts) {
                throw new IllegalArgumentException(
                        "moe_dispatch: experts[" + i + "]: got " + expert + ", need -1.." + (experts - 1));
            }
        }
    }

    private static boolean goesTo(final ExpertGroupSpec group, final Parcel parcel, final int token, final int rank) {
        for (int k = 0; k < group.topK(); k++) {
            if (localExpert(group, parcel.experts()[token * group.topK() + k], rank) != NONE) {
                return true;
            }
        }
        return false;
    }

    /** Whether an earlier k of the token names the same expert. In latency calls, where an expert has a slot for each token, such a one is left out. */
    private static boolean isRepeated(final ExpertGroupSpec group, final Parcel parcel, final int entry) {
        for (int earlier = entry - entry % group.topK(); earlier < entry; earlier++) {
            if (parcel.experts()[earlier] == parcel.experts()[entry]) {
                return true;
            }
        }
        return false;
    }

    /** The rank's own number of an expert. */
    private static int localExpert(final ExpertGroupSpec group, final int expert, final int rank) {
        final int per = group.expertsPerRank();
        return expert != NONE && expert / per == rank ? expert - rank * per : NONE;
    }

    /** Takes what comes to this rank. {@code parcels} has null for ranks that do not take part. */
    static void dispatch(
            final DispatchSpec spec,
            final int me,
            final List<@Nullable Parcel> parcels,
            final GroupBuffers<HostTensor> buffers,
            final DispatchOperands<HostTensor> x) {
        final ExpertGroupSpec group = spec.group();
        final boolean latency = spec.mode() == MoeMode.LATENCY;
        final Handle handle = new Handle(group, spec.maxTokens(), x.handle().segment());
        writeSlots(group, me, parcels, handle);

        final int[] begins = begins(spec, me, parcels, x);
        final int[] used = new int[begins.length];
        int slot = 0;
        for (int source = 0; source < group.ranks(); source++) {
            final Parcel parcel = parcels.get(source);
            int received = 0;
            for (int token = 0; parcel != null && token < parcel.tokens(); token++) {
                if (!goesTo(group, parcel, token, me)) {
                    continue;
                }
                for (int k = 0; k < group.topK(); k++) {
                    final int entry = token * group.topK() + k;
                    final int expert = localExpert(group, parcel.experts()[entry], me);
                    int row = NONE;
                    if (expert != NONE
                            && spec.layout() == MoeLayout.EXPERT
                            && !(latency && isRepeated(group, parcel, entry))) {
                        row = begins[expert] + used[expert]++;
                        placeRow(spec, parcel, token, row, x);
                    }
                    handle.setRow(slot, k, row, parcel.weights()[entry]);
                    if (spec.layout() == MoeLayout.RANK && !spec.reuse()) {
                        buffers.experts()
                                .segment()
                                .setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, (long) slot * group.topK() + k, expert);
                        buffers.weights()
                                .segment()
                                .setAtIndex(
                                        ValueLayout.JAVA_FLOAT_UNALIGNED,
                                        (long) slot * group.topK() + k,
                                        parcel.weights()[entry]);
                    }
                }
                if (spec.layout() == MoeLayout.RANK) {
                    copyRow(group, parcel, token, buffers.rows().select(0, slot));
                    copyScales(
                            group,
                            parcel,
                            token,
                            buffers.scales() == null ? null : buffers.scales().select(0, slot));
                }
                slot++;
                received++;
            }
            handle.setReceived(source, received);
            if (x.received() != null) {
                final int count = latency ? parcel == null ? 0 : parcel.tokens() : received;
                x.received().segment().setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, source, count);
            }
        }
        if (x.received() != null && !latency) {
            x.received().segment().setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, group.ranks(), slot);
        }
    }

    /** Where each of this rank's tokens stands at every rank. */
    private static void writeSlots(
            final ExpertGroupSpec group, final int me, final List<@Nullable Parcel> parcels, final Handle handle) {
        final int[] next = new int[group.ranks()];
        for (int source = 0; source <= me; source++) {
            final Parcel parcel = parcels.get(source);
            for (int token = 0; parcel != null && token < parcel.tokens(); token++) {
                final BitSet ranks = ranksOf(group, parcel, token);
                for (int rank = 0; rank < group.ranks(); rank++) {
                    final boolean goes = ranks.get(rank) && parcels.get(rank) != null;
                    if (source == me) {
                        handle.setSlot(token, rank, goes ? next[rank] : NONE);
                    }
                    next[rank] += goes ? 1 : 0;
                }
            }
        }
    }

    private static BitSet ranksOf(final ExpertGroupSpec group, final Parcel parcel, final int token) {
        final BitSet ranks = new BitSet(group.ranks());
        for (int k = 0; k < group.topK(); k++) {
            final int expert = parcel.experts()[token * group.topK() + k];
            if (expert != NONE) {
                ranks.set(expert / group.expertsPerRank());
            }
        }
        return ranks;
    }

    /** First row of each local expert; writes how many rows each has. */
    private static int[] begins(
            final DispatchSpec spec,
            final int me,
            final List<@Nullable Parcel> parcels,
            final DispatchOperands<HostTensor> x) {
        final ExpertGroupSpec group = spec.group();
        final HostTensor expertRows = x.expertRows();
        final int[] begins = new int[group.localExperts(me)];
        if (expertRows == null) {
            return begins;
        }
        final int[] counts = new int[begins.length];
        for (final Parcel parcel : parcels) {
            for (int entry = 0; parcel != null && entry < parcel.experts().length; entry++) {
                final int expert = localExpert(group, parcel.experts()[entry], me);
                if (expert != NONE && !(spec.mode() == MoeMode.LATENCY && isRepeated(group, parcel, entry))) {
                    counts[expert]++;
                }
            }
        }
        final MemorySegment ranges = expertRows.segment();
        int begin = 0;
        for (int expert = 0; expert < begins.length; expert++) {
            if (spec.mode() == MoeMode.LATENCY) {
                begins[expert] = expert * group.ranks() * group.latencyTokens();
                ranges.setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, expert, counts[expert]);
            } else {
                begins[expert] = begin;
                ranges.setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, 2L * expert, begin);
                ranges.setAtIndex(ValueLayout.JAVA_INT_UNALIGNED, 2L * expert + 1, begin + counts[expert]);
                begin += Math.ceilDiv(counts[expert], spec.alignment()) * spec.alignment();
            }
        }
        return begins;
    }

    private static void placeRow(
            final DispatchSpec spec,
            final Parcel parcel,
            final int token,
            final int row,
            final DispatchOperands<HostTensor> x) {
        final HostTensor out = x.out();
        if (out == null) {
            return;
        }
        final HostTensor scales = x.outScales();
        if (spec.mode() == MoeMode.LATENCY) {
            final int slots = spec.group().ranks() * spec.group().latencyTokens();
            copyRow(spec.group(), parcel, token, out.select(0, row / slots).select(0, row % slots));
            copyScales(
                    spec.group(),
                    parcel,
                    token,
                    scales == null ? null : scales.select(0, row / slots).select(0, row % slots));
        } else if (row < out.shape().size(0)) {
            copyRow(spec.group(), parcel, token, out.select(0, row));
            copyScales(spec.group(), parcel, token, scales == null ? null : scales.select(0, row));
        }
    }

    private static void copyRow(
            final ExpertGroupSpec group, final Parcel parcel, final int token, final HostTensor target) {
        final int width = group.hidden() * group.rowDType().size();
        MemorySegment.copy(parcel.rows(), token * width, target.segment(), ValueLayout.JAVA_BYTE, 0, width);
    }

    private static void copyScales(
            final ExpertGroupSpec group, final Parcel parcel, final int token, final @Nullable HostTensor target) {
        if (target == null) {
            return;
        }
        for (int block = 0; block < group.blocks(); block++) {
            target.setFloat(parcel.scales()[token * group.blocks() + block], block);
        }
    }

    // ---- combine

    /** {@return this rank's partial row of every row that came, in order} */
    static byte[] partials(
            final CombineSpec spec,
            final int me,
            final GroupBuffers<HostTensor> buffers,
            final CombineOperands<HostTensor> x) {
        final ExpertGroupSpec group = spec.group();
        final Handle handle = new Handle(group, spec.maxTokens(), x.handle().segment());
        int rows = 0;
        for (int source = 0; source < group.ranks(); source++) {
            rows += handle.received(source);
        }
        final ByteBuffer out =
                ByteBuffer.allocate(rows * group.hidden() * Double.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        int slot = 0;
        for (int source = 0; source < group.ranks(); source++) {
            final boolean rounded = source != me;
            for (int i = 0; i < handle.received(source); i++, slot++) {
                final double[] sum = new double[group.hidden()];
                if (spec.layout() == MoeLayout.RANK) {
                    addRow(sum, buffers.partials().select(0, slot), 1);
                } else {
                    sumExperts(spec, handle, slot, x, sum);
                }
                for (final double value : sum) {
                    out.putDouble(rounded ? Bf16.toFloat(Bf16.fromFloat((float) value)) : value);
                }
            }
        }
        return out.array();
    }

    private static void sumExperts(
            final CombineSpec spec,
            final Handle handle,
            final int slot,
            final CombineOperands<HostTensor> operands,
            final double[] sum) {
        final HostTensor x = operands.x();
        for (int k = 0; x != null && k < spec.group().topK(); k++) {
            final int row = handle.row(slot, k);
            if (row == NONE) {
                continue;
            }
            final int slots = spec.group().ranks() * spec.group().latencyTokens();
            final HostTensor source =
                    spec.mode() == MoeMode.LATENCY ? x.select(0, row / slots).select(0, row % slots) : x.select(0, row);
            addRow(sum, source, handle.weight(slot, k));
        }
    }

    private static void addRow(final double[] sum, final HostTensor row, final double weight) {
        final float[] values = row.toFloats();
        for (int i = 0; i < sum.length; i++) {
            sum[i] += weight * values[i];
        }
    }

    /** Sums the partial rows of this rank's tokens. {@code partials} has null for ranks that do not take part. */
    static void combine(
            final CombineSpec spec,
            final List<byte @Nullable []> partials,
            final CombineOperands<HostTensor> x,
            final int tokens) {
        final ExpertGroupSpec group = spec.group();
        final Handle handle = new Handle(group, spec.maxTokens(), x.handle().segment());
        final HostTensor residual = x.residual();
        for (int token = 0; token < tokens; token++) {
            final double[] sum = new double[group.hidden()];
            for (int rank = 0; rank < group.ranks(); rank++) {
                final int slot = handle.slot(token, rank);
                final byte[] part = partials.get(rank);
                if (slot == NONE || part == null) {
                    continue;
                }
                final ByteBuffer in = ByteBuffer.wrap(part).order(ByteOrder.LITTLE_ENDIAN);
                for (int i = 0; i < sum.length; i++) {
                    sum[i] += in.getDouble((slot * group.hidden() + i) * Double.BYTES);
                }
            }
            if (residual != null) {
                addRow(sum, residual.select(0, token), 1);
            }
            final HostTensor out = x.out().select(0, token);
            for (int i = 0; i < sum.length; i++) {
                out.setFloat((float) sum[i], i);
            }
        }
    }
}
