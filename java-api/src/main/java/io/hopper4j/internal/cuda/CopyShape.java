package io.hopper4j.internal.cuda;

import io.hopper4j.TensorSpec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Arguments;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/**
 * Two tensors of one shape as rows of bytes with a pitch on either side: what one 2-D copy can move.
 *
 * @param rowBytes bytes that lie together on both sides
 * @param rows how many such rows there are
 * @param first pitch of the first tensor in bytes
 * @param second pitch of the second tensor in bytes
 */
record CopyShape(long rowBytes, long rows, long first, long second) {
    /** A dimension with its stride on either side. */
    private record Dim(long size, long first, long second) {}

    /**
     * {@return the rows of two tensors}
     *
     * @param operation name for messages
     * @param first a tensor
     * @param second another one of the same type and shape
     * @throws IllegalArgumentException if they differ, or their strides need more than one 2-D copy
     */
    static CopyShape of(final String operation, final TensorSpec first, final TensorSpec second) {
        if (first.dtype() != second.dtype() || !first.shape().equals(second.shape())) {
            throw Arguments.bad(
                    operation + ": host tensor",
                    second.dtype() + " " + second.shape(),
                    first.dtype() + " " + first.shape() + ", as on the device");
        }
        final int size = first.dtype().size();
        if (first.elements() == 0) {
            return new CopyShape(0, 0, 0, 0);
        }
        // Innermost first; then as many dimensions as lie together form a row, and the rest must be evenly spaced.
        final List<Dim> dims = new ArrayList<>();
        for (int d = 0; d < first.rank(); d++) {
            if (first.shape().size(d) > 1) {
                dims.add(new Dim(
                        first.shape().size(d),
                        first.strides().step(d),
                        second.strides().step(d)));
            }
        }
        dims.sort(Comparator.comparingLong(Dim::first));
        int next = 0;
        long row = 1;
        while (next < dims.size() && dims.get(next).first == row && dims.get(next).second == row) {
            row *= dims.get(next++).size;
        }
        if (next == dims.size()) {
            return new CopyShape(row * size, 1, row * size, row * size);
        }
        final long firstPitch = dims.get(next).first;
        final long secondPitch = dims.get(next).second;
        long rows = dims.get(next++).size;
        boolean even = firstPitch >= row && secondPitch >= row;
        for (; next < dims.size(); next++) {
            even &= dims.get(next).first == firstPitch * rows && dims.get(next).second == secondPitch * rows;
            rows *= dims.get(next).size;
        }
        Arguments.require(
                even,
                operation + ": strides",
                first.strides() + " on the device, " + second.strides() + " on the host",
                "contiguous, or rows or columns at one distance, in the same order on both sides");
        return new CopyShape(row * size, rows, firstPitch * size, secondPitch * size);
    }

    /** Puts the copy into a stream and answers the status. */
    int copy(
            final MemorySegment stream,
            final long destination,
            final long destinationPitch,
            final long source,
            final long sourcePitch,
            final Call call) {
        if (rows <= 1) {
            return hopper4j_h.h4j_copy(stream, destination, source, rowBytes * rows, call.error());
        }
        return hopper4j_h.h4j_copy_2d(
                stream, destination, destinationPitch, source, sourcePitch, rowBytes, rows, call.error());
    }
}
