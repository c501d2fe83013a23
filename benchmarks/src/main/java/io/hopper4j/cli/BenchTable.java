package io.hopper4j.cli;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Rows of results as lines of text. */
final class BenchTable {
    private static final String LINE = "%-17s %-24s %-24s %9s %7s %9s %7s %7s %7s %6s %5s %9s  %s";
    private static final List<String> CSV_FIELDS = List.of(
            "op",
            "kernel",
            "timer",
            "us",
            "usP10",
            "usP90",
            "usPeerMethod",
            "smClockMHz",
            "watts",
            "tflops",
            "gbs",
            "floorUs",
            "floorShare",
            "error",
            "errorKind");

    private BenchTable() {}

    static String header() {
        return LINE.formatted(
                "operation",
                "shape",
                "kernel",
                "us",
                "+-%",
                "us peer",
                "floor%",
                "TFLOPS",
                "GB/s",
                "MHz",
                "W",
                "error",
                "us of peers (ours is so many times as fast), warnings");
    }

    static String line(final BenchResult.Row row) {
        final double us = row.number("us");
        final double spread = 100 * (row.number("usP90") - row.number("usP10")) / 2 / us;
        final String peers = row.peers("us").entrySet().stream()
                .map(e ->
                        "%s %s (%s)".formatted(e.getKey(), Rounded.text(e.getValue()), Rounded.text(e.getValue() / us)))
                .collect(Collectors.joining(", "));
        final String rest = Stream.concat(Stream.of(peers), row.warnings().stream())
                .filter(text -> !text.isEmpty())
                .collect(Collectors.joining("; "));
        return LINE.formatted(
                row.text("op"),
                row.shape(),
                row.text("kernel"),
                Rounded.text(us),
                Rounded.text(spread),
                Rounded.text(row.number("usPeerMethod")),
                Rounded.text(100 * row.number("floorShare")),
                Rounded.text(row.number("tflops")),
                Rounded.text(row.number("gbs")),
                Rounded.text(row.number("smClockMHz")),
                Rounded.text(row.number("watts")),
                String.format(Locale.ROOT, "%.1e", row.number("error")),
                rest);
    }

    /** {@return the names of the columns of {@link #csvLine}} */
    static String csvHeader() {
        return "op,shape," + String.join(",", CSV_FIELDS.subList(1, CSV_FIELDS.size())) + ",peers,warnings";
    }

    /** {@return a row as RFC 4180 has it; peers are {@code name=us} with a blank between} */
    static String csvLine(final BenchResult.Row row) {
        final Stream<String> fields =
                CSV_FIELDS.stream().skip(1).map(name -> row.fields().get(name) == null ? "" : row.text(name));
        final String peers = row.peers("us").entrySet().stream()
                .map(e -> e.getKey() + "=" + e.getValue())
                .collect(Collectors.joining(" "));
        return Stream.of(
                        Stream.of(row.text("op"), row.shape()),
                        fields,
                        Stream.of(peers, String.join("; ", row.warnings())))
                .flatMap(s -> s)
                .map(BenchTable::quoted)
                .collect(Collectors.joining(","));
    }

    private static String quoted(final String field) {
        return field.matches("[^\",\r\n]*") ? field : '"' + field.replace("\"", "\"\"") + '"';
    }

    /**
     * {@return the ratios of a result to an older one, a line for each row that both have}
     *
     * @param older what is compared with
     * @param newer what is compared
     */
    static List<String> compare(final BenchResult older, final BenchResult newer) {
        final Map<String, BenchResult.Row> before =
                older.rows().stream().collect(Collectors.toMap(BenchResult.Row::key, row -> row, (x, _) -> x));
        final String form = "%-42s %9s %9s %7s %7s";
        final List<String> lines = new ArrayList<>();
        final List<Double> changes = new ArrayList<>();
        for (final BenchResult.Row row : newer.rows()) {
            final BenchResult.Row old = before.get(row.key());
            if (old != null) {
                lines.add(form.formatted(
                        row.key(),
                        Rounded.text(old.number("us")),
                        Rounded.text(row.number("us")),
                        Rounded.text(old.number("us") / row.number("us")),
                        Rounded.text(old.number("usPeerMethod") / row.number("usPeerMethod"))));
                changes.add(100 * Math.abs(row.number("us") - old.number("us")) / old.number("us"));
            }
        }
        final String close = changes.isEmpty()
                ? "no row is in both"
                : "%d rows in both; median of the absolute change %s %%"
                        .formatted(
                                changes.size(),
                                Rounded.text(Statistics.of(changes.stream()
                                                .mapToDouble(Double::doubleValue)
                                                .toArray())
                                        .median()));
        return Stream.of(
                        Stream.of(
                                "old: " + older.text("gpu") + ", " + older.text("commit") + ", " + older.text("date"),
                                "new: " + newer.text("gpu") + ", " + newer.text("commit") + ", " + newer.text("date"),
                                form.formatted("row", "old us", "new us", "old/new", "peer's")),
                        lines.stream(),
                        Stream.of(close))
                .flatMap(s -> s)
                .toList();
    }
}
