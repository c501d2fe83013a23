package io.hopper4j.internal;

import io.hopper4j.DType;
import io.hopper4j.Shape;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GroupBuffers;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.BitSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** What every implementation asks of expert groups and their operands. */
public final class MoeOperands {
    private static final String DISPATCH = "moe_dispatch";
    private static final String COMBINE = "moe_combine";

    private MoeOperands() {}

    /** {@return what a rank tells the others of the rate of its stores to its slowest peer on another device; 0: it has none} */
    public static byte[] link(final float gbs) {
        return Float.toString(gbs).getBytes(StandardCharsets.US_ASCII);
    }

    /**
     * {@return the rate that all ranks plan with, the least of those that were measured; 0 where there are none}
     *
     * @param told what each rank has told
     */
    public static float leastLink(final List<byte @Nullable []> told) {
        float least = 0;
        for (final byte[] rate : told) {
            final float gbs = rate == null ? 0 : Float.parseFloat(new String(rate, StandardCharsets.US_ASCII));
            least = least == 0 || (gbs > 0 && gbs < least) ? gbs : least;
        }
        return least;
    }

    /** {@return rows of {@code out} that are enough in every case; for each expert where it is a latency call} */
    public static long worstRows(final DispatchSpec spec, final int rank) {
        final ExpertGroupSpec group = spec.group();
        if (spec.mode() == MoeMode.LATENCY) {
            return (long) group.ranks() * group.latencyTokens();
        }
        if (spec.layout() == MoeLayout.RANK) {
            return group.maxRows();
        }
        // An expert may be named more than once in a token.
        final long most = group.maxRows() * group.topK() + (long) group.localExperts(rank) * (spec.alignment() - 1);
        return Math.ceilDiv(most, spec.alignment()) * spec.alignment();
    }

    /** {@return the fields of a spec by name, for messages} */
    private static Map<String, Object> fields(final ExpertGroupSpec spec) {
        final Map<String, Object> fields = new LinkedHashMap<>();
        fields.put("ranks", spec.ranks());
        fields.put("experts", spec.experts());
        fields.put("topK", spec.topK());
        fields.put("hidden", spec.hidden());
        fields.put("maxTokens", spec.maxTokens());
        fields.put("latencyTokens", spec.latencyTokens());
        fields.put("channels", spec.channels());
        fields.put("smBudget", spec.smBudget());
        fields.put("rowDType", spec.rowDType());
        fields.put("scaleKind", spec.scaleKind());
        return fields;
    }

    /** {@return a spec as ranks exchange it} */
    public static String describe(final ExpertGroupSpec spec) {
        final StringBuilder text = new StringBuilder();
        fields(spec)
                .forEach((name, value) ->
                        text.append(name).append('=').append(value).append('\n'));
        return text.toString();
    }

    /**
     * Compares a peer's spec with this rank's.
     *
     * @throws IllegalArgumentException if they differ; the message names the field
     */
    public static void requireSame(final ExpertGroupSpec mine, final int rank, final String theirs, final int peer) {
        final List<String> ours = describe(mine).lines().toList();
        final List<String> lines = theirs.lines().toList();
        for (int i = 0; i < ours.size(); i++) {
            final String line = i < lines.size() ? lines.get(i) : "nothing";
            if (!line.equals(ours.get(i))) {
                final String[] field = ours.get(i).split("=", 2);
                throw Arguments.bad(
                        "group: " + field[0],
                        line.substring(line.indexOf('=') + 1) + " at rank " + peer,
                        field[1] + " as at rank " + rank);
            }
        }
    }

    /**
     * {@return the ranks as a set}
     *
     * @throws IllegalArgumentException if there is no such rank
     */
    public static BitSet active(final ExpertGroupSpec spec, final int... ranks) {
        final BitSet set = new BitSet(spec.ranks());
        Arrays.stream(ranks).forEach(rank -> {
            Arguments.require(
                    rank >= 0 && rank < spec.ranks(), "group: active", "rank " + rank, "0.." + (spec.ranks() - 1));
            set.set(rank);
        });
        return set;
    }

    /**
     * Checks that a call is of a group.
     *
     * @throws IllegalArgumentException if it is of another
     */
    public static void requireGroup(final String operation, final ExpertGroupSpec called, final ExpertGroupSpec open) {
        Arguments.require(called.equals(open), operation + ": group", called, open);
    }

    /** {@return the specs of a channel's memory} */
    public static GroupBuffers.Specs bufferSpecs(final ExpertGroupSpec group) {
        final long rows = group.maxRows();
        final long unit = group.isScaled() ? 16 : 8;
        final long ld = Math.ceilDiv(group.hidden(), unit) * unit;
        return new GroupBuffers.Specs(
                TensorSpec.strided(group.rowDType(), new long[] {rows, group.hidden()}, new long[] {ld, 1}),
                TensorSpec.strided(
                        DType.F32, new long[] {rows, group.blocks()}, new long[] {1, Math.ceilDiv(rows, 4) * 4}),
                TensorSpec.packed(DType.I32, rows, group.topK()),
                TensorSpec.packed(DType.F32, rows, group.topK()),
                TensorSpec.packed(DType.BF16, rows, group.hidden()));
    }

    /**
     * Checks the operands of a dispatch.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static <T extends Tensor> void check(
            final DispatchSpec spec, final int rank, final DispatchOperands<T> x, final long handleBytes) {
        Objects.requireNonNull(x, "operands");
        final ExpertGroupSpec group = spec.group();
        final long tokens = spec.maxTokens();
        rows(DISPATCH, "x", x.x().spec(), spec.inDType(), tokens, group.hidden());
        if (spec.inDType() == DType.F8_E4M3) {
            columns(DISPATCH, "xScales", given(DISPATCH, "xScales", x.xScales()).spec(), tokens, group.blocks());
        } else {
            absent(DISPATCH, "xScales", x.xScales(), "dtype " + spec.inDType());
        }
        packed(DISPATCH, "experts", x.experts().spec(), DType.I32, tokens, group.topK());
        packed(DISPATCH, "weights", x.weights().spec(), DType.F32, tokens, group.topK());
        bytes(DISPATCH, x.handle().spec(), handleBytes);
        if (x.received() != null) {
            packed(DISPATCH, "received", x.received().spec(), DType.I32, group.ranks() + 1L);
        }
        if (spec.layout() == MoeLayout.RANK) {
            absent(DISPATCH, "out", x.out(), "the layout RANK");
            absent(DISPATCH, "outScales", x.outScales(), "the layout RANK");
            absent(DISPATCH, "expertRows", x.expertRows(), "the layout RANK");
            return;
        }
        final TensorSpec out = given(DISPATCH, "out", x.out()).spec();
        final long local = group.localExperts(rank);
        final boolean latency = spec.mode() == MoeMode.LATENCY;
        final long slots = (long) group.ranks() * group.latencyTokens();
        if (latency) {
            shape(DISPATCH, "out", out, group.rowDType(), local, slots, group.hidden());
            final boolean oneAfterAnother = local <= 1
                    || slots == 0
                    || out.strides().step(0) == slots * out.strides().step(1);
            stride(DISPATCH, "out", out, 1, group.hidden());
            Arguments.require(
                    oneAfterAnother, DISPATCH + ": out", "strides " + out.strides(), "experts one after another");
            packed(
                    DISPATCH,
                    "expertRows",
                    given(DISPATCH, "expertRows", x.expertRows()).spec(),
                    DType.I32,
                    local);
        } else {
            Arguments.require(
                    out.rank() == 2, DISPATCH + ": out", "shape " + out.shape(), "[rows," + group.hidden() + "]");
            rows(DISPATCH, "out", out, group.rowDType(), out.shape().size(0), group.hidden());
            packed(
                    DISPATCH,
                    "expertRows",
                    given(DISPATCH, "expertRows", x.expertRows()).spec(),
                    DType.I32,
                    local,
                    2);
        }
        if (!group.isScaled()) {
            absent(DISPATCH, "outScales", x.outScales(), "BF16 rows");
            return;
        }
        final TensorSpec scales = given(DISPATCH, "outScales", x.outScales()).spec();
        if (latency) {
            shape(DISPATCH, "outScales", scales, DType.F32, local, slots, group.blocks());
            final long ld = scaleStride(spec, scales);
            final boolean packedSlots = slots == 1 || scales.strides().step(1) == 1;
            final boolean oneAfterAnother = local == 1 || scales.strides().step(0) == group.blocks() * ld;
            final boolean fits = scales.elements() == 0 || (packedSlots && ld >= slots && oneAfterAnother);
            Arguments.require(
                    fits,
                    DISPATCH + ": outScales",
                    "strides " + scales.strides(),
                    "[" + group.blocks() + "*ld,1,ld] with ld at least " + slots);
        } else {
            columns(DISPATCH, "outScales", scales, out.shape().size(0), group.blocks());
        }
    }

    /** {@return elements between the blocks of checked scales in the layout EXPERT} */
    public static long scaleStride(final DispatchSpec spec, final TensorSpec scales) {
        final int dim = scales.rank() - 1;
        return scales.shape().size(dim) > 1
                ? scales.strides().step(dim)
                : Math.max(1, scales.shape().size(dim - 1));
    }

    /** {@return scales for the rows of an expert's slots in a latency call, as {@code outScales} wants them} */
    public static TensorSpec latencyScales(final ExpertGroupSpec group, final int rank) {
        final long slots = (long) group.ranks() * group.latencyTokens();
        return TensorSpec.strided(DType.F32, new long[] {group.localExperts(rank), slots, group.blocks()}, new long[] {
            group.blocks() * slots, 1, slots
        });
    }

    /**
     * Checks the operands of a combine.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static <T extends Tensor> void check(
            final CombineSpec spec, final int rank, final CombineOperands<T> x, final long handleBytes) {
        Objects.requireNonNull(x, "operands");
        final ExpertGroupSpec group = spec.group();
        final long tokens = spec.maxTokens();
        bytes(COMBINE, x.handle().spec(), handleBytes);
        if (spec.layout() == MoeLayout.RANK) {
            absent(COMBINE, "x", x.x(), "the layout RANK");
        } else {
            final TensorSpec rows = given(COMBINE, "x", x.x()).spec();
            if (spec.mode() == MoeMode.LATENCY) {
                final long slots = (long) group.ranks() * group.latencyTokens();
                shape(COMBINE, "x", rows, DType.BF16, group.localExperts(rank), slots, group.hidden());
                stride(COMBINE, "x", rows, 1, group.hidden());
                Arguments.require(
                        rows.shape().size(0) <= 1
                                || rows.strides().step(0)
                                        == slots * rows.strides().step(1),
                        COMBINE + ": x",
                        "strides " + rows.strides(),
                        "experts one after another");
            } else {
                Arguments.require(
                        rows.rank() == 2, COMBINE + ": x", "shape " + rows.shape(), "[rows," + group.hidden() + "]");
                rows(COMBINE, "x", rows, DType.BF16, rows.shape().size(0), group.hidden());
            }
        }
        if (spec.residual()) {
            rows(
                    COMBINE,
                    "residual",
                    given(COMBINE, "residual", x.residual()).spec(),
                    DType.BF16,
                    tokens,
                    group.hidden());
        } else {
            absent(COMBINE, "residual", x.residual(), "a spec without");
        }
        rows(COMBINE, "out", x.out().spec(), DType.BF16, tokens, group.hidden());
    }

    // ---- helpers

    private static <T> T given(final String operation, final String name, final @Nullable T tensor) {
        if (tensor == null) {
            throw Arguments.bad(operation + ": " + name, "null", "a tensor");
        }
        return tensor;
    }

    private static void absent(
            final String operation, final String name, final @Nullable Object tensor, final String why) {
        if (tensor != null) {
            throw Arguments.bad(operation + ": " + name, tensor, "null with " + why);
        }
    }

    private static void shape(
            final String operation, final String name, final TensorSpec spec, final DType dtype, final long... dims) {
        if (spec.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + spec.dtype(), dtype);
        }
        if (!spec.shape().equals(Shape.of(dims))) {
            throw Arguments.bad(operation + ": " + name, "shape " + spec.shape(), Shape.of(dims));
        }
    }

    private static void packed(
            final String operation, final String name, final TensorSpec spec, final DType dtype, final long... dims) {
        shape(operation, name, spec, dtype, dims);
        if (!spec.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, "strides " + spec.strides(), "contiguous");
        }
    }

    /** Rows of packed elements that start at multiples of 16 bytes. */
    private static void rows(
            final String operation,
            final String name,
            final TensorSpec spec,
            final DType dtype,
            final long rows,
            final long cols) {
        shape(operation, name, spec, dtype, rows, cols);
        stride(operation, name, spec, 0, cols);
    }

    private static void stride(
            final String operation, final String name, final TensorSpec spec, final int dim, final long cols) {
        final int unit = 16 / spec.dtype().size();
        final long ld = spec.strides().step(dim);
        final boolean fits =
                spec.strides().step(dim + 1) == 1 && (spec.shape().size(dim) <= 1 || (ld >= cols && ld % unit == 0));
        if (spec.elements() > 0 && !fits) {
            throw Arguments.bad(
                    operation + ": " + name,
                    "strides " + spec.strides(),
                    "packed rows, at least " + cols + " elements apart, a multiple of " + unit);
        }
    }

    /** Scales with packed columns. */
    private static void columns(
            final String operation, final String name, final TensorSpec spec, final long rows, final long cols) {
        shape(operation, name, spec, DType.F32, rows, cols);
        final boolean fits = (rows <= 1 || spec.strides().step(0) == 1)
                && (cols <= 1 || spec.strides().step(1) >= rows);
        if (spec.elements() > 0 && !fits) {
            throw Arguments.bad(
                    operation + ": " + name, "strides " + spec.strides(), "[1,ld] with ld at least " + rows);
        }
    }

    private static void bytes(final String operation, final TensorSpec spec, final long bytes) {
        if (spec.dtype() != DType.U8 || !spec.isContiguous() || spec.elements() < bytes) {
            throw Arguments.bad(operation + ": handle", spec, "at least " + bytes + " bytes of contiguous U8");
        }
    }
}
