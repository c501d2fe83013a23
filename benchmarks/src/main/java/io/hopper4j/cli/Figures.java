package io.hopper4j.cli;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.knowm.xchart.CategoryChart;
import org.knowm.xchart.CategoryChartBuilder;
import org.knowm.xchart.VectorGraphicsEncoder;
import org.knowm.xchart.VectorGraphicsEncoder.VectorGraphicsFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.XYSeries.XYSeriesRenderStyle;
import org.knowm.xchart.internal.chartpart.Chart;
import org.knowm.xchart.style.AxesChartStyler;
import org.knowm.xchart.style.AxesChartStyler.TextAlignment;
import org.knowm.xchart.style.Styler.LegendLayout;
import org.knowm.xchart.style.Styler.LegendPosition;
import org.knowm.xchart.style.markers.Marker;
import org.knowm.xchart.style.markers.SeriesMarkers;

/**
 * The page's figures. They are drawn with colours that stand for names and in the end become the page's own, so that one drawing serves light and dark.
 */
final class Figures {
    private static final int WIDTH = 1040;
    private static final int HEIGHT = 360;

    /** More letters of labels than this do not fit beside each other. */
    private static final int WIDEST_UNROTATED = 140;

    /** What a letter of a rotated label adds to a figure's height. */
    private static final int ROTATED_LETTER = 5;

    private static final Color TEXT = new Color(1, 2, 3);
    private static final Color GRID = new Color(4, 5, 6);
    private static final Color NONE = new Color(0, 0, 0, 0);

    /** Stand for the page's {@code --s0}, {@code --s1}, ...; the first is for ceilings, the second for this project. */
    private static final Color[] SERIES = {
        new Color(9, 0, 0),
        new Color(9, 0, 1),
        new Color(9, 0, 2),
        new Color(9, 0, 3),
        new Color(9, 0, 4),
        new Color(9, 0, 5)
    };

    private static final Marker[] MARKERS = {
        SeriesMarkers.CIRCLE, SeriesMarkers.DIAMOND, SeriesMarkers.SQUARE, SeriesMarkers.TRIANGLE_UP
    };

    /** Bars end here, in per cent of the floor. */
    static final double LARGEST_SHARE = 150;

    /** More names than this do not fit below a figure. */
    private static final int MOST_BELOW = 4;

    private static final Pattern LONG_NUMBER = Pattern.compile("(-?\\d+\\.\\d\\d)\\d+");
    private static final Pattern CLIP = Pattern.compile("\\bclip(\\d+)");

    private Figures() {}

    /** Sizes of a product: M, N and K. Its figures have one M each; other operations have one figure for all their rows. */
    private static final int PRODUCT_SIZES = 3;

    /** {@return what rows of one figure share: the operation and, where it is a product, its first size} */
    static String group(final BenchResult.Row row) {
        final String[] sizes = row.shape().split(" ", -1);
        return row.text("op") + (sizes.length == PRODUCT_SIZES ? ", " + sizes[0].replace("=", " = ") : "");
    }

    /** {@return the names of the sizes that tell rows of one figure apart} */
    private static List<String> varying(final List<BenchResult.Row> rows) {
        final Set<String> shared = new HashSet<>(sizes(rows.getFirst()));
        rows.forEach(row -> shared.retainAll(sizes(row)));
        return sizes(rows.getFirst()).stream()
                .filter(size -> rows.size() == 1 || !shared.contains(size))
                .map(size -> size.substring(0, size.indexOf('=')))
                .toList();
    }

    private static String label(final BenchResult.Row row, final List<String> names) {
        return sizes(row).stream()
                .filter(size -> names.contains(size.substring(0, size.indexOf('='))))
                .map(size -> size.substring(size.indexOf('=') + 1))
                .collect(Collectors.joining("x"));
    }

    private static List<String> sizes(final BenchResult.Row row) {
        return List.of(row.shape().split(" ", -1));
    }

    /**
     * Bars of floor / time for this project and its peers, cut where a peer that does less (reads one operand, multiplies by one matrix) would dwarf them.
     *
     * @param peers those of the whole result, in the order to show
     */
    static String floorShares(final List<BenchResult.Row> rows, final List<String> peers, final String id)
            throws IOException {
        final List<String> varying = varying(rows);
        final List<String> names = rows.stream().map(row -> label(row, varying)).toList();
        final boolean rotated = names.stream().mapToInt(String::length).sum() > WIDEST_UNROTATED;
        final int longest = names.stream().mapToInt(String::length).max().orElse(0);
        final CategoryChart chart = new CategoryChartBuilder()
                .width(WIDTH)
                .height(rotated ? HEIGHT + longest * ROTATED_LETTER : HEIGHT)
                .xAxisTitle(String.join(" x ", varying))
                .yAxisTitle("% of the floor")
                .build();
        style(chart.getStyler());
        chart.getStyler().setAvailableSpaceFill(.75).setOverlapped(false);
        chart.getStyler().setYAxisMin(0.0).setYAxisMax(100.0);
        chart.getStyler().setYAxisDecimalPattern("0");
        if (rotated) {
            chart.getStyler().setXAxisLabelRotation(45).setXAxisLabelAlignment(TextAlignment.Right);
        }
        final Map<String, List<Double>> times = new LinkedHashMap<>();
        times.put("Hopper4J", rows.stream().map(row -> row.number("us")).toList());
        for (final String peer : peers) {
            times.put(
                    peer,
                    rows.stream()
                            .map(row -> row.peers("us").getOrDefault(peer, Double.NaN))
                            .toList());
        }
        int color = 0;
        for (final Map.Entry<String, List<Double>> one : times.entrySet()) {
            final List<Double> shares = new ArrayList<>();
            for (int i = 0; i < rows.size(); i++) {
                final double share =
                        100 * rows.get(i).number("floorUs") / one.getValue().get(i);
                shares.add(Double.isFinite(share) ? Math.min(share, LARGEST_SHARE) : 0);
            }
            if (shares.stream().anyMatch(share -> share > 0)) {
                color = 1 + color % (SERIES.length - 1);
                chart.addSeries(one.getKey(), names, shares).setFillColor(SERIES[color]);
            }
        }
        chart.getStyler()
                .setYAxisMax(Math.max(
                        100.0,
                        chart.getSeriesMap().values().stream()
                                .flatMap(series -> series.getYData().stream())
                                .mapToDouble(Number::doubleValue)
                                .max()
                                .orElse(0)));
        return svg(chart, "Share of the floor reached: " + group(rows.getFirst()), id);
    }

    /** Operations a second by operations a byte, under the measured roof. */
    static String roofline(final BenchResult result, final String id) throws IOException {
        final XYChart chart = new XYChartBuilder()
                .width(WIDTH)
                .height(HEIGHT + 80)
                .xAxisTitle("operations a byte")
                .yAxisTitle("TFLOPS")
                .build();
        style(chart.getStyler());
        chart.getStyler().setXAxisLogarithmic(true).setYAxisLogarithmic(true);
        chart.getStyler().setXAxisDecimalPattern("#,##0").setYAxisDecimalPattern("#,##0.##");
        chart.getStyler().setYAxisMin(1.0).setYAxisMax(2500.0).setXAxisMin(1.0).setXAxisMax(1e4);
        final double gbs = Math.max(result.yardstick("copyGBs"), result.yardstick("readGBs"));
        final double fp8 = result.yardstick("fp8PerTensorTflops");
        final double knee = fp8 * 1e3 / gbs;
        final double left = 1;
        final double right = 1e4;
        if (Double.isFinite(knee)) {
            line(chart, "measured roof", new double[] {left, knee, right}, new double[] {gbs * left / 1e3, fp8, fp8});
        }
        final Map<String, List<double[]>> points = new LinkedHashMap<>();
        for (final BenchResult.Row row : result.rows()) {
            final double tflops = row.number("tflops");
            if (Double.isFinite(tflops)) {
                points.computeIfAbsent(row.text("op"), _ -> new ArrayList<>())
                        .add(new double[] {1e3 * tflops / row.number("gbs"), tflops});
            }
        }
        points(chart, points);
        return svg(chart, "Roofline", id);
    }

    /** Bandwidth by bytes moved. */
    static String bandwidth(final BenchResult result, final String id) throws IOException {
        final XYChart chart = new XYChartBuilder()
                .width(WIDTH)
                .height(HEIGHT)
                .xAxisTitle("MB to move")
                .yAxisTitle("GB/s")
                .build();
        style(chart.getStyler());
        chart.getStyler().setXAxisLogarithmic(true);
        chart.getStyler().setXAxisDecimalPattern("#,##0.##").setYAxisDecimalPattern("#,##0");
        chart.getStyler().setYAxisMin(0.0);
        final Map<String, List<double[]>> points = new LinkedHashMap<>();
        double smallest = Double.MAX_VALUE;
        double largest = 0;
        for (final BenchResult.Row row : result.rows()) {
            final double megabytes = row.number("gbs") * row.number("us") / 1e3;
            smallest = Math.min(smallest, megabytes);
            largest = Math.max(largest, megabytes);
            points.computeIfAbsent(row.text("op"), _ -> new ArrayList<>())
                    .add(new double[] {megabytes, row.number("gbs")});
        }
        final double copy = result.yardstick("copyGBs");
        if (Double.isFinite(copy) && largest > smallest) {
            line(chart, "copy", new double[] {smallest, largest}, new double[] {copy, copy});
        }
        points(chart, points);
        return svg(chart, "Bandwidth", id);
    }

    /** SM clock of each row. */
    static String clocks(final BenchResult result, final String id) throws IOException {
        final XYChart chart = new XYChartBuilder()
                .width(WIDTH)
                .height(HEIGHT - 80)
                .xAxisTitle("row")
                .yAxisTitle("SM clock, MHz")
                .build();
        style(chart.getStyler());
        chart.getStyler().setXAxisDecimalPattern("0");
        final Map<Integer, Double> clocks = new TreeMap<>();
        final List<BenchResult.Row> rows = result.rows();
        for (int i = 0; i < rows.size(); i++) {
            final double clock = rows.get(i).number("smClockMHz");
            if (Double.isFinite(clock)) {
                clocks.put(i + 1, clock);
            }
        }
        final double lowest =
                clocks.values().stream().mapToDouble(Double::doubleValue).min().orElse(0);
        final double highest =
                clocks.values().stream().mapToDouble(Double::doubleValue).max().orElse(0);
        chart.getStyler()
                .setYAxisMin(Math.floor(lowest / 100) * 100 - 100)
                .setYAxisMax(Math.ceil(highest / 100) * 100 + 100);
        final XYSeries series =
                chart.addSeries("SM clock", new ArrayList<>(clocks.keySet()), new ArrayList<>(clocks.values()));
        series.setLineColor(SERIES[1]);
        series.setMarkerColor(SERIES[1]);
        series.setMarker(SeriesMarkers.CIRCLE);
        series.setLineWidth(1.2f);
        chart.getStyler().setLegendVisible(false);
        return svg(chart, "SM clock by row", id);
    }

    private static void line(final XYChart chart, final String name, final double[] x, final double[] y) {
        final XYSeries roof = chart.addSeries(name, x, y);
        roof.setMarker(SeriesMarkers.NONE);
        roof.setLineColor(SERIES[0]);
        roof.setLineStyle(new BasicStroke(2));
    }

    private static void points(final XYChart chart, final Map<String, List<double[]>> groups) {
        if (groups.size() > MOST_BELOW) {
            chart.getStyler().setLegendPosition(LegendPosition.OutsideE).setLegendLayout(LegendLayout.Vertical);
        }
        int i = 0;
        for (final Map.Entry<String, List<double[]>> group : groups.entrySet()) {
            final XYSeries series = chart.addSeries(
                    group.getKey(),
                    group.getValue().stream().mapToDouble(p -> p[0]).toArray(),
                    group.getValue().stream().mapToDouble(p -> p[1]).toArray());
            series.setXYSeriesRenderStyle(XYSeriesRenderStyle.Scatter);
            series.setMarker(MARKERS[i % MARKERS.length]);
            series.setMarkerColor(
                    SERIES[1 + i % (SERIES.length - 1)]); // other colours than markers, so that pairs repeat late
            i++;
        }
    }

    private static void style(final AxesChartStyler styler) {
        final Font font = new Font(Font.SANS_SERIF, Font.PLAIN, 12);
        styler.setBaseFont(font);
        styler.setAxisTitleFont(font).setAxisTickLabelsFont(font);
        styler.setLegendFont(font);
        styler.setChartBackgroundColor(NONE).setPlotBackgroundColor(NONE).setLegendBackgroundColor(NONE);
        styler.setLegendBorderColor(NONE).setChartFontColor(TEXT);
        styler.setPlotBorderVisible(false);
        styler.setPlotGridLinesColor(GRID)
                .setPlotGridVerticalLinesVisible(false)
                .setPlotGridLinesStroke(new BasicStroke(1));
        styler.setAxisTickLabelsColor(TEXT).setAxisTickMarksColor(GRID);
        styler.setXAxisTitleColor(TEXT).setYAxisTitleColor(TEXT);
        styler.setLegendPosition(LegendPosition.OutsideS).setLegendLayout(LegendLayout.Horizontal);
        styler.setChartTitleVisible(false);
        styler.setToolTipsEnabled(false);
        styler.setMarkerSize(8);
    }

    /** {@return the drawing with the page's colours, with two decimals, and with names that no other drawing has} */
    private static String svg(final Chart<?, ?> chart, final String title, final String id) throws IOException {
        final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        VectorGraphicsEncoder.saveVectorGraphic(chart, bytes, VectorGraphicsFormat.SVG);
        String svg = bytes.toString(StandardCharsets.UTF_8);
        svg = svg.substring(svg.indexOf("<svg"));
        svg = svg.replace(rgb(TEXT), "var(--text)").replace(rgb(GRID), "var(--grid)");
        for (int i = 0; i < SERIES.length; i++) {
            svg = svg.replace(rgb(SERIES[i]), "var(--s" + i + ")");
        }
        svg = LONG_NUMBER.matcher(svg).replaceAll("$1");
        svg = CLIP.matcher(svg).replaceAll(id + "c$1");
        return svg.replaceFirst(
                "<svg[^>]*>",
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">"
                        .formatted(chart.getWidth(), chart.getHeight(), HtmlReport.escape(title)));
    }

    private static String rgb(final Color color) {
        return "rgb(%d,%d,%d)".formatted(color.getRed(), color.getGreen(), color.getBlue());
    }
}
