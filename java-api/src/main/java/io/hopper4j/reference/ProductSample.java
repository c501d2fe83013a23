package io.hopper4j.reference;

/** Some rows and columns of a product, unrounded. Immutable. */
public final class ProductSample {
    private final long[] rows;
    private final long[] columns;
    private final double[][] values;
    private final double[][] magnitudes;

    ProductSample(final long[] rows, final long[] columns, final double[][] values, final double[][] magnitudes) {
        this.rows = rows.clone();
        this.columns = columns.clone();
        this.values = values;
        this.magnitudes = magnitudes;
    }

    /** {@return how many rows were taken} */
    public int rowCount() {
        return rows.length;
    }

    /** {@return how many columns were taken} */
    public int columnCount() {
        return columns.length;
    }

    /** {@return the row of the product that is row {@code i} of the sample} */
    public long row(final int i) {
        return rows[i];
    }

    /** {@return the column of the product that is column {@code j} of the sample} */
    public long column(final int j) {
        return columns[j];
    }

    /** {@return the product at row {@code i} and column {@code j} of the sample, C included} */
    public double value(final int i, final int j) {
        return values[i][j];
    }

    /** {@return the sum of magnitudes, sum over k of |a b| s_a s_b (+ |c|), at row {@code i} and column {@code j} of the sample} */
    public double magnitude(final int i, final int j) {
        return magnitudes[i][j];
    }
}
