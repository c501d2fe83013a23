package io.hopper4j.cli;

import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** One static page of result files: figures as inline SVG, tables, no script, nothing from the network; light or dark as the reader's system is. */
final class HtmlReport {
    private static final String STYLE = """
            :root { color-scheme: light dark; --page: #ffffff; --text: #1c2024; --quiet: #5f6871; --grid: #d9dee3;
              --s0: #6b7480; --s1: #0b6bcb; --s2: #c2410c; --s3: #15803d; --s4: #7e22ce; --s5: #0f766e; }
            @media (prefers-color-scheme: dark) {
              :root { --page: #14171a; --text: #e6e9ec; --quiet: #9aa4ae; --grid: #343a41;
                --s0: #8f99a5; --s1: #5aa9ff; --s2: #fb923c; --s3: #4ade80; --s4: #c084fc; --s5: #2dd4bf; } }
            body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 96rem; margin: 0 auto; padding: 1.5rem; }
            h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--grid); padding-bottom: .3rem; }
            h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
            p.quiet, dt, figcaption { color: var(--quiet); }
            figure { margin: 1rem 0; overflow-x: auto; } svg { width: 100%; max-width: 76rem; min-width: 44rem; height: auto; display: block; }
            dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; margin: 0; } dd { margin: 0; }
            .scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
            th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
            th { color: var(--quiet); font-weight: 600; white-space: normal; vertical-align: bottom; } th:first-child, td:first-child, td.left, th.left { text-align: left; }
            td.left { white-space: normal; min-width: 24rem; }
            .bad { color: var(--s2); font-weight: 600; }
            """;

    private HtmlReport() {}

    /** {@return the page} */
    static String of(final List<BenchResult> results) throws IOException {
        final StringBuilder page = new StringBuilder();
        page.append("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
                .append(
                        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Hopper4J: measurements</title>\n<style>\n")
                .append(STYLE)
                .append("</style></head>\n<body>\n<h1>Hopper4J: measurements</h1>\n")
                .append(
                        "<p class=\"quiet\">Kernel times with a cold L2, medians. The floor of a row is the time in which the same card moves the bytes ")
                .append(
                        "that must move, or does the operations that must be done, whichever is longer, by its own yardsticks of the same run.</p>\n");
        int figures = 0;
        for (final BenchResult result : results) {
            page.append("<section>\n<h2>")
                    .append(escape(result.text("family") + " on " + result.text("gpu")))
                    .append("</h2>\n");
            head(page, result);
            for (final Map.Entry<String, List<BenchResult.Row>> group :
                    groups(result).entrySet()) {
                page.append("<h3>").append(escape(group.getKey())).append("</h3>\n");
                figure(
                        page,
                        Figures.floorShares(group.getValue(), result.peers(), "f" + figures++),
                        "Share of the floor reached, floor / time: more is better, 100 %% is what the yardsticks of the same run allow. Bars are cut at %.0f %%."
                                .formatted(Figures.LARGEST_SHARE));
            }
            if (result.rows().stream().anyMatch(row -> Double.isFinite(row.number("tflops")))) {
                page.append("<h3>Roofline</h3>\n");
                figure(
                        page,
                        Figures.roofline(result, "f" + figures++),
                        "Each row by its operations per byte; the roof is what cuBLASLt and a plain read reached in the same run.");
            } else {
                page.append("<h3>Bandwidth</h3>\n");
                figure(
                        page,
                        Figures.bandwidth(result, "f" + figures++),
                        "Each row by the bytes that it must move; the line is what a copy reached in the same run.");
            }
            if (result.rows().stream().anyMatch(row -> Double.isFinite(row.number("smClockMHz")))) {
                page.append("<h3>Clock</h3>\n");
                figure(
                        page,
                        Figures.clocks(result, "f" + figures++),
                        "SM clock while each row was timed, in the order of the table. Long products run into the power limit.");
            }
            table(page, result);
            page.append("</section>\n");
        }
        return page.append("</body></html>\n").toString();
    }

    private static void head(final StringBuilder page, final BenchResult result) {
        final Map<String, String> facts = new LinkedHashMap<>();
        facts.put("date", result.text("date"));
        facts.put("commit", result.text("commit"));
        facts.put("command", result.text("command"));
        facts.put("driver", result.text("driver") + ", CUDA " + result.text("cuda") + ", Java " + result.text("java"));
        facts.put(
                "yardsticks",
                "copy %s GB/s, read %s GB/s, BF16 product %s TFLOPS, FP8 per-tensor product %s TFLOPS, stores to a peer %s GB/s"
                        .formatted(
                                Rounded.text(result.yardstick("copyGBs")),
                                Rounded.text(result.yardstick("readGBs")),
                                Rounded.text(result.yardstick("bf16MatmulTflops")),
                                Rounded.text(result.yardstick("fp8PerTensorTflops")),
                                Rounded.text(result.yardstick("peerStoreGBs"))));
        if (Boolean.FALSE.equals(result.document().get("complete"))) {
            facts.put("incomplete", "the run was interrupted; rows are missing");
        }
        page.append("<dl>");
        facts.forEach((name, value) -> page.append("<dt>")
                .append(escape(name))
                .append("</dt><dd>")
                .append(escape(value))
                .append("</dd>"));
        page.append("</dl>\n");
    }

    /** Rows that are shown in one figure: those of an operation with the same first size. */
    private static Map<String, List<BenchResult.Row>> groups(final BenchResult result) {
        return result.rows().stream()
                .collect(Collectors.groupingBy(Figures::group, LinkedHashMap::new, Collectors.toList()));
    }

    private static void figure(final StringBuilder page, final String svg, final String caption) {
        page.append("<figure>")
                .append(svg)
                .append("<figcaption>")
                .append(escape(caption))
                .append("</figcaption></figure>\n");
    }

    private static void table(final StringBuilder page, final BenchResult result) {
        final List<String> peers = result.peers();
        page.append("<h3>All rows</h3>\n<div class=\"scroll\"><table><thead><tr><th>operation, shape</th>");
        final List<String> columns = new ArrayList<>(List.of(
                "µs",
                "10 to 90 %",
                "µs, peers’ way",
                "floor µs",
                "of the floor",
                "TFLOPS",
                "GB/s",
                "MHz",
                "W",
                "error"));
        peers.forEach(peer -> columns.add(peer + " µs"));
        columns.forEach(column -> page.append("<th>")
                .append(escape(column).replace("_", "_<wbr>"))
                .append("</th>"));
        page.append("<th class=\"left\">kernel, warnings</th></tr></thead><tbody>\n");
        for (final BenchResult.Row row : result.rows()) {
            final List<String> cells = new ArrayList<>(List.of(
                    Rounded.text(row.number("us")),
                    Rounded.text(row.number("usP10")) + "–" + Rounded.text(row.number("usP90")),
                    Rounded.text(row.number("usPeerMethod")),
                    Rounded.text(row.number("floorUs")),
                    Rounded.text(100 * row.number("floorShare")) + " %",
                    Rounded.text(row.number("tflops")),
                    Rounded.text(row.number("gbs")),
                    Rounded.text(row.number("smClockMHz")),
                    Rounded.text(row.number("watts")),
                    row.number("error") == 0 ? "0" : String.format(Locale.ROOT, "%.1e", row.number("error"))));
            final Map<String, Double> times = row.peers("us");
            peers.forEach(peer -> cells.add(Rounded.text(times.getOrDefault(peer, Double.NaN))));
            page.append("<tr><td>").append(escape(row.key())).append("</td>");
            cells.forEach(cell -> page.append("<td>").append(escape(cell)).append("</td>"));
            page.append("<td class=\"left\">").append(escape(row.text("kernel")));
            row.warnings()
                    .forEach(warning -> page.append("; <span class=\"bad\">")
                            .append(escape(warning))
                            .append("</span>"));
            page.append("</td></tr>\n");
        }
        page.append("</tbody></table></div>\n");
    }

    /** {@return a text as HTML has it} */
    static String escape(final String text) {
        return text.replace("&", "&amp;")
                .replace("<", "&lt;")
                .replace(">", "&gt;")
                .replace("\"", "&quot;");
    }
}
