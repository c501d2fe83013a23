package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import org.jspecify.annotations.Nullable;

/** Views of parts of matrices, the scales along. */
final class Parts {
    private Parts() {}

    static HostTensor firstRows(final HostTensor matrix, final long rows) {
        return matrix.slice(0, 0, rows);
    }

    /** As {@link #firstRows}, of what may not be there. */
    static @Nullable HostTensor firstRowsIfAny(final @Nullable HostTensor matrix, final long rows) {
        return matrix == null ? null : firstRows(matrix, rows);
    }

    static Scaled<HostTensor> firstRows(final Scaled<HostTensor> matrix, final long rows) {
        final long scaleRows = ((Scaling.Block) matrix.scaling())
                .scaleShape(rows, matrix.cols())
                .size(0);
        return new Scaled<>(
                matrix.values().slice(0, 0, rows), matrix.scales().slice(0, 0, scaleRows), matrix.scaling());
    }

    static Scaled<HostTensor> firstCols(final Scaled<HostTensor> matrix, final long cols) {
        final long scaleCols = ((Scaling.Block) matrix.scaling())
                .scaleShape(matrix.rows(), cols)
                .size(1);
        return new Scaled<>(
                matrix.values().slice(1, 0, cols), matrix.scales().slice(1, 0, scaleCols), matrix.scaling());
    }

    /** Some rows of activations. */
    static Scaled<HostTensor> rows(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(matrix.values().slice(0, from, to), matrix.scales().slice(0, from, to), matrix.scaling());
    }

    /** Some whole blocks of columns of activations. */
    static Scaled<HostTensor> columns(final Scaled<HostTensor> matrix, final long from, final long to) {
        return new Scaled<>(
                matrix.values().slice(1, from, to),
                matrix.scales().slice(1, from / 128, Math.ceilDiv(to, 128)),
                matrix.scaling());
    }

    /** One matrix of a stack. */
    static Scaled<HostTensor> matrix(final Scaled<HostTensor> stack, final long index) {
        return new Scaled<>(stack.values().select(0, index), stack.scales().select(0, index), stack.scaling());
    }

    /** One matrix of a stack; a plain matrix is what every index of it stands for. */
    static HostTensor matrix(final HostTensor stack, final long index) {
        return stack.shape().rank() == 2 ? stack : stack.select(0, index);
    }
}
