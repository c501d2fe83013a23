package io.hopper4j.cli;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;
import org.jspecify.annotations.Nullable;

/** Numbers with as many digits as a measurement carries. */
final class Rounded {
    private static final MathContext FIGURES = new MathContext(5, RoundingMode.HALF_EVEN);

    private Rounded() {}

    /** {@return a number of five figures; null, which JSON has for it, where it is not finite} */
    static @Nullable Double of(final double value) {
        return Double.isFinite(value) ? new BigDecimal(value).round(FIGURES).doubleValue() : null;
    }

    /** {@return three figures or all of the whole part, as tables show it; a dash where it is not finite} */
    static String text(final double value) {
        if (!Double.isFinite(value)) {
            return "-";
        }
        final double size = Math.abs(value);
        final int decimals = size >= 100 || size == 0 ? 0 : size >= 10 ? 1 : 2;
        return new BigDecimal(value).setScale(decimals, RoundingMode.HALF_EVEN).toPlainString();
    }
}
