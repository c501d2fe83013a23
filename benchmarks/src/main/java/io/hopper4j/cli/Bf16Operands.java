package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import java.lang.foreign.Arena;

/**
 * The operands of a batch of BF16 products. A, C and D hold the products' rows in turn, row m of product z at {@code m * batch + z}, as the heads of MLA
 * lie; B holds one matrix after the other.
 *
 * @param batch how many products
 * @param a {@code [M * batch, K]}
 * @param b {@code [batch * N, K]}
 */
record Bf16Operands(long batch, HostTensor a, HostTensor b) {
    static Bf16Operands random(
            final Arena host, final SplitMix64 random, final long batch, final long m, final long n, final long k) {
        final HostTensor a = HostTensor.allocate(host, DType.BF16, m * batch, k);
        final HostTensor b = HostTensor.allocate(host, DType.BF16, batch * n, k);
        HostData.fillWithNormalFast(a, random);
        HostData.fillWithNormalFast(b, random);
        return new Bf16Operands(batch, a, b);
    }

    /** {@return rows that lie in turn as a batch} */
    static DeviceTensor inTurn(final DeviceArena arena, final DeviceTensor rows, final long batch) {
        return arena.wrap(rows.address(), inTurn(rows.spec(), batch));
    }

    private static TensorSpec inTurn(final TensorSpec rows, final long batch) {
        final long ld = rows.strides().step(0);
        return view(rows, batch, ld, batch * ld);
    }

    /** {@return matrices that lie one after the other as a batch} */
    static DeviceTensor stacked(final DeviceArena arena, final DeviceTensor rows, final long batch) {
        final long ld = rows.spec().strides().step(0);
        return arena.wrap(rows.address(), view(rows.spec(), batch, rows.shape().size(0) / Math.max(1, batch) * ld, ld));
    }

    private static TensorSpec view(final TensorSpec rows, final long batch, final long batchStep, final long rowStep) {
        final long[] dims = {
            batch, rows.shape().size(0) / Math.max(1, batch), rows.shape().size(1)
        };
        return TensorSpec.strided(rows.dtype(), dims, new long[] {batchStep, rowStep, 1});
    }

    /** {@return product z's part of rows that lie in turn} */
    HostTensor product(final HostTensor rows, final long z) {
        return HostTensor.wrap(rows.segment(), inTurn(rows.spec(), batch)).select(0, z);
    }

    /** {@return product z's A} */
    HostTensor a(final long z) {
        return product(a, z);
    }

    /** {@return product z's B} */
    HostTensor b(final long z) {
        final long n = b.shape().size(0) / batch;
        return b.slice(0, z * n, (z + 1) * n);
    }
}
