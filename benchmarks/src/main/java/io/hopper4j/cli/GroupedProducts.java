package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Launch;
import io.hopper4j.OpSpec;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.TensorSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.ProductSample;
import java.lang.foreign.Arena;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A bound product over groups in one of its three forms, with its operands on both sides: what {@code verify} checks and {@code bench} times. */
final class GroupedProducts implements AutoCloseable {
    private static final long BLOCK = 128;

    /** How groups lie in the operands. */
    enum Form {
        /** Consecutive rows of one matrix. */
        CONTIGUOUS("gemm_grouped"),
        /** Rows of a matrix of their own. */
        MASKED("gemm_masked"),
        /** Consecutive K of both matrices. */
        K("gemm_k_grouped");

        private final String operation;

        Form(final String operation) {
            this.operation = operation;
        }

        String operation() {
            return operation;
        }
    }

    /**
     * What is multiplied.
     *
     * @param form how groups lie
     * @param sizes rows, or K, of each group
     * @param rest rows behind the last group's, or more than the largest group's in each matrix; 0 where K is grouped
     * @param expected rows of a group that tiles are chosen for, where they have matrices of their own
     * @param m rows of each product where K is grouped
     * @param n columns of each product
     * @param k of each product, where rows are grouped
     * @param wide whether ends and counts are I64
     */
    record Shape(Form form, List<Long> sizes, long rest, long expected, long m, long n, long k, boolean wide) {
        long total() {
            return sizes.stream().mapToLong(Long::longValue).sum();
        }

        long largest() {
            return sizes.stream().mapToLong(Long::longValue).max().orElse(0);
        }

        /** {@return rows, or K, that a matrix has room for} */
        long room() {
            return (form == Form.MASKED ? largest() : total()) + rest;
        }

        DType extentsType() {
            return wide ? DType.I64 : DType.I32;
        }

        /** {@return the operation} */
        OpSpec spec() {
            return switch (form) {
                case CONTIGUOUS -> grouped();
                case MASKED -> masked();
                default -> kGrouped();
            };
        }

        private GroupedGemmSpec grouped() {
            return GroupedGemmSpec.of(sizes.size(), room(), n, k).withEnds(extentsType());
        }

        private MaskedGemmSpec masked() {
            return MaskedGemmSpec.of(sizes.size(), room(), n, k)
                    .withExpectedRows(Math.min(expected, room()))
                    .withCounts(extentsType());
        }

        private KGroupedGemmSpec kGrouped() {
            return KGroupedGemmSpec.of(sizes.size(), m, n, room())
                    .withAccumulate(true)
                    .withEnds(extentsType());
        }
    }

    private final Shape shape;
    private final Gpu gpu;
    private final Arena host = Arena.ofShared();
    private final DeviceArena device;
    private final Scaled<HostTensor> a;
    private final Scaled<HostTensor> b;
    private final @Nullable HostTensor c;
    private final Scaled<DeviceTensor> deviceA;
    private final Scaled<DeviceTensor> deviceB;
    private final DeviceTensor out;
    private final Plan plan;
    private final Launch launch;

    GroupedProducts(final Gpu gpu, final Shape shape, final SplitMix64 random) {
        this.gpu = gpu;
        this.shape = shape;
        this.device = gpu.openArena();
        final long groups = shape.sizes.size();
        final long room = shape.room();
        final DeviceTensor extents = upload(extents(shape.extentsType()));
        switch (shape.form) {
            case CONTIGUOUS -> {
                this.a = HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, room, shape.k);
                this.b = HostData.randomStack(host, random, Scaling.WEIGHT_128X128, groups, shape.n, shape.k);
                this.c = null;
                this.out = poisoned(TensorSpec.packed(DType.BF16, room, shape.n));
                this.deviceA = upload(a);
                this.deviceB = upload(b);
                final GroupedGemmPlan<DeviceTensor> made = gpu.kernels().plan(shape.grouped());
                this.plan = made;
                this.launch = made.bind(deviceA, deviceB, extents, out, gpu.workspace(device, made));
            }
            case MASKED -> {
                this.a = HostData.randomStack(host, random, Scaling.ACTIVATION_1X128, groups, room, shape.k);
                this.b = HostData.randomStack(host, random, Scaling.WEIGHT_128X128, groups, shape.n, shape.k);
                this.c = null;
                this.out = poisoned(TensorSpec.packed(DType.BF16, groups, room, shape.n));
                this.deviceA = upload(a);
                this.deviceB = upload(b);
                final MaskedGemmPlan<DeviceTensor> made = gpu.kernels().plan(shape.masked());
                this.plan = made;
                this.launch = made.bind(deviceA, deviceB, extents, out, gpu.workspace(device, made));
            }
            default -> {
                this.a = HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, shape.m, room);
                this.b = HostData.randomQuantized(host, random, Scaling.ACTIVATION_1X128, shape.n, room);
                this.c = HostTensor.allocate(host, TensorSpec.packed(DType.F32, groups, shape.m, shape.n));
                c.segment().fill((byte) 0x40); // 3.0
                this.out = upload(c);
                this.deviceA = upload(a);
                this.deviceB = upload(b);
                final KGroupedGemmPlan<DeviceTensor> made = gpu.kernels().plan(shape.kGrouped());
                this.plan = made;
                this.launch = made.bind(deviceA, deviceB, extents, out, out, gpu.workspace(device, made));
            }
        }
    }

    private HostTensor extents(final DType type) {
        final HostTensor extents = HostTensor.allocate(host, type, shape.sizes.size());
        long end = 0;
        for (int g = 0; g < shape.sizes.size(); g++) {
            end += shape.sizes.get(g);
            extents.setFloat((float) (shape.form == Form.MASKED ? shape.sizes.get(g) : end), g);
        }
        return extents;
    }

    private DeviceTensor upload(final HostTensor source) {
        final DeviceTensor copy = device.allocate(source.spec());
        copy.copyFrom(source, gpu.stream());
        return copy;
    }

    private Scaled<DeviceTensor> upload(final Scaled<HostTensor> source) {
        return new Scaled<>(upload(source.values()), upload(source.scales()), source.scaling());
    }

    /** NaN everywhere. */
    private DeviceTensor poisoned(final TensorSpec spec) {
        final HostTensor nan = HostTensor.allocate(host, spec);
        nan.segment().fill((byte) 0xFF);
        return upload(nan);
    }

    Plan plan() {
        return plan;
    }

    Launch launch() {
        return launch;
    }

    DeviceTensor out() {
        return out;
    }

    Scaled<DeviceTensor> deviceA() {
        return deviceA;
    }

    Scaled<DeviceTensor> deviceB() {
        return deviceB;
    }

    /** {@return memory that is freed with the operands} */
    DeviceTensor scratch(final DType type, final long rows, final long cols) {
        return device.allocate(type, rows, cols);
    }

    /** Gives C back what it held, so that the next run adds to that again. */
    void restore() {
        if (c != null) {
            out.copyFrom(c, gpu.stream());
        }
    }

    /** {@return the error of one run against a sample of each group} */
    GemmTolerance.Result error(final SplitMix64 random, final long rowsOfAGroup, final long columnsOfAGroup) {
        final GemmTolerance error = GemmTolerance.of(out.dtype());
        long from = 0;
        for (int g = 0; g < shape.sizes.size(); g++) {
            final long size = shape.sizes.get(g);
            final long to = from + size;
            switch (shape.form) {
                case CONTIGUOUS ->
                    add(
                            error,
                            rows(a, from, to),
                            matrix(b, g),
                            null,
                            out.slice(0, from, to),
                            random,
                            rowsOfAGroup,
                            columnsOfAGroup);
                case MASKED ->
                    add(
                            error,
                            rows(matrix(a, g), 0, size),
                            matrix(b, g),
                            null,
                            out.select(0, g).slice(0, 0, size),
                            random,
                            rowsOfAGroup,
                            columnsOfAGroup);
                default ->
                    add(
                            error,
                            columns(a, from, to),
                            columns(b, from, to),
                            c == null ? null : c.select(0, g),
                            out.select(0, g),
                            random,
                            rowsOfAGroup,
                            columnsOfAGroup);
            }
            from = to;
        }
        return error.result();
    }

    /** {@return how many elements of rows that are not in use have been written} */
    long strayWrites() {
        return switch (shape.form) {
            case CONTIGUOUS -> gpu.written(out.slice(0, shape.total(), shape.room()));
            case MASKED -> {
                long stray = 0;
                for (int g = 0; g < shape.sizes.size(); g++) {
                    stray += gpu.written(out.select(0, g).slice(0, shape.sizes.get(g), shape.room()));
                }
                yield stray;
            }
            default -> 0;
        };
    }

    private void add(
            final GemmTolerance error,
            final Scaled<HostTensor> left,
            final Scaled<HostTensor> right,
            final @Nullable HostTensor addend,
            final DeviceTensor product,
            final SplitMix64 random,
            final long rowCount,
            final long columnCount) {
        if (left.rows() == 0) {
            return;
        }
        final long[] sampledRows = HostData.sample(random, left.rows(), rowCount);
        final long[] sampledColumns = HostData.sample(random, right.rows(), columnCount);
        final ProductSample exact = BlockScaledProduct.sample(left, right, addend, sampledRows, sampledColumns);
        try (Arena local = Arena.ofConfined()) {
            final HostTensor line = HostTensor.allocate(local, product.dtype(), 1, right.rows());
            for (int i = 0; i < sampledRows.length; i++) {
                gpu.download(product.slice(0, sampledRows[i], sampledRows[i] + 1), line);
                for (int j = 0; j < sampledColumns.length; j++) {
                    error.add(line.getFloat(0, sampledColumns[j]), exact.value(i, j), exact.magnitude(i, j));
                }
            }
        }
    }

    private static Scaled<HostTensor> rows(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(matrix.values().slice(0, from, to), matrix.scales().slice(0, from, to), matrix.scaling());
    }

    private static Scaled<HostTensor> columns(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(
                matrix.values().slice(1, from, to),
                matrix.scales().slice(1, from / BLOCK, Math.ceilDiv(to, BLOCK)),
                matrix.scaling());
    }

    private static Scaled<HostTensor> matrix(final Scaled<HostTensor> stack, final long index) {
        return new Scaled<>(stack.values().select(0, index), stack.scales().select(0, index), stack.scaling());
    }

    @Override
    public void close() {
        gpu.stream().synchronize();
        launch.close();
        plan.close();
        device.close();
        host.close();
    }
}
