package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.MatrixProduct;
import io.hopper4j.reference.ProductSample;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.LongStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * What {@code check} can judge of products: dense ones, batches and the forms of groups. An operation says which products its tensors hold; one loop
 * compares them.
 */
final class CheckProducts {
    private static final long SEED = 20261125;

    /** Columns of a sample; all rows of narrower products are compared in full. */
    private static final long WIDEST = 512;

    private static final int BLOCK = 128;

    private static final String A = "a            [M, K] F8_E4M3";
    private static final String A_SCALES = "a_scales     [M, ceil(K/128)] F32";
    private static final String B_STACK = "b            [groups, N, K] F8_E4M3";
    private static final String B_STACK_SCALES = "b_scales     [groups, ceil(N/128), ceil(K/128)] F32";
    private static final String ROW_ENDS = "group_ends   [groups] I32 or I64: the row behind each group's last";

    private CheckProducts() {}

    static List<CheckOperation> all() {
        return List.of(
                new CheckOperation(
                        List.of("gemm", "fp8_gemm_nt"),
                        "d = a b^T (+ c) of block-scaled FP8 matrices, within the bound of GemmTolerance; d may be quantised again",
                        List.of(
                                A,
                                A_SCALES,
                                "b            [N, K] F8_E4M3",
                                "b_scales     [ceil(N/128), ceil(K/128)] F32",
                                "c            [M, N] of the type of d; may be missing; must be where d is F8_E4M3",
                                CheckQuantized.SCALE_KIND + ", where d is F8_E4M3"),
                        List.of(
                                "d            [M, N] BF16, F32 or F8_E4M3",
                                "d_scales     [M, ceil(N/128)] F32, where d is F8_E4M3"),
                        CheckProducts::dense),
                new CheckOperation(
                        List.of("gemm_grouped", "m_grouped_fp8_gemm_nt_contiguous"),
                        "d = a b^T of FP8 matrices, b of the group that each row belongs to, within the bound of GemmTolerance",
                        List.of(A, A_SCALES, B_STACK, B_STACK_SCALES, ROW_ENDS),
                        List.of("d            [M, N] BF16; rows behind the last end are not compared"),
                        of(CheckProducts::grouped)),
                new CheckOperation(
                        List.of("gemm_masked", "m_grouped_fp8_gemm_nt_masked"),
                        "d = a b^T of FP8 matrices, one a group, whose first rows count, within the bound of GemmTolerance",
                        List.of(
                                "a            [groups, M, K] F8_E4M3",
                                "a_scales     [groups, M, ceil(K/128)] F32",
                                B_STACK,
                                B_STACK_SCALES,
                                "counts       [groups] I32 or I64: rows of each group"),
                        List.of("d            [groups, M, N] BF16; rows that do not count are not compared"),
                        of(CheckProducts::masked)),
                new CheckOperation(
                        List.of("gemm_k_grouped", "k_grouped_fp8_gemm_nt_contiguous"),
                        "d = a b^T (+ c) over the columns of each group, 1 x 128 scales on both sides, within the bound of GemmTolerance",
                        List.of(
                                A,
                                A_SCALES,
                                "b            [N, K] F8_E4M3",
                                "b_scales     [N, ceil(K/128)] F32",
                                "group_ends   [groups] I32 or I64: the column behind each group's last, a multiple of 128 or K",
                                "c            [groups, M, N] F32; may be missing"),
                        List.of("d            [groups, M, N] F32"),
                        of(CheckProducts::kGrouped)),
                new CheckOperation(
                        List.of("gemm_bf16", "bf16_gemm_nt"),
                        "d = a b^T (+ c) of a batch of BF16 matrices, within the bound of GemmTolerance.ofBf16",
                        List.of(
                                "a            [batch, M, K] BF16",
                                "b            [batch, N, K] BF16",
                                "c            [batch, M, N] of the type of d; may be missing"),
                        List.of("d            [batch, M, N] BF16 or F32"),
                        of(CheckProducts::bf16)),
                new CheckOperation(
                        List.of("gemm_bf16_grouped", "m_grouped_bf16_gemm_nt_contiguous"),
                        "d = a b^T (+ c) of BF16 matrices, b of the group that each row belongs to, within the bound of GemmTolerance.ofBf16",
                        List.of(
                                "a            [M, K] BF16",
                                "b            [groups, N, K] BF16",
                                ROW_ENDS,
                                "c            [M, N] of the type of d; may be missing"),
                        List.of("d            [M, N] BF16 or F32; rows behind the last end are not compared"),
                        of(CheckProducts::bf16Grouped)));
    }

    // ---- the loop ----

    /** Computes some rows and columns of a product. */
    @FunctionalInterface
    private interface Sampler {
        ProductSample sample(long[] rows, long[] columns);
    }

    /** Where an element of a product lies in the tensor that holds it. */
    @FunctionalInterface
    private interface Place {
        long[] at(long row, long column);
    }

    /** One product: {@code m} rows, {@code n} columns, sums of {@code k}. */
    private record Part(long m, long n, long k, Sampler sampler, Place place) {}

    /** The products that a tensor holds. */
    private record Products(HostTensor d, GemmTolerance tolerance, List<Part> parts) {}

    /** Reads what an operation has. */
    @FunctionalInterface
    private interface Reader {
        Products read(CheckTensors inputs, CheckTensors theirs) throws IOException;
    }

    private static CheckOperation.Judging of(final Reader reader) {
        return (inputs, theirs, budget) -> compare(reader.read(inputs, theirs), budget);
    }

    /** Compares as much of each product as its share of the multiply-adds goes. */
    private static Judgement compare(final Products products, final long budget) {
        final SplitMix64 random = new SplitMix64(SEED);
        final CheckMeasure measure = new CheckMeasure("d");
        final GemmTolerance tolerance = products.tolerance();
        for (final Part part : products.parts()) {
            if (part.m() == 0 || part.n() == 0) {
                continue;
            }
            final long elements = Math.max(1, budget / products.parts().size() / Math.max(1, part.k()));
            final long[] columns =
                    HostData.sample(random, part.n(), part.m() * part.n() <= elements ? part.n() : WIDEST);
            final long[] rows = HostData.sample(random, part.m(), Math.max(4, elements / columns.length));
            final ProductSample exact = part.sampler().sample(rows, columns);
            for (int i = 0; i < rows.length; i++) {
                for (int j = 0; j < columns.length; j++) {
                    final long[] index = part.place().at(rows[i], columns[j]);
                    final float got = products.d().getFloat(index);
                    final double need = exact.value(i, j);
                    tolerance.add(got, need, exact.magnitude(i, j));
                    measure.add(got, need, tolerance.bound(need, exact.magnitude(i, j)), index);
                }
            }
        }
        final GemmTolerance.Result result = tolerance.result();
        return new Judgement(
                List.of(measure),
                List.of(new Row.Measure("1-cos", result.cosineDistance(), result.maxCosineDistance())));
    }

    // ---- pieces of the readers ----

    private static Sampler fp8(final Scaled<HostTensor> a, final Scaled<HostTensor> b, final @Nullable HostTensor c) {
        return (rows, columns) -> BlockScaledProduct.sample(a, b, c, rows, columns);
    }

    private static Sampler bf16(final HostTensor a, final HostTensor b, final @Nullable HostTensor c) {
        return (rows, columns) -> MatrixProduct.sample(a, b, c, rows, columns);
    }

    /** A matrix with scales of 1x128 blocks. */
    private static Scaled<HostTensor> activation(final CheckTensors file, final String name) throws IOException {
        final HostTensor values = file.tensor(name, 2, DType.F8_E4M3);
        final long[] scales = Scaling.ACTIVATION_1X128
                .scaleShape(values.shape().size(0), values.shape().size(1))
                .toArray();
        return Scaled.activation(values, file.tensor(name + "_scales", scales, DType.F32));
    }

    /** Matrices {@code [N, K]} with scales of 128x128 blocks, one a group. */
    private record Weights(HostTensor values, HostTensor scales) {
        static Weights of(final CheckTensors file, final long groups, final long k) throws IOException {
            final long n = file.tensor("b", 3, DType.F8_E4M3).shape().size(1);
            return new Weights(
                    file.tensor("b", new long[] {groups, n, k}, DType.F8_E4M3),
                    file.tensor(
                            "b_scales",
                            new long[] {groups, Math.ceilDiv(n, BLOCK), Math.ceilDiv(k, BLOCK)},
                            DType.F32));
        }

        long n() {
            return values.shape().size(1);
        }

        Scaled<HostTensor> of(final long group) {
            return Scaled.weight(values.select(0, group), scales.select(0, group));
        }
    }

    private static Scaled<HostTensor> rows(final Scaled<HostTensor> a, final long from, final long to) {
        return Scaled.activation(a.values().slice(0, from, to), a.scales().slice(0, from, to));
    }

    private static Scaled<HostTensor> columns(final Scaled<HostTensor> a, final long from, final long to) {
        return Scaled.activation(
                a.values().slice(1, from, to), a.scales().slice(1, from / BLOCK, Math.ceilDiv(to, BLOCK)));
    }

    private static @Nullable HostTensor addend(final CheckTensors inputs, final HostTensor d) throws IOException {
        return inputs.optional("c", d.shape().toArray(), d.dtype());
    }

    private static @Nullable HostTensor select(final @Nullable HostTensor stack, final long index) {
        return stack == null ? null : stack.select(0, index);
    }

    /** Consecutive rows or columns that a group has. */
    private record Range(int group, long begin, long end) {
        long size() {
            return end - begin;
        }
    }

    /** What each group has, none behind {@code most}. */
    private static List<Range> ranges(final CheckTensors inputs, final long most, final long multiple)
            throws IOException {
        final HostTensor ends = inputs.tensor("group_ends", 1, DType.I32, DType.I64);
        final List<Range> ranges = new ArrayList<>();
        long begin = 0;
        for (int g = 0; g < ends.spec().elements(); g++) {
            final long end = (long) ends.getFloat(g);
            if (end < begin || end > most || (end % multiple != 0 && end != most)) {
                throw inputs.misfit(
                        "group_ends",
                        end + " at [" + g + "]",
                        begin + ".." + most + (multiple == 1 ? "" : ", a multiple of " + multiple));
            }
            ranges.add(new Range(g, begin, end));
            begin = end;
        }
        return ranges;
    }

    // ---- the operations ----

    private static Judgement dense(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final Scaled<HostTensor> a = activation(inputs, "a");
        final long n = inputs.tensor("b", 2, DType.F8_E4M3).shape().size(0);
        final Scaled<HostTensor> b = Scaled.weight(
                inputs.tensor("b", new long[] {n, a.cols()}, DType.F8_E4M3),
                inputs.tensor(
                        "b_scales",
                        Scaling.WEIGHT_128X128.scaleShape(n, a.cols()).toArray(),
                        DType.F32));
        final HostTensor d = theirs.tensor("d", new long[] {a.rows(), n}, DType.BF16, DType.F32, DType.F8_E4M3);
        if (d.dtype() == DType.F8_E4M3) {
            return quantizedRows(inputs, theirs, a, b, budget);
        }
        final Part product =
                new Part(a.rows(), n, a.cols(), fp8(a, b, addend(inputs, d)), (row, col) -> new long[] {row, col});
        return compare(new Products(d, GemmTolerance.of(d.dtype()), List.of(product)), budget);
    }

    /** Whole rows of a product that leaves as E4M3: its sums may be off as those of an F32 product. */
    private static Judgement quantizedRows(
            final CheckTensors inputs,
            final CheckTensors theirs,
            final Scaled<HostTensor> a,
            final Scaled<HostTensor> b,
            final long budget)
            throws IOException {
        if (inputs.optional("c", 2, DType.BF16, DType.F32) != null) {
            throw inputs.misfit("c", "a tensor", "none, as d is F8_E4M3");
        }
        final ScaleKind kind = CheckQuantized.scaleKind(inputs);
        final CheckQuantized errors = new CheckQuantized(kind, theirs, List.of("d", "d_scales"), a.rows(), b.rows());
        final GemmTolerance sums = GemmTolerance.of(DType.F32);
        final long most = Math.max(4, budget / Math.max(1, b.rows() * b.cols()));
        final long[] rows = HostData.sample(new SplitMix64(SEED), a.rows(), most);
        final ProductSample exact = BlockScaledProduct.sample(
                a, b, null, rows, LongStream.range(0, b.rows()).toArray());
        for (int i = 0; i < rows.length; i++) {
            final double[] value = new double[exact.columnCount()];
            final double[] slack = new double[value.length];
            for (int j = 0; j < value.length; j++) {
                value[j] = exact.value(i, j);
                slack[j] = sums.bound(value[j], exact.magnitude(i, j));
            }
            errors.add(rows[i], value, slack);
        }
        return errors.judgement();
    }

    private static Products grouped(final CheckTensors inputs, final CheckTensors theirs) throws IOException {
        final Scaled<HostTensor> a = activation(inputs, "a");
        final List<Range> groups = ranges(inputs, a.rows(), 1);
        final Weights b = Weights.of(inputs, groups.size(), a.cols());
        final HostTensor d = theirs.tensor("d", new long[] {a.rows(), b.n()}, DType.BF16);
        final Stream<Part> parts = groups.stream()
                .map(group -> new Part(
                        group.size(),
                        b.n(),
                        a.cols(),
                        fp8(rows(a, group.begin(), group.end()), b.of(group.group()), null),
                        (row, col) -> new long[] {group.begin() + row, col}));
        return new Products(d, GemmTolerance.of(d.dtype()), parts.toList());
    }

    private static Products masked(final CheckTensors inputs, final CheckTensors theirs) throws IOException {
        final HostTensor a = inputs.tensor("a", 3, DType.F8_E4M3);
        final long groups = a.shape().size(0);
        final long m = a.shape().size(1);
        final long k = a.shape().size(2);
        final HostTensor scales = inputs.tensor("a_scales", new long[] {groups, m, Math.ceilDiv(k, BLOCK)}, DType.F32);
        final Weights b = Weights.of(inputs, groups, k);
        final HostTensor counts = inputs.tensor("counts", new long[] {groups}, DType.I32, DType.I64);
        final HostTensor d = theirs.tensor("d", new long[] {groups, m, b.n()}, DType.BF16);
        final List<Part> parts = new ArrayList<>();
        for (long g = 0; g < groups; g++) {
            final long group = g;
            final long rows = (long) counts.getFloat(g);
            if (rows < 0 || rows > m) {
                throw inputs.misfit("counts", rows + " at [" + g + "]", "0.." + m);
            }
            parts.add(new Part(
                    rows,
                    b.n(),
                    k,
                    fp8(Scaled.activation(a.select(0, g), scales.select(0, g)), b.of(g), null),
                    (row, col) -> new long[] {group, row, col}));
        }
        return new Products(d, GemmTolerance.of(d.dtype()), parts);
    }

    private static Products kGrouped(final CheckTensors inputs, final CheckTensors theirs) throws IOException {
        final Scaled<HostTensor> a = activation(inputs, "a");
        final Scaled<HostTensor> b = activation(inputs, "b");
        inputs.tensor("b", new long[] {b.rows(), a.cols()}, DType.F8_E4M3);
        final List<Range> groups = ranges(inputs, a.cols(), BLOCK);
        final HostTensor d = theirs.tensor("d", new long[] {groups.size(), a.rows(), b.rows()}, DType.F32);
        final HostTensor c = addend(inputs, d);
        final Stream<Part> parts = groups.stream()
                .map(group -> new Part(
                        a.rows(),
                        b.rows(),
                        group.size(),
                        fp8(
                                columns(a, group.begin(), group.end()),
                                columns(b, group.begin(), group.end()),
                                select(c, group.group())),
                        (row, col) -> new long[] {group.group(), row, col}));
        return new Products(d, GemmTolerance.of(d.dtype()), parts.toList());
    }

    private static Products bf16(final CheckTensors inputs, final CheckTensors theirs) throws IOException {
        final HostTensor a = inputs.tensor("a", 3, DType.BF16);
        final long batch = a.shape().size(0);
        final long m = a.shape().size(1);
        final long k = a.shape().size(2);
        final long n = inputs.tensor("b", 3, DType.BF16).shape().size(1);
        final HostTensor b = inputs.tensor("b", new long[] {batch, n, k}, DType.BF16);
        final HostTensor d = theirs.tensor("d", new long[] {batch, m, n}, DType.BF16, DType.F32);
        final HostTensor c = addend(inputs, d);
        final Stream<Part> parts = LongStream.range(0, batch)
                .mapToObj(z -> new Part(m, n, k, bf16(a.select(0, z), b.select(0, z), select(c, z)), (row, col) ->
                        new long[] {z, row, col}));
        return new Products(d, GemmTolerance.ofBf16(d.dtype(), k), parts.toList());
    }

    private static Products bf16Grouped(final CheckTensors inputs, final CheckTensors theirs) throws IOException {
        final HostTensor a = inputs.tensor("a", 2, DType.BF16);
        final long m = a.shape().size(0);
        final long k = a.shape().size(1);
        final long n = inputs.tensor("b", 3, DType.BF16).shape().size(1);
        final List<Range> groups = ranges(inputs, m, 1);
        final HostTensor b = inputs.tensor("b", new long[] {groups.size(), n, k}, DType.BF16);
        final HostTensor d = theirs.tensor("d", new long[] {m, n}, DType.BF16, DType.F32);
        final HostTensor c = addend(inputs, d);
        final Stream<Part> parts = groups.stream()
                .map(group -> new Part(
                        group.size(),
                        n,
                        k,
                        bf16(
                                a.slice(0, group.begin(), group.end()),
                                b.select(0, group.group()),
                                c == null ? null : c.slice(0, group.begin(), group.end())),
                        (row, col) -> new long[] {group.begin() + row, col}));
        return new Products(d, GemmTolerance.ofBf16(d.dtype(), k), parts.toList());
    }
}
