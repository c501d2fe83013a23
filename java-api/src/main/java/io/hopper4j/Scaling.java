package io.hopper4j;

import io.hopper4j.internal.Arguments;

/** Which elements of a quantised matrix share one scale. */
public sealed interface Scaling {
    /** One scale for each row and 128 columns: activations (DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3.2). */
    Block ACTIVATION_1X128 = new Block(1, 128);
    /** One scale for each 128 rows and 128 columns: weights. */
    Block WEIGHT_128X128 = new Block(128, 128);

    /** One scale, a tensor of one element, for the whole matrix. */
    record PerTensor() implements Scaling {
        @Override
        public String toString() {
            return "per tensor";
        }
    }

    /**
     * One scale for each block; blocks at the right and bottom edges may be smaller.
     *
     * @param rows rows of a block
     * @param cols columns of a block
     */
    record Block(int rows, int cols) implements Scaling {
        /**
         * Checks the size.
         *
         * @throws IllegalArgumentException if a size is not positive
         */
        public Block {
            Arguments.require(rows > 0 && cols > 0, "scaling: block", rows + "x" + cols, "at least 1x1");
        }

        /**
         * {@return the shape of the scales of a matrix: {@code [ceil(rows/blockRows), ceil(cols/blockCols)]}}
         *
         * @param matrixRows rows of the matrix
         * @param matrixCols columns of the matrix
         * @throws IllegalArgumentException if a size is negative
         */
        public Shape scaleShape(final long matrixRows, final long matrixCols) {
            if (matrixRows < 0 || matrixCols < 0) {
                throw Arguments.bad("scaling: matrix", matrixRows + "x" + matrixCols, "sizes of at least 0");
            }
            return Shape.of(Math.ceilDiv(matrixRows, rows), Math.ceilDiv(matrixCols, cols));
        }

        @Override
        public String toString() {
            return rows + "x" + cols;
        }
    }
}
