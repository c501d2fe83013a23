package io.hopper4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * A result file: a document that the schema {@code bench-result-1.json} holds valid. Readers take what they need by its name there.
 *
 * @param file where it is from
 * @param document the whole of it
 */
record BenchResult(Path file, Map<?, ?> document) {
    /** The number of the schema. */
    static final long SCHEMA = 1;

    private static final JsonSchema RULES = JsonSchema.ofResource("/schema/bench-result-1.json");

    /**
     * Reads a file.
     *
     * @throws IOException if it cannot be read, is of another schema, or is not valid; the message says where and how
     */
    static BenchResult read(final Path file) throws IOException {
        final Object document = Json.read(file);
        if (document instanceof Map<?, ?> map && map.get("schema") instanceof Long schema && schema != SCHEMA) {
            throw new IOException(file + ": schema: got " + schema + ", need " + SCHEMA + ": another version wrote it");
        }
        final List<String> problems = RULES.problems(document);
        if (!problems.isEmpty()) {
            throw new IOException(file + ": not a bench result: " + problems.getFirst()
                    + (problems.size() == 1 ? "" : ", and " + (problems.size() - 1) + " more"));
        }
        return new BenchResult(file, (Map<?, ?>) Objects.requireNonNull(document));
    }

    /**
     * Writes a document, whole or not at all.
     *
     * @throws IllegalStateException if the schema does not hold it valid, which is a defect of this program
     */
    static void write(final Path file, final Map<String, @Nullable Object> document) throws IOException {
        final List<String> problems = RULES.problems(document);
        if (!problems.isEmpty()) {
            throw new IllegalStateException("bench: the result is not valid: " + problems);
        }
        Json.write(file, document);
    }

    /** {@return a text of the head} */
    String text(final String name) {
        return String.valueOf(document.get(name));
    }

    /** {@return a yardstick; NaN where it was not measured} */
    double yardstick(final String name) {
        return number((Map<?, ?>) Objects.requireNonNull(document.get("yardsticks")), name);
    }

    /** {@return the rows} */
    List<Row> rows() {
        final List<Row> rows = new ArrayList<>();
        for (final Object row : (List<?>) Objects.requireNonNull(document.get("rows"))) {
            rows.add(new Row((Map<?, ?>) Objects.requireNonNull(row)));
        }
        return rows;
    }

    /** {@return the peers of any row, in the order in which they first appear} */
    List<String> peers() {
        final Set<String> peers = new LinkedHashSet<>();
        rows().forEach(row -> peers.addAll(row.peers("us").keySet()));
        return List.copyOf(peers);
    }

    private static double number(final Map<?, ?> object, final String name) {
        return object.get(name) instanceof Number number ? number.doubleValue() : Double.NaN;
    }

    /**
     * One row.
     *
     * @param fields as the schema names them
     */
    record Row(Map<?, ?> fields) {
        /** {@return a text} */
        String text(final String name) {
            return String.valueOf(fields.get(name));
        }

        /** {@return a number; NaN where it was not measured} */
        double number(final String name) {
            return BenchResult.number(fields, name);
        }

        /** {@return the sizes: {@code m=64 n=2112 k=7168}} */
        String shape() {
            return shapeFields().entrySet().stream()
                    .map(e -> e.getKey() + "=" + e.getValue())
                    .collect(Collectors.joining(" "));
        }

        /** {@return the sizes alone, as figures label them: {@code 64x2112x7168}} */
        String sizes() {
            return shapeFields().values().stream().map(String::valueOf).collect(Collectors.joining("x"));
        }

        private Map<?, ?> shapeFields() {
            return (Map<?, ?>) Objects.requireNonNull(fields.get("shape"));
        }

        /** {@return what makes a row the same in two files} */
        String key() {
            return text("op") + " " + shape();
        }

        /** {@return the times of peers that ran, by their names} */
        Map<String, Double> peers(final String time) {
            final Map<String, Double> peers = new LinkedHashMap<>();
            for (final Object peer : (List<?>) Objects.requireNonNull(fields.get("peers"))) {
                final Map<?, ?> map = (Map<?, ?>) Objects.requireNonNull(peer);
                peers.put(String.valueOf(map.get("name")), BenchResult.number(map, time));
            }
            return peers;
        }

        /** {@return what is to be known about the row} */
        List<String> warnings() {
            return fields.get("warnings") instanceof List<?> list
                    ? list.stream().map(String::valueOf).toList()
                    : List.of();
        }
    }
}
