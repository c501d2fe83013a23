package io.hopper4j.cli;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * The part of JSON Schema (2020-12) that this project's schemas use. A schema with any other keyword is refused, so that nothing is taken as checked
 * that is not.
 */
final class JsonSchema {
    private static final Set<String> NOTES = Set.of("$schema", "title", "description", "$defs");
    private static final Set<String> CHECKS = Set.of(
            "type",
            "const",
            "enum",
            "pattern",
            "minimum",
            "required",
            "properties",
            "additionalProperties",
            "items",
            "$ref");
    private static final String DEFINITIONS = "#/$defs/";

    private final Map<?, ?> root;

    /**
     * Reads a schema.
     *
     * @throws IllegalArgumentException if it has a keyword that is not known here
     */
    JsonSchema(final Object schema) {
        this.root = (Map<?, ?>) schema;
        checkKeywords(root);
    }

    /** {@return the schema of a resource} */
    static JsonSchema ofResource(final String name) {
        try (InputStream in = JsonSchema.class.getResourceAsStream(name)) {
            return new JsonSchema(Objects.requireNonNull(Json.read(Objects.requireNonNull(in, name)), name));
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static void checkKeywords(final @Nullable Object schema) {
        if (!(schema instanceof Map<?, ?> map)) {
            return;
        }
        map.forEach((key, value) -> {
            final String keyword = (String) key;
            if (!NOTES.contains(keyword) && !CHECKS.contains(keyword)) {
                throw new IllegalArgumentException("schema: got keyword " + keyword + ", need one of " + CHECKS);
            }
            if ((keyword.equals("properties") || keyword.equals("$defs")) && value instanceof Map<?, ?> children) {
                children.values().forEach(JsonSchema::checkKeywords);
            }
            if (keyword.equals("items")) {
                checkKeywords(value);
            }
        });
    }

    /** {@return what is wrong with a value: where and how, in words; empty if it is valid} */
    List<String> problems(final @Nullable Object value) {
        final List<String> problems = new ArrayList<>();
        check(root, value, "", problems);
        return problems;
    }

    private void check(
            final Map<?, ?> schema, final @Nullable Object value, final String at, final List<String> problems) {
        final String where = at.isEmpty() ? "the document" : at;
        if (schema.get("$ref") instanceof String reference) {
            final Map<?, ?> definitions = (Map<?, ?>) Objects.requireNonNull(root.get("$defs"));
            final String name = reference.substring(DEFINITIONS.length());
            check((Map<?, ?>) Objects.requireNonNull(definitions.get(name), reference), value, at, problems);
        }
        final Object type = schema.get("type");
        if (type != null) {
            final List<?> types = type instanceof List<?> list ? list : List.of(type);
            if (types.stream().noneMatch(t -> is(value, (String) t))) {
                problems.add(where + ": got " + show(value) + ", need " + join(types));
                return;
            }
        }
        if (schema.containsKey("const") && !Objects.equals(schema.get("const"), value)) {
            problems.add(where + ": got " + show(value) + ", need " + show(schema.get("const")));
        }
        if (schema.get("enum") instanceof List<?> values && !values.contains(value)) {
            problems.add(where + ": got " + show(value) + ", need one of " + join(values));
        }
        if (schema.get("pattern") instanceof String pattern
                && value instanceof String text
                && !Pattern.compile(pattern).matcher(text).find()) {
            problems.add(where + ": got " + show(value) + ", need " + pattern);
        }
        if (schema.get("minimum") instanceof Number minimum
                && value instanceof Number number
                && number.doubleValue() < minimum.doubleValue()) {
            problems.add(where + ": got " + number + ", need at least " + minimum);
        }
        if (value instanceof Map<?, ?> object) {
            checkObject(schema, object, at, problems);
        }
        if (value instanceof List<?> list && schema.get("items") instanceof Map<?, ?> items) {
            for (int i = 0; i < list.size(); i++) {
                check(items, list.get(i), at + "[" + i + "]", problems);
            }
        }
    }

    private void checkObject(
            final Map<?, ?> schema, final Map<?, ?> object, final String at, final List<String> problems) {
        final String where = at.isEmpty() ? "the document" : at;
        final Map<?, ?> properties = schema.get("properties") instanceof Map<?, ?> map ? map : Map.of();
        if (schema.get("required") instanceof List<?> required) {
            for (final Object name : required) {
                if (!object.containsKey(name)) {
                    problems.add(where + ": has no " + name);
                }
            }
        }
        object.forEach((name, child) -> {
            if (properties.get(name) instanceof Map<?, ?> property) {
                check(property, child, at.isEmpty() ? String.valueOf(name) : at + "." + name, problems);
            } else if (Boolean.FALSE.equals(schema.get("additionalProperties"))) {
                problems.add(where + ": has " + name + ", which the schema does not know");
            }
        });
    }

    private static boolean is(final @Nullable Object value, final String type) {
        return switch (type) {
            case "object" -> value instanceof Map;
            case "array" -> value instanceof List;
            case "string" -> value instanceof String;
            case "integer" -> value instanceof Long;
            case "number" -> value instanceof Number;
            case "boolean" -> value instanceof Boolean;
            case "null" -> value == null;
            default -> throw new IllegalArgumentException("schema: got type " + type + ", which is none");
        };
    }

    private static String show(final @Nullable Object value) {
        return switch (value) {
            case null -> "null";
            case Map<?, ?> _ -> "an object";
            case List<?> _ -> "an array";
            case String text -> '"' + text + '"';
            default -> value.toString();
        };
    }

    private static String join(final List<?> values) {
        return String.join(", ", values.stream().map(String::valueOf).toArray(String[]::new));
    }
}
