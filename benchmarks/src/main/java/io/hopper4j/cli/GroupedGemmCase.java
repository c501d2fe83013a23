package io.hopper4j.cli;

import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmSpec;

/**
 * One product over groups against the reference: {@link GroupedGemmSpec}, {@link MaskedGemmSpec} or {@link KGroupedGemmSpec}.
 *
 * @param product what is multiplied
 * @param seed of the operands
 */
record GroupedGemmCase(GroupedProducts.Shape product, long seed) implements VerifyCase {
    private static final long ROWS_OF_A_GROUP = 24;
    private static final long COLUMNS_OF_A_GROUP = 200;

    @Override
    public String operation() {
        return product.form().operation();
    }

    @Override
    public String shape() {
        return "%d groups of %d..%d%s n=%d %s"
                .formatted(
                        product.sizes().size(),
                        product.sizes().stream()
                                .mapToLong(Long::longValue)
                                .min()
                                .orElse(0),
                        product.largest(),
                        product.rest() == 0 ? "" : " of " + product.room(),
                        product.n(),
                        product.form() == GroupedProducts.Form.K ? "m=" + product.m() : "k=" + product.k());
    }

    @Override
    public Row run(final Gpu gpu) {
        final SplitMix64 random = new SplitMix64(seed);
        try (GroupedProducts bound = new GroupedProducts(gpu, product, random)) {
            bound.launch().launch(gpu.stream());
            final GemmTolerance.Result error = bound.error(random, ROWS_OF_A_GROUP, COLUMNS_OF_A_GROUP);
            final long stray = bound.strayWrites();
            return Row.measured(
                    operation(),
                    shape(),
                    bound.plan().kernel(),
                    gpu.microseconds(bound.launch(), product.room()),
                    new Row.Measure("error/bound", error.worstRatio(), 1),
                    new Row.Measure("1-cos", error.cosineDistance(), error.maxCosineDistance()),
                    new Row.Measure("stray", (double) stray, 0));
        }
    }
}
