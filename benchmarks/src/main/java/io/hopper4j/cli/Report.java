package io.hopper4j.cli;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** Prints rows as they come, counts them, and writes them all as JSON. */
final class Report {
    private static final String LINE = "%-11s %-58s %-28s %-64s %9s  %s%n";
    private static final Duration BETWEEN_PROGRESS = Duration.ofSeconds(5);

    private final PrintWriter out;
    private final PrintWriter err;
    private final List<Row> rows = new ArrayList<>();
    private final long start = System.nanoTime();
    private long lastProgress = start;

    Report(final PrintWriter out, final PrintWriter err) {
        this.out = out;
        this.err = err;
    }

    void header() {
        out.printf(LINE, "operation", "shape", "kernel", "error (bound)", "us", "verdict");
        out.flush();
    }

    /** Adds a row and prints it. */
    void add(final Row row) {
        rows.add(row);
        final String verdict = switch (row.verdict()) {
            case OK -> "ok";
            case FAIL -> "FAIL";
            case NOT_RUN -> "not run";
        };
        final String note = row.note().isEmpty() ? "" : ": " + row.note();
        final String time =
                Double.isNaN(row.microseconds()) ? "-" : String.format(Locale.ROOT, "%.1f", row.microseconds());
        final String kernel = row.kernel().isEmpty() ? "-" : row.kernel();
        out.printf(LINE, row.operation(), row.shape(), kernel, errors(row), time, verdict + note);
        out.flush();
    }

    private static String errors(final Row row) {
        return row.measures().isEmpty()
                ? "-"
                : row.measures().stream()
                        .map(m -> m.name() + " " + number(m.value()) + " (" + number(m.bound()) + ")")
                        .collect(Collectors.joining(", "));
    }

    private static String number(final double value) {
        return value == Math.rint(value) && Math.abs(value) < 1e15
                ? Long.toString((long) value)
                : String.format(Locale.ROOT, "%.2g", value);
    }

    /** Adds rows that were not run for one reason and prints one line for each operation. */
    void addNotRun(final List<Row> notRun) {
        rows.addAll(notRun);
        final Map<String, Map<String, Integer>> counts = new LinkedHashMap<>();
        for (final Row row : notRun) {
            counts.computeIfAbsent(row.operation(), _ -> new LinkedHashMap<>()).merge(row.note(), 1, Integer::sum);
        }
        counts.forEach((operation, reasons) -> reasons.forEach((reason, count) -> out.printf(
                LINE, operation, count + (count == 1 ? " case" : " cases"), "-", "-", "-", "not run: " + reason)));
        out.flush();
    }

    /** Says on the error stream how far a long run has come, every few seconds. */
    void progress(final int done, final int total) {
        final long now = System.nanoTime();
        if (now - lastProgress < BETWEEN_PROGRESS.toNanos() || done == 0) {
            return;
        }
        lastProgress = now;
        final double seconds = (now - start) / 1e9;
        err.printf(
                Locale.ROOT,
                "[%4.0fs] %d of %d, about %.0f s left%n",
                seconds,
                done,
                total,
                seconds / done * (total - done));
        err.flush();
    }

    long count(final Row.Verdict verdict) {
        return rows.stream().filter(row -> row.verdict() == verdict).count();
    }

    /** Prints the closing line. */
    void close() {
        out.printf(
                Locale.ROOT,
                "%d passed, %d failed, %d not run, %.1f s%n",
                count(Row.Verdict.OK),
                count(Row.Verdict.FAIL),
                count(Row.Verdict.NOT_RUN),
                (System.nanoTime() - start) / 1e9);
        out.flush();
    }

    /**
     * Writes all rows.
     *
     * @param file where to; overwritten
     * @param about what the run was, put before the rows
     */
    void write(final Path file, final Map<String, String> about) throws IOException {
        try (JsonGenerator json =
                new JsonFactory().createGenerator(Files.newBufferedWriter(file, StandardCharsets.UTF_8))) {
            json.useDefaultPrettyPrinter();
            json.writeStartObject();
            json.writeNumberField("schema", 1);
            for (final Map.Entry<String, String> entry : about.entrySet()) {
                json.writeStringField(entry.getKey(), entry.getValue());
            }
            json.writeNumberField("passed", count(Row.Verdict.OK));
            json.writeNumberField("failed", count(Row.Verdict.FAIL));
            json.writeNumberField("notRun", count(Row.Verdict.NOT_RUN));
            json.writeArrayFieldStart("rows");
            for (final Row row : rows) {
                write(json, row);
            }
            json.writeEndArray();
            json.writeEndObject();
        }
    }

    private static void write(final JsonGenerator json, final Row row) throws IOException {
        json.writeStartObject();
        json.writeStringField("operation", row.operation());
        json.writeStringField("shape", row.shape());
        json.writeStringField("kernel", row.kernel());
        json.writeArrayFieldStart("errors");
        for (final Row.Measure measure : row.measures()) {
            json.writeStartObject();
            json.writeStringField("name", measure.name());
            writeNumber(json, "value", measure.value());
            writeNumber(json, "bound", measure.bound());
            json.writeEndObject();
        }
        json.writeEndArray();
        writeNumber(json, "us", row.microseconds());
        json.writeStringField("verdict", row.verdict().name().toLowerCase(Locale.ROOT));
        json.writeStringField("note", row.note());
        json.writeEndObject();
    }

    /** JSON has no NaN and no infinity: null stands for both. */
    private static void writeNumber(final JsonGenerator json, final String name, final double value)
            throws IOException {
        if (Double.isFinite(value)) {
            json.writeNumberField(name, value);
        } else {
            json.writeNullField(name);
        }
    }
}
