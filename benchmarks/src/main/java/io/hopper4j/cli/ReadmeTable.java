package io.hopper4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The README's table of measurements, written from result files between two markers. */
final class ReadmeTable {
    /** What the table follows. */
    static final String BEGIN = "<!-- measured -->";

    /** What the table precedes. */
    static final String END = "<!-- /measured -->";

    private ReadmeTable() {}

    /**
     * {@return a text with the table between its markers}
     *
     * @param name of the file, for messages
     * @param text the file
     * @param results in the order to show
     * @throws IOException if the text has not both markers once, in order
     */
    static String replace(final Path name, final String text, final List<BenchResult> results) throws IOException {
        final int begin = text.indexOf(BEGIN);
        final int end = text.indexOf(END);
        if (begin < 0 || end < begin || begin != text.lastIndexOf(BEGIN) || end != text.lastIndexOf(END)) {
            throw new IOException(
                    name + ": got no pair of markers, need a line " + BEGIN + " and after it a line " + END);
        }
        return text.substring(0, begin + BEGIN.length()) + "\n" + table(results) + text.substring(end);
    }

    /** {@return the table of all results} */
    static String table(final List<BenchResult> results) {
        final List<String> lines = new ArrayList<>();
        for (final BenchResult result : results) {
            lines.add("");
            lines.add(
                    "%s, %s, driver %s, commit %s, cuBLASLt %s. Same run: copy %s GB/s, read %s GB/s, FP8 per-tensor product %s TFLOPS, BF16 %s TFLOPS."
                            .formatted(
                                    result.text("gpu"),
                                    result.text("date"),
                                    result.text("driver"),
                                    result.text("commit"),
                                    result.document().get("cublasLt") == null ? "absent" : result.text("cublasLt"),
                                    Rounded.text(result.yardstick("copyGBs")),
                                    Rounded.text(result.yardstick("readGBs")),
                                    Rounded.text(result.yardstick("fp8PerTensorTflops")),
                                    Rounded.text(result.yardstick("bf16MatmulTflops"))));
            lines.add("");
            lines.add("| operation | shape | µs | of the floor | TFLOPS | GB/s | fastest peer, µs | peer / ours |");
            lines.add("|---|---|--:|--:|--:|--:|---|--:|");
            result.rows().forEach(row -> lines.add(line(row)));
        }
        lines.add("");
        return String.join("\n", lines);
    }

    private static String line(final BenchResult.Row row) {
        final double us = row.number("us");
        final Optional<Map.Entry<String, Double>> best = best(row);
        return "| `%s` | %s | %s | %s %% | %s | %s | %s | %s |"
                .formatted(
                        row.text("op"),
                        row.shape(),
                        Rounded.text(us),
                        Rounded.text(100 * row.number("floorShare")),
                        Rounded.text(row.number("tflops")),
                        Rounded.text(row.number("gbs")),
                        best.map(b -> "%s %s".formatted(b.getKey(), Rounded.text(b.getValue())))
                                .orElse("-"),
                        best.map(b -> Rounded.text(b.getValue() / us)).orElse("-"));
    }

    /** {@return the fastest of all peers, those that do less work included} */
    private static Optional<Map.Entry<String, Double>> best(final BenchResult.Row row) {
        return row.peers("us").entrySet().stream()
                .filter(peer -> Double.isFinite(peer.getValue()))
                .min(Map.Entry.comparingByValue());
    }
}
