package io.hopper4j.contract;

import io.hopper4j.DType;
import io.hopper4j.Shape;
import io.hopper4j.Strides;
import io.hopper4j.TensorSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/**
 * An operand of a random call: what an operation asks of it, and layouts that keep or break that.
 *
 * @param name as messages have it
 * @param dims its shape
 * @param kind how it may lie
 * @param unit elements that rows, or columns of scales, start at a multiple of
 * @param elements what it holds, row by row; null for what is only written, and for scratch memory
 * @param presence whether it must be there
 */
@SuppressWarnings("ArrayRecordComponent") // nobody compares these records
record Operand(
        String name,
        DType dtype,
        long[] dims,
        Kind kind,
        int unit,
        float @Nullable [] elements,
        boolean isWritten,
        Presence presence) {
    /** How an operand may lie. */
    enum Kind {
        /** Packed rows that may be farther apart than they are long, and matrices that may be. */
        ROWS,
        /** As {@link #ROWS}, all rows of all matrices at one distance. */
        EVEN_ROWS,
        /** As {@link #ROWS}, of any number. */
        ANY_ROWS,
        /** As {@link #ROWS}, which may be longer than needed. */
        TABLE,
        /** Scales of 1x128 blocks: packed columns that may be farther apart than they are long. */
        COLUMNS,
        /** Contiguous. */
        PACKED,
        /** Contiguous bytes, at least so many. */
        BYTES
    }

    /** Whether an operand must be there. */
    enum Presence {
        NEEDED,
        OPTIONAL,
        FORBIDDEN
    }

    static Operand rows(final String name, final DType dtype, final float @Nullable [] elements, final long... dims) {
        return of(Kind.ROWS, name, dtype, 16 / dtype.size(), elements, dims);
    }

    static Operand packed(final String name, final DType dtype, final float @Nullable [] elements, final long... dims) {
        return of(Kind.PACKED, name, dtype, 1, elements, dims);
    }

    static Operand columns(final String name, final float @Nullable [] elements, final long... dims) {
        return of(Kind.COLUMNS, name, DType.F32, 4, elements, dims);
    }

    static Operand of(
            final Kind kind,
            final String name,
            final DType dtype,
            final int unit,
            final float @Nullable [] elements,
            final long... dims) {
        return new Operand(name, dtype, dims, kind, unit, elements, elements == null, Presence.NEEDED);
    }

    /** Bytes that a launch uses as it likes, at least so many. */
    static Operand scratch(final String name, final long bytes) {
        return new Operand(name, DType.U8, new long[] {bytes}, Kind.BYTES, 1, null, false, Presence.NEEDED);
    }

    boolean isScratch() {
        return elements == null && !isWritten;
    }

    /** This operand, read and written. */
    Operand updated() {
        return new Operand(name, dtype, dims, kind, unit, elements, true, presence);
    }

    Operand with(final Presence other) {
        return new Operand(name, dtype, dims, kind, unit, elements, isWritten, other);
    }

    Operand with(final Kind other, final int otherUnit) {
        return new Operand(name, dtype, dims, other, otherUnit, elements, isWritten, presence);
    }

    private int rank() {
        return dims.length;
    }

    // ---- layouts that fit ----

    /** A layout that fits: the tightest, or one with random gaps. */
    TensorSpec layout(final @Nullable SplittableRandom random) {
        return spec(dtype, dims, strides(random));
    }

    private long[] strides(final @Nullable SplittableRandom random) {
        final long[] steps = new long[rank()];
        switch (kind) {
            case PACKED, BYTES -> {
                return Strides.packed(Shape.of(dims)).toArray();
            }
            case COLUMNS -> {
                steps[rank() - 2] = 1;
                steps[rank() - 1] = up(dims[rank() - 2]) + gap(random);
                if (rank() == 3) {
                    steps[0] = dims[2] * steps[2] + gap(random);
                }
            }
            default -> {
                steps[rank() - 1] = 1;
                long inside = dims[rank() - 1];
                for (int d = rank() - 2; d >= 0; d--) {
                    steps[d] = up(inside) + (kind == Kind.EVEN_ROWS && d < rank() - 2 ? 0 : gap(random));
                    inside = dims[d] * steps[d];
                }
            }
        }
        return steps;
    }

    private long up(final long size) {
        return Math.ceilDiv(size, unit) * unit;
    }

    private long gap(final @Nullable SplittableRandom random) {
        return random == null ? 0 : (long) unit * random.nextInt(3);
    }

    private static TensorSpec spec(final DType dtype, final long[] dims, final long[] steps) {
        return TensorSpec.strided(dtype, dims, steps);
    }

    // ---- layouts that do not ----

    /** Another type. */
    TensorSpec ofAnotherType(final SplittableRandom random) {
        final DType[] all = DType.values();
        DType other = dtype;
        while (other == dtype) {
            other = all[random.nextInt(all.length)];
        }
        return spec(other, dims, strides(null));
    }

    /** Another shape. */
    TensorSpec ofAnotherShape(final SplittableRandom random) {
        final List<long[]> shapes = new ArrayList<>();
        for (int d = kind == Kind.ANY_ROWS ? 1 : 0; d < rank(); d++) {
            final boolean mayGrow = kind == Kind.BYTES || (kind == Kind.TABLE && d == rank() - 1);
            if (!mayGrow) {
                shapes.add(changed(d, 1));
            }
            shapes.add(changed(d, -1));
        }
        if (kind != Kind.BYTES) {
            final long[] more = java.util.Arrays.copyOf(dims, rank() + 1);
            more[rank()] = 1;
            shapes.add(more);
            shapes.add(java.util.Arrays.copyOf(dims, rank() - 1));
        }
        return TensorSpec.packed(dtype, shapes.get(random.nextInt(shapes.size())));
    }

    private long[] changed(final int dim, final long by) {
        final long[] copy = dims.clone();
        copy[dim] += by;
        return copy;
    }

    /** The shape with other strides; null where no strides are wrong. */
    @Nullable
    TensorSpec ofOtherStrides(final SplittableRandom random) {
        final List<long[]> wrong = new ArrayList<>();
        final long[] steps = strides(null);
        if (kind == Kind.PACKED || kind == Kind.BYTES) {
            for (int d = 0; d < rank(); d++) {
                if (dims[d] > 1) {
                    wrong.add(stepped(steps, d, 2 * steps[d]));
                    wrong.add(stepped(steps, d, 0));
                }
            }
        } else {
            final int inner = kind == Kind.COLUMNS ? rank() - 2 : rank() - 1;
            final int outer = kind == Kind.COLUMNS ? rank() - 1 : rank() - 2;
            if (dims[inner] > 1) {
                wrong.add(stepped(steps, inner, 2));
                wrong.add(stepped(steps, inner, 0));
            }
            if (dims[outer] > 1) {
                wrong.add(stepped(steps, outer, dims[inner] - 1));
                wrong.add(stepped(steps, outer, 0));
                if (unit > 1) {
                    wrong.add(stepped(steps, outer, steps[outer] + 1));
                }
            }
        }
        return wrong.isEmpty() ? null : spec(dtype, dims, wrong.get(random.nextInt(wrong.size())));
    }

    private static long[] stepped(final long[] steps, final int dim, final long step) {
        final long[] copy = steps.clone();
        copy[dim] = step;
        return copy;
    }
}
