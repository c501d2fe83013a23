package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import java.lang.foreign.ValueLayout;
import org.jspecify.annotations.Nullable;

/**
 * Groups of rows, or of K, by numbers that lie beside the tensors. Numbers that make no sense are cut to the nearest that do; the first of them is
 * remembered.
 */
final class RowGroups {
    private static final int BLOCK = 128;

    private final long[] begins;
    private final long[] ends;
    private @Nullable BadData bad;

    private RowGroups(final int count) {
        this.begins = new long[count];
        this.ends = new long[count];
    }

    /** {@return consecutive groups of the first {@code rows} rows by their ends, {@code [groups]} I32 or I64} */
    static RowGroups consecutive(final String where, final HostTensor ends, final long rows) {
        final RowGroups groups = of(ends);
        long begin = 0;
        for (int g = 0; g < groups.count(); g++) {
            final long end = groups.cut(where, g, at(ends, g), begin, rows);
            groups.begins[g] = begin;
            groups.ends[g] = end;
            begin = end;
        }
        return groups;
    }

    /** {@return groups that each begin at row 0 by their counts of rows, {@code [groups]} I32 or I64} */
    static RowGroups separate(final String where, final HostTensor counts, final long rows) {
        final RowGroups groups = of(counts);
        for (int g = 0; g < groups.count(); g++) {
            groups.ends[g] = groups.cut(where, g, at(counts, g), 0, rows);
        }
        return groups;
    }

    /** {@return consecutive groups of whole blocks of 128 of the first {@code k}; the last block of all, which ends at {@code most}, may be shorter} */
    static RowGroups blocks(final String where, final HostTensor ends, final long k, final long most) {
        final RowGroups groups = of(ends);
        long begin = 0;
        for (int g = 0; g < groups.count(); g++) {
            final long got = at(ends, g);
            final long end = groups.cut(where, g, got, begin, k);
            groups.begins[g] = whole(begin, most);
            groups.ends[g] = whole(end, most);
            groups.cut(where, g, end, groups.ends[g], groups.ends[g]);
            begin = end;
        }
        return groups;
    }

    private static RowGroups of(final HostTensor numbers) {
        return new RowGroups(Math.toIntExact(numbers.shape().size(0)));
    }

    private static long at(final HostTensor numbers, final int index) {
        final long place = numbers.spec().offsetOf(index) * numbers.dtype().size();
        return numbers.dtype() == DType.I64
                ? numbers.segment().get(ValueLayout.JAVA_LONG_UNALIGNED, place)
                : numbers.segment().get(ValueLayout.JAVA_INT_UNALIGNED, place);
    }

    private static long whole(final long end, final long most) {
        return end == most ? end : end - end % BLOCK;
    }

    private long cut(final String where, final int group, final long got, final long low, final long high) {
        if ((got < low || got > high) && bad == null) {
            bad = new BadData(where + "[" + group + "]: got " + got + ", need " + low + ".." + high);
        }
        return Math.min(Math.max(got, low), high);
    }

    int count() {
        return ends.length;
    }

    /** {@return the first row of a group} */
    long begin(final int group) {
        return begins[group];
    }

    /** {@return the row behind the last of a group} */
    long end(final int group) {
        return ends[group];
    }

    /**
     * Tells of the first bad number.
     *
     * @throws BadData if there is one
     */
    void requireGood() {
        if (bad != null) {
            throw bad;
        }
    }
}
