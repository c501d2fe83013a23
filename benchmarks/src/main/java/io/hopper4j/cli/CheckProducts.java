package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.MatrixProduct;
import io.hopper4j.reference.ProductSample;
import java.io.IOException;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What {@code check} can judge of products: dense ones, batches and the forms of groups. */
final class CheckProducts {
    private static final long SEED = 20261125;

    /** Columns of a sample; all rows of narrower products are compared in full. */
    private static final long WIDEST = 512;

    private static final int BLOCK = 128;

    private CheckProducts() {}

    static List<CheckOperation> all() {
        return List.of(new Dense(), new Grouped(), new Masked(), new KGrouped(), new Bf16(), new Bf16Grouped());
    }

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

    /** The errors of several products in one tensor. */
    private static final class Errors {
        private final SplitMix64 random = new SplitMix64(SEED);
        private final CheckMeasure measure = new CheckMeasure("d");
        private final HostTensor d;
        private final GemmTolerance tolerance;

        Errors(final HostTensor d, final GemmTolerance tolerance) {
            this.d = d;
            this.tolerance = tolerance;
        }

        /** Adds a product of {@code m} rows and {@code n} columns, as far as the multiply-adds go. */
        void add(
                final long m, final long n, final long k, final long budget, final Sampler sampler, final Place place) {
            if (m == 0 || n == 0) {
                return;
            }
            final long elements = Math.max(1, budget / Math.max(1, k));
            final long[] columns = HostData.sample(random, n, m * n <= elements ? n : WIDEST);
            final long[] rows = HostData.sample(random, m, Math.max(4, elements / columns.length));
            final ProductSample exact = sampler.sample(rows, columns);
            for (int i = 0; i < rows.length; i++) {
                for (int j = 0; j < columns.length; j++) {
                    final long[] index = place.at(rows[i], columns[j]);
                    final float got = d.getFloat(index);
                    tolerance.add(got, exact.value(i, j), exact.magnitude(i, j));
                    measure.add(
                            got, exact.value(i, j), tolerance.bound(exact.value(i, j), exact.magnitude(i, j)), index);
                }
            }
        }

        CheckOperation.Judgement judgement() {
            final GemmTolerance.Result result = tolerance.result();
            return new CheckOperation.Judgement(
                    List.of(measure),
                    List.of(new Row.Measure("1-cos", result.cosineDistance(), result.maxCosineDistance())));
        }
    }

    private static Sampler fp8(final Scaled<HostTensor> a, final Scaled<HostTensor> b, final @Nullable HostTensor c) {
        return (rows, columns) -> BlockScaledProduct.sample(a, b, c, rows, columns);
    }

    /** Tensors of the file that each group has one of, or that all groups share. */
    private static HostTensor stack(final CheckTensors file, final String name, final DType type, final long... shape)
            throws IOException {
        return file.tensor(name, shape, type);
    }

    private static @Nullable HostTensor addend(final CheckTensors inputs, final HostTensor d) throws IOException {
        return inputs.optional("c", d.shape().rank(), d.dtype()) == null
                ? null
                : inputs.tensor("c", d.shape().toArray(), d.dtype());
    }

    /** The end of every group, each cut to what is there and not before the one ahead. */
    private static long[] ends(final CheckTensors inputs, final long most, final long multiple) throws IOException {
        final HostTensor tensor = inputs.tensor("group_ends", 1, DType.I32, DType.I64);
        final long[] ends = new long[Math.toIntExact(tensor.spec().elements())];
        long begin = 0;
        for (int g = 0; g < ends.length; g++) {
            ends[g] = (long) tensor.getFloat(g);
            if (ends[g] < begin || ends[g] > most || (ends[g] % multiple != 0 && ends[g] != most)) {
                throw inputs.misfit(
                        "group_ends",
                        ends[g] + " at [" + g + "]",
                        begin + ".." + most + (multiple == 1 ? "" : ", a multiple of " + multiple));
            }
            begin = ends[g];
        }
        return ends;
    }

    private static final class Dense implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm", "fp8_gemm_nt");
        }

        @Override
        public String meaning() {
            return "d = a b^T (+ c) of block-scaled FP8 matrices, within the bound of GemmTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [M, K] F8_E4M3",
                    "a_scales     [M, ceil(K/128)] F32",
                    "b            [N, K] F8_E4M3",
                    "b_scales     [ceil(N/128), ceil(K/128)] F32",
                    "c            [M, N] of the type of d; may be missing");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [M, N] BF16 or F32");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 2, DType.F8_E4M3);
            final long m = a.shape().size(0);
            final long k = a.shape().size(1);
            final long n = inputs.tensor("b", 2, DType.F8_E4M3).shape().size(0);
            final Scaled<HostTensor> left = Scaled.activation(a, scales(inputs, "a_scales", m, k));
            final Scaled<HostTensor> right = Scaled.weight(
                    inputs.tensor("b", new long[] {n, k}, DType.F8_E4M3),
                    inputs.tensor(
                            "b_scales", Scaling.WEIGHT_128X128.scaleShape(n, k).toArray(), DType.F32));
            final HostTensor d = theirs.tensor("d", new long[] {m, n}, DType.BF16, DType.F32);
            final Errors errors = new Errors(d, GemmTolerance.of(d.dtype()));
            errors.add(m, n, k, budget, fp8(left, right, addend(inputs, d)), (row, col) -> new long[] {row, col});
            return errors.judgement();
        }
    }

    private static HostTensor scales(final CheckTensors file, final String name, final long rows, final long cols)
            throws IOException {
        return file.tensor(name, Scaling.ACTIVATION_1X128.scaleShape(rows, cols).toArray(), DType.F32);
    }

    private static Scaled<HostTensor> weight(
            final CheckTensors inputs, final long groups, final long n, final long k, final long g) throws IOException {
        return Scaled.weight(
                stack(inputs, "b", DType.F8_E4M3, groups, n, k).select(0, g),
                stack(inputs, "b_scales", DType.F32, groups, Math.ceilDiv(n, BLOCK), Math.ceilDiv(k, BLOCK))
                        .select(0, g));
    }

    private static final class Grouped implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm_grouped", "m_grouped_fp8_gemm_nt_contiguous");
        }

        @Override
        public String meaning() {
            return "d = a b^T of FP8 matrices, b of the group that each row belongs to, within the bound of GemmTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [M, K] F8_E4M3",
                    "a_scales     [M, ceil(K/128)] F32",
                    "b            [groups, N, K] F8_E4M3",
                    "b_scales     [groups, ceil(N/128), ceil(K/128)] F32",
                    "group_ends   [groups] I32 or I64: the row behind each group's last");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [M, N] BF16; rows behind the last end are not compared");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 2, DType.F8_E4M3);
            final long m = a.shape().size(0);
            final long k = a.shape().size(1);
            final HostTensor aScales = scales(inputs, "a_scales", m, k);
            final long n = inputs.tensor("b", 3, DType.F8_E4M3).shape().size(1);
            final long[] ends = ends(inputs, m, 1);
            final HostTensor d = theirs.tensor("d", new long[] {m, n}, DType.BF16);
            final Errors errors = new Errors(d, GemmTolerance.of(d.dtype()));
            long begin = 0;
            for (int g = 0; g < ends.length; g++) {
                final long from = begin;
                begin = ends[g];
                final Scaled<HostTensor> rows =
                        Scaled.activation(a.slice(0, from, begin), aScales.slice(0, from, begin));
                errors.add(
                        begin - from,
                        n,
                        k,
                        budget / ends.length,
                        fp8(rows, weight(inputs, ends.length, n, k, g), null),
                        (row, col) -> new long[] {from + row, col});
            }
            return errors.judgement();
        }
    }

    private static final class Masked implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm_masked", "m_grouped_fp8_gemm_nt_masked");
        }

        @Override
        public String meaning() {
            return "d = a b^T of FP8 matrices, one a group, whose first rows count, within the bound of GemmTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [groups, M, K] F8_E4M3",
                    "a_scales     [groups, M, ceil(K/128)] F32",
                    "b            [groups, N, K] F8_E4M3",
                    "b_scales     [groups, ceil(N/128), ceil(K/128)] F32",
                    "counts       [groups] I32 or I64: rows of each group");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [groups, M, N] BF16; rows that do not count are not compared");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 3, DType.F8_E4M3);
            final long groups = a.shape().size(0);
            final long m = a.shape().size(1);
            final long k = a.shape().size(2);
            final HostTensor aScales = stack(inputs, "a_scales", DType.F32, groups, m, Math.ceilDiv(k, BLOCK));
            final long n = inputs.tensor("b", 3, DType.F8_E4M3).shape().size(1);
            final HostTensor counts = inputs.tensor("counts", new long[] {groups}, DType.I32, DType.I64);
            final HostTensor d = theirs.tensor("d", new long[] {groups, m, n}, DType.BF16);
            final Errors errors = new Errors(d, GemmTolerance.of(d.dtype()));
            for (long g = 0; g < groups; g++) {
                final long group = g;
                final long rows = (long) counts.getFloat(g);
                if (rows < 0 || rows > m) {
                    throw inputs.misfit("counts", rows + " at [" + g + "]", "0.." + m);
                }
                errors.add(
                        rows,
                        n,
                        k,
                        budget / groups,
                        fp8(
                                Scaled.activation(a.select(0, g), aScales.select(0, g)),
                                weight(inputs, groups, n, k, g),
                                null),
                        (row, col) -> new long[] {group, row, col});
            }
            return errors.judgement();
        }
    }

    private static final class KGrouped implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm_k_grouped", "k_grouped_fp8_gemm_nt_contiguous");
        }

        @Override
        public String meaning() {
            return "d = a b^T (+ c) over the columns of each group, 1 x 128 scales on both sides, within the bound of GemmTolerance";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [M, K] F8_E4M3",
                    "a_scales     [M, ceil(K/128)] F32",
                    "b            [N, K] F8_E4M3",
                    "b_scales     [N, ceil(K/128)] F32",
                    "group_ends   [groups] I32 or I64: the column behind each group's last, a multiple of 128 or K",
                    "c            [groups, M, N] F32; may be missing");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [groups, M, N] F32");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 2, DType.F8_E4M3);
            final long m = a.shape().size(0);
            final long k = a.shape().size(1);
            final long n = inputs.tensor("b", 2, DType.F8_E4M3).shape().size(0);
            final HostTensor b = inputs.tensor("b", new long[] {n, k}, DType.F8_E4M3);
            final HostTensor aScales = scales(inputs, "a_scales", m, k);
            final HostTensor bScales = scales(inputs, "b_scales", n, k);
            final long[] ends = ends(inputs, k, BLOCK);
            final HostTensor d = theirs.tensor("d", new long[] {ends.length, m, n}, DType.F32);
            final HostTensor c = addend(inputs, d);
            final Errors errors = new Errors(d, GemmTolerance.of(d.dtype()));
            long begin = 0;
            for (int g = 0; g < ends.length; g++) {
                final long group = g;
                final long from = begin;
                begin = ends[g];
                errors.add(
                        m,
                        n,
                        begin - from,
                        budget / ends.length,
                        fp8(
                                columns(a, aScales, from, begin),
                                columns(b, bScales, from, begin),
                                c == null ? null : c.select(0, g)),
                        (row, col) -> new long[] {group, row, col});
            }
            return errors.judgement();
        }

        private static Scaled<HostTensor> columns(
                final HostTensor values, final HostTensor scales, final long from, final long to) {
            return Scaled.activation(values.slice(1, from, to), scales.slice(1, from / BLOCK, Math.ceilDiv(to, BLOCK)));
        }
    }

    private static Sampler bf16(final HostTensor a, final HostTensor b, final @Nullable HostTensor c) {
        return (rows, columns) -> MatrixProduct.sample(a, b, c, rows, columns);
    }

    private static final class Bf16 implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm_bf16", "bf16_gemm_nt");
        }

        @Override
        public String meaning() {
            return "d = a b^T (+ c) of a batch of BF16 matrices, within the bound of GemmTolerance.ofBf16";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [batch, M, K] BF16",
                    "b            [batch, N, K] BF16",
                    "c            [batch, M, N] of the type of d; may be missing");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [batch, M, N] BF16 or F32");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 3, DType.BF16);
            final long batch = a.shape().size(0);
            final long m = a.shape().size(1);
            final long k = a.shape().size(2);
            final long n = inputs.tensor("b", 3, DType.BF16).shape().size(1);
            final HostTensor b = stack(inputs, "b", DType.BF16, batch, n, k);
            final HostTensor d = theirs.tensor("d", new long[] {batch, m, n}, DType.BF16, DType.F32);
            final HostTensor c = addend(inputs, d);
            final Errors errors = new Errors(d, GemmTolerance.ofBf16(d.dtype(), k));
            for (long z = 0; z < batch; z++) {
                final long product = z;
                errors.add(
                        m,
                        n,
                        k,
                        budget / batch,
                        bf16(a.select(0, z), b.select(0, z), c == null ? null : c.select(0, z)),
                        (row, col) -> new long[] {product, row, col});
            }
            return errors.judgement();
        }
    }

    private static final class Bf16Grouped implements CheckOperation {
        @Override
        public List<String> names() {
            return List.of("gemm_bf16_grouped", "m_grouped_bf16_gemm_nt_contiguous");
        }

        @Override
        public String meaning() {
            return "d = a b^T (+ c) of BF16 matrices, b of the group that each row belongs to, within the bound of GemmTolerance.ofBf16";
        }

        @Override
        public List<String> inputs() {
            return List.of(
                    "a            [M, K] BF16",
                    "b            [groups, N, K] BF16",
                    "group_ends   [groups] I32 or I64: the row behind each group's last",
                    "c            [M, N] of the type of d; may be missing");
        }

        @Override
        public List<String> outputs() {
            return List.of("d            [M, N] BF16 or F32; rows behind the last end are not compared");
        }

        @Override
        public Judgement judge(final CheckTensors inputs, final CheckTensors theirs, final long budget)
                throws IOException {
            final HostTensor a = inputs.tensor("a", 2, DType.BF16);
            final long m = a.shape().size(0);
            final long k = a.shape().size(1);
            final long n = inputs.tensor("b", 3, DType.BF16).shape().size(1);
            final long[] ends = ends(inputs, m, 1);
            final HostTensor b = stack(inputs, "b", DType.BF16, ends.length, n, k);
            final HostTensor d = theirs.tensor("d", new long[] {m, n}, DType.BF16, DType.F32);
            final HostTensor c = addend(inputs, d);
            final Errors errors = new Errors(d, GemmTolerance.ofBf16(d.dtype(), k));
            long begin = 0;
            for (int g = 0; g < ends.length; g++) {
                final long from = begin;
                begin = ends[g];
                errors.add(
                        begin - from,
                        n,
                        k,
                        budget / ends.length,
                        bf16(a.slice(0, from, begin), b.select(0, g), c == null ? null : c.slice(0, from, begin)),
                        (row, col) -> new long[] {from + row, col});
            }
            return errors.judgement();
        }
    }
}
