package io.hopper4j.internal;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;

import io.hopper4j.DType;
import io.hopper4j.Shape;
import io.hopper4j.Support.Reason;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** What {@link Operands} is for matrices, for attention: what a spec and its tensors must satisfy, in one place each. */
public final class AttentionOperands {
    private static final String OPERATION = "mla_decode";
    private static final String SCHEDULE_OPERATION = "mla_schedule";
    private static final String MERGE = "mla_merge";

    /** Rows of values start at a multiple of 16 bytes, which TMA can read. */
    private static final int TMA_BYTES = 16;

    private static final int UNIT = TMA_BYTES / Short.BYTES;

    /** Positions are 32-bit integers, and sums of two of them must be. */
    private static final int LONGEST = Integer.MAX_VALUE / 2;

    private static final String AT_MOST_LONGEST = "at most " + LONGEST;

    private AttentionOperands() {}

    // ---- specs ----

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final MlaDecodeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(reasons, spec.heads() <= 128, "mla_decode: heads", spec.heads(), "1..128");
        Operands.need(reasons, spec.sQ() <= 1024, "mla_decode: sQ", spec.sQ(), "1..1024");
        Operands.need(
                reasons,
                spec.pageSize() <= 1024 && Integer.bitCount(spec.pageSize()) == 1,
                "mla_decode: pageSize",
                spec.pageSize(),
                "a power of two up to 1024");
        Operands.need(reasons, spec.window() <= LONGEST, "mla_decode: window", spec.window(), AT_MOST_LONGEST);
        Operands.need(reasons, spec.maxBatch() <= 65535, "mla_decode: maxBatch", spec.maxBatch(), "at most 65535");
        Operands.need(reasons, spec.maxLength() <= LONGEST, "mla_decode: maxLength", spec.maxLength(), AT_MOST_LONGEST);
        Operands.need(
                reasons, spec.pages() <= Integer.MAX_VALUE, "mla_decode: pages", spec.pages(), "at most 2147483647");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final MlaMergeSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(
                reasons,
                spec.outDType() == DType.BF16 || spec.outDType() == DType.F32,
                "mla_merge: outDType",
                spec.outDType(),
                "BF16 or F32");
        Operands.need(reasons, spec.heads() <= 128, "mla_merge: heads", spec.heads(), "1..128");
        Operands.need(reasons, spec.sQ() <= 1024, "mla_merge: sQ", spec.sQ(), "1..1024");
        Operands.need(reasons, spec.maxBatch() <= 65535, "mla_merge: maxBatch", spec.maxBatch(), "at most 65535");
        return reasons;
    }

    /** {@return every need of the kernels that a spec does not meet} */
    public static List<Reason> unmetNeeds(final MlaCacheWriteSpec spec) {
        final List<Reason> reasons = new ArrayList<>();
        Operands.need(
                reasons,
                spec.weightDType() == DType.BF16 || spec.weightDType() == DType.F32,
                "mla_cache_write: weight",
                "dtype " + spec.weightDType(),
                "BF16 or F32");
        Operands.need(
                reasons,
                spec.positionDType() == DType.I32 || spec.positionDType() == DType.I64,
                "mla_cache_write: positions",
                "dtype " + spec.positionDType(),
                "I32 or I64");
        Operands.need(
                reasons,
                spec.pageSize() <= 1024 && Integer.bitCount(spec.pageSize()) == 1,
                "mla_cache_write: pageSize",
                spec.pageSize(),
                "a power of two up to 1024");
        Operands.need(
                reasons, spec.maxLength() <= LONGEST, "mla_cache_write: maxLength", spec.maxLength(), AT_MOST_LONGEST);
        Operands.need(
                reasons,
                spec.pages() <= Integer.MAX_VALUE,
                "mla_cache_write: pages",
                spec.pages(),
                "at most 2147483647");
        return reasons;
    }

    // ---- operands ----

    /**
     * Checks the operands of cache writing.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(final MlaCacheWriteSpec spec, final MlaCacheWriteOperands<?> x) {
        Objects.requireNonNull(x, "operands");
        final String operation = spec.operation();
        final long tokens = spec.maxTokens();
        Operands.matrix(operation, "in", x.in().spec(), DType.BF16, tokens, TOKEN_DIM, UNIT);
        Operands.vector(operation, "weight", x.weight().spec(), true, spec.weightDType(), VALUE_DIM);
        packed(operation, "rope", x.rope().spec(), DType.F32, spec.maxLength(), TOKEN_DIM - VALUE_DIM);
        Operands.vector(operation, "positions", x.positions().spec(), true, spec.positionDType(), tokens);
        Operands.vector(operation, "requests", specOf(x.requests()), x.requests() != null, DType.I32, tokens);
        table(
                operation,
                spec.maxBatch(),
                spec.maxLength(),
                spec.pageSize(),
                x.blockTable().spec());
        final MlaCacheFormat format = spec.format();
        final int unit = TMA_BYTES / format.dtype().size();
        final TensorSpec cache = x.cache().spec();
        shaped(operation, "cache", cache, format.dtype(), spec.pages(), spec.pageSize(), format.tokenSize());
        final long token = tokenStride(cache);
        final long page = pageStride(cache);
        if (cache.strides().step(2) != 1
                || token < format.tokenSize()
                || token % unit != 0
                || page < spec.pageSize() * token
                || page % unit != 0) {
            throw Arguments.bad(
                    operation + ": cache",
                    "strides " + cache.strides(),
                    "[p,t,1] with t at least " + format.tokenSize() + " and p at least " + spec.pageSize()
                            + " t, multiples of " + unit);
        }
    }

    /**
     * Checks the operands of a schedule.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void checkSchedule(
            final MlaDecodeSpec spec,
            final TensorSpec lengths,
            final @Nullable TensorSpec qTokens,
            final TensorSpec schedule,
            final long scheduleBytes) {
        perRequest(SCHEDULE_OPERATION, spec, lengths, qTokens);
        bytes(SCHEDULE_OPERATION, "schedule", schedule, scheduleBytes);
    }

    /**
     * Checks the operands of a decode.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(
            final MlaDecodeSpec spec,
            final MlaDecodeOperands<?> x,
            final long scheduleBytes,
            final long workspaceBytes) {
        Objects.requireNonNull(x, "operands");
        final long b = spec.maxBatch();
        final TensorSpec q = x.q().spec();
        shaped(OPERATION, "q", q, DType.BF16, b, spec.sQ(), spec.heads(), TOKEN_DIM);
        final long row = rowStride(spec, q);
        strided("q", q, TOKEN_DIM, UNIT, row, spec.heads() * row, (long) spec.sQ() * spec.heads() * row);

        final TensorSpec cache = x.cache().spec();
        final int size = spec.cacheFormat().tokenSize();
        final int unit = TMA_BYTES / cache.dtype().size();
        shaped(OPERATION, "cache", cache, spec.cacheFormat().dtype(), spec.pages(), spec.pageSize(), size);
        final long token = tokenStride(cache);
        final long page = pageStride(cache);
        strided("cache", cache, size, unit, token, page);
        if (page < spec.pageSize() * token || page % unit != 0) {
            throw Arguments.bad(
                    "mla_decode: cache",
                    "strides " + cache.strides(),
                    "pages at least " + spec.pageSize() * token + " apart, by a multiple of " + unit);
        }

        table(
                OPERATION,
                spec.maxBatch(),
                spec.maxLength(),
                spec.pageSize(),
                x.blockTable().spec());
        perRequest(OPERATION, spec, x.lengths().spec(), specOf(x.qTokens()));
        if (x.sink() != null) {
            packed(OPERATION, "sink", x.sink().spec(), DType.F32, spec.heads());
        }
        bytes(OPERATION, "schedule", x.schedule().spec(), scheduleBytes);
        packed(OPERATION, "out", x.out().spec(), DType.BF16, b, spec.sQ(), spec.heads(), VALUE_DIM);
        packed(OPERATION, "lse", x.lse().spec(), DType.F32, b, spec.heads(), spec.sQ());
        Operands.checkWorkspace(OPERATION, specOf(x.workspace()), workspaceBytes);
    }

    /**
     * Checks the operands of a merge.
     *
     * @throws IllegalArgumentException if a type, shape or stride does not fit
     */
    public static void check(
            final MlaMergeSpec spec, final MlaResult<?> a, final MlaResult<?> b, final MlaResult<?> merged) {
        check(spec, "a", a);
        check(spec, "b", b);
        check(spec, "merged", merged);
    }

    private static void check(final MlaMergeSpec spec, final String name, final MlaResult<?> result) {
        Objects.requireNonNull(result, name);
        final String out = name + ".out";
        final String lse = name + ".lse";
        packed(MERGE, out, result.out().spec(), spec.outDType(), spec.maxBatch(), spec.sQ(), spec.heads(), VALUE_DIM);
        packed(MERGE, lse, result.lse().spec(), DType.F32, spec.maxBatch(), spec.heads(), spec.sQ());
    }

    private static @Nullable TensorSpec specOf(final @Nullable Tensor tensor) {
        return tensor == null ? null : tensor.spec();
    }

    // ---- strides ----

    /** {@return elements between the rows of queries, that is between heads, or tokens or requests of one head} */
    public static long rowStride(final MlaDecodeSpec spec, final TensorSpec q) {
        if (spec.heads() > 1) {
            return q.strides().step(2);
        }
        if (spec.sQ() > 1) {
            return q.strides().step(1);
        }
        return spec.maxBatch() > 1 ? q.strides().step(0) : TOKEN_DIM;
    }

    /** {@return elements between the tokens of a page} */
    public static long tokenStride(final TensorSpec cache) {
        return cache.shape().size(1) > 1
                ? cache.strides().step(1)
                : cache.shape().size(2);
    }

    /** {@return elements between pages} */
    public static long pageStride(final TensorSpec cache) {
        return cache.shape().size(0) > 1
                ? cache.strides().step(0)
                : cache.shape().size(1) * tokenStride(cache);
    }

    /** {@return elements between the rows of the block table} */
    public static long tableStride(final TensorSpec table) {
        return table.shape().size(0) > 1
                ? table.strides().step(0)
                : Math.max(1, table.shape().size(1));
    }

    /** Innermost packed, rows {@code row} apart, the dimensions outside at {@code outer} apart, innermost of them first. */
    private static void strided(
            final String name,
            final TensorSpec spec,
            final int length,
            final int unit,
            final long row,
            final long... outer) {
        final int last = spec.rank() - 1;
        boolean fits = spec.strides().step(last) == 1 && row >= length && row % unit == 0;
        for (int i = 0; i < outer.length; i++) {
            final int dim = last - 2 - i;
            fits &= spec.shape().size(dim) <= 1 || spec.strides().step(dim) == outer[i];
        }
        if (!fits && spec.elements() > 0) {
            throw Arguments.bad(
                    OPERATION + ": " + name,
                    "strides " + spec.strides(),
                    "rows of " + length + " at one distance, a multiple of " + unit);
        }
    }

    private static void table(
            final String operation,
            final long batch,
            final long maxLength,
            final int pageSize,
            final TensorSpec table) {
        final long width = Math.ceilDiv(maxLength, pageSize);
        requireType(operation, "blockTable", table, DType.I32);
        final Shape shape = table.shape();
        if (shape.rank() != 2 || shape.size(0) != batch || shape.size(1) < width) {
            throw Arguments.bad(
                    operation + ": blockTable",
                    "shape " + shape,
                    "[" + batch + ",w] with w at least " + width + " = ceil(" + maxLength + "/" + pageSize + ")");
        }
        final long ld = tableStride(table);
        if ((shape.size(1) > 1 && table.strides().step(1) != 1) || ld < width) {
            throw Arguments.bad(
                    operation + ": blockTable", "strides " + table.strides(), "[ld,1] with ld at least " + width);
        }
    }

    private static void perRequest(
            final String operation,
            final MlaDecodeSpec spec,
            final TensorSpec lengths,
            final @Nullable TensorSpec qTokens) {
        packed(operation, "lengths", lengths, DType.I32, spec.maxBatch());
        if (qTokens != null) {
            packed(operation, "qTokens", qTokens, DType.I32, spec.maxBatch());
        }
    }

    private static void bytes(final String operation, final String name, final TensorSpec spec, final long bytes) {
        if (spec.dtype() != DType.U8 || !spec.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, spec, "contiguous U8");
        }
        if (spec.elements() < bytes) {
            throw Arguments.bad(operation + ": " + name, spec.elements() + " bytes", "at least " + bytes + " bytes");
        }
    }

    private static void packed(
            final String operation, final String name, final TensorSpec spec, final DType dtype, final long... dims) {
        shaped(operation, name, spec, dtype, dims);
        if (!spec.isContiguous()) {
            throw Arguments.bad(operation + ": " + name, "strides " + spec.strides(), "a contiguous tensor");
        }
    }

    private static void shaped(
            final String operation, final String name, final TensorSpec spec, final DType dtype, final long... dims) {
        requireType(operation, name, spec, dtype);
        final Shape need = Shape.of(dims);
        if (!spec.shape().equals(need)) {
            throw Arguments.bad(operation + ": " + name, "shape " + spec.shape(), need);
        }
    }

    private static void requireType(
            final String operation, final String name, final TensorSpec spec, final DType dtype) {
        if (spec.dtype() != dtype) {
            throw Arguments.bad(operation + ": " + name, "dtype " + spec.dtype(), dtype);
        }
    }
}
