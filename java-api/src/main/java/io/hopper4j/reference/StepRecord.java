package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.attention.MlaDecodeSpec;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.jspecify.annotations.Nullable;

/**
 * The reference's schedule of a decode step. Nothing has to be divided here, so it only keeps what it was made from, and decoding by a schedule
 * of another step, which on a GPU would give wrong results, is refused.
 */
final class StepRecord {
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final int ALL_TOKENS = -1;

    private StepRecord() {}

    /** {@return how long a schedule is: the batch in use, then length and query tokens of each request} */
    static long bytes(final long maxBatch) {
        return Integer.BYTES * (1 + 2 * maxBatch);
    }

    static void write(
            final HostTensor lengths, final @Nullable HostTensor qTokens, final long batch, final HostTensor schedule) {
        final MemorySegment memory = schedule.segment();
        memory.set(INT, 0, (int) batch);
        for (long r = 0; r < batch; r++) {
            memory.set(INT, Integer.BYTES * (1 + 2 * r), PagedLatentAttention.integer(lengths, r));
            memory.set(INT, Integer.BYTES * (2 + 2 * r), tokens(qTokens, r));
        }
    }

    /**
     * Checks what a schedule was made from.
     *
     * @throws BadData if a length or a number of query tokens lies outside its bounds; the first is named
     */
    static void requireBounds(
            final MlaDecodeSpec spec, final HostTensor lengths, final @Nullable HostTensor qTokens, final long batch) {
        requireBounds("mla_schedule: lengths", lengths, batch, spec.maxLength());
        if (qTokens != null) {
            requireBounds("mla_schedule: q_tokens", qTokens, batch, spec.sQ());
        }
    }

    private static void requireBounds(
            final String argument, final HostTensor values, final long batch, final long most) {
        for (long r = 0; r < batch; r++) {
            final int value = PagedLatentAttention.integer(values, r);
            if (value < 0 || value > most) {
                throw new BadData(BadData.describe(argument, r, value, most));
            }
        }
    }

    /**
     * Checks that a schedule is that of a step.
     *
     * @throws IllegalStateException if it was made from something else
     */
    static void require(
            final HostTensor lengths, final @Nullable HostTensor qTokens, final long batch, final HostTensor schedule) {
        final MemorySegment memory = schedule.segment();
        boolean same = memory.get(INT, 0) == batch;
        for (long r = 0; r < batch && same; r++) {
            same = memory.get(INT, Integer.BYTES * (1 + 2 * r)) == PagedLatentAttention.integer(lengths, r)
                    && memory.get(INT, Integer.BYTES * (2 + 2 * r)) == tokens(qTokens, r);
        }
        if (!same) {
            throw new IllegalStateException("mla_decode: schedule: got one that was not made from these lengths, query"
                    + " tokens and requests in use, need that of this step");
        }
    }

    private static int tokens(final @Nullable HostTensor qTokens, final long r) {
        return qTokens == null ? ALL_TOKENS : PagedLatentAttention.integer(qTokens, r);
    }
}
