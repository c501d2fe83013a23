package io.hopper4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

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

    /** {@return the tables of all results, each folded under a line that sums it up} */
    static String table(final List<BenchResult> results) {
        final List<String> lines = new ArrayList<>();
        for (final BenchResult result : results) {
            final List<String> peers = result.peers();
            lines.add("");
            lines.add("**%s on %s**, %d rows. %s"
                    .formatted(
                            result.text("family"),
                            HtmlReport.escape(result.text("gpu")),
                            result.rows().size(),
                            peers.isEmpty()
                                    ? ""
                                    : "So many times as fast as each peer, geometric mean of an operation's rows: "
                                            + speedups(result, peers)
                                            + "."));
            lines.add("");
            lines.add("<details><summary>%s, driver %s, CUDA %s, commit %s, cuBLASLt %s</summary>"
                    .formatted(
                            result.text("date"),
                            result.text("driver"),
                            result.text("cuda"),
                            result.text("commit"),
                            result.document().get("cublasLt") == null ? "absent" : result.text("cublasLt")));
            lines.add("");
            lines.add("Same run: copy %s GB/s, read %s GB/s, FP8 per-tensor product %s TFLOPS, BF16 product %s TFLOPS."
                    .formatted(
                            Rounded.text(result.yardstick("copyGBs")),
                            Rounded.text(result.yardstick("readGBs")),
                            Rounded.text(result.yardstick("fp8PerTensorTflops")),
                            Rounded.text(result.yardstick("bf16MatmulTflops"))));
            lines.add("");
            lines.add("| operation | shape | µs | of the floor | TFLOPS | GB/s |"
                    + peers.stream().map(peer -> " " + peer + ", µs |").collect(Collectors.joining()));
            lines.add("|---|---|--:|--:|--:|--:|" + "--:|".repeat(peers.size()));
            result.rows().forEach(row -> lines.add(line(row, peers)));
            lines.add("");
            lines.add("</details>");
        }
        lines.add("");
        return String.join("\n", lines);
    }

    private static String line(final BenchResult.Row row, final List<String> peers) {
        final Map<String, Double> times = row.peers("us");
        return "| `%s` | %s | %s | %s %% | %s | %s |"
                        .formatted(
                                row.text("op"),
                                row.shape(),
                                Rounded.text(row.number("us")),
                                Rounded.text(100 * row.number("floorShare")),
                                Rounded.text(row.number("tflops")),
                                Rounded.text(row.number("gbs")))
                + peers.stream()
                        .map(peer -> " " + Rounded.text(times.getOrDefault(peer, Double.NaN)) + " |")
                        .collect(Collectors.joining());
    }

    /** Of each operation beside the peers that it was run with. */
    private static String speedups(final BenchResult result, final List<String> peers) {
        final Map<String, List<BenchResult.Row>> operations = result.rows().stream()
                .collect(Collectors.groupingBy(row -> row.text("op"), LinkedHashMap::new, Collectors.toList()));
        return operations.entrySet().stream()
                .map(operation -> peers.stream()
                        .filter(peer -> operation.getValue().stream()
                                .anyMatch(row -> row.peers("us").containsKey(peer)))
                        .map(peer -> peer + " " + Rounded.text(speedup(operation.getValue(), peer)))
                        .collect(Collectors.collectingAndThen(
                                Collectors.joining(", "),
                                list -> list.isEmpty() ? "" : "`" + operation.getKey() + "` " + list)))
                .filter(list -> !list.isEmpty())
                .collect(Collectors.joining("; "));
    }

    /** The geometric mean of a peer's time by ours, over the rows that it ran. */
    private static double speedup(final List<BenchResult.Row> rows, final String peer) {
        return Math.exp(rows.stream()
                .mapToDouble(row -> Math.log(row.peers("us").getOrDefault(peer, Double.NaN) / row.number("us")))
                .filter(Double::isFinite)
                .average()
                .orElse(Double.NaN));
    }
}
