package io.hopper4j.cli;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParseException;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.InputStream;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** JSON as maps, lists, strings, numbers ({@link Long}, {@link Double}), booleans and null. Objects keep their order. */
final class Json {
    private static final JsonFactory FACTORY = new JsonFactory();

    private Json() {}

    /**
     * Reads a file.
     *
     * @throws IOException if it cannot be read or is not JSON; the message names the file
     */
    static @Nullable Object read(final Path file) throws IOException {
        try (JsonParser parser = FACTORY.createParser(Files.newBufferedReader(file, StandardCharsets.UTF_8))) {
            return document(parser);
        } catch (final JsonParseException e) {
            throw new IOException(
                    file + ": not JSON: line " + e.getLocation().getLineNr() + ": " + e.getOriginalMessage(), e);
        }
    }

    /** Reads a stream to its end. */
    static @Nullable Object read(final InputStream in) throws IOException {
        try (JsonParser parser = FACTORY.createParser(in)) {
            return document(parser);
        }
    }

    private static @Nullable Object document(final JsonParser parser) throws IOException {
        if (parser.nextToken() == null) {
            throw new JsonParseException(parser, "it is empty");
        }
        final Object value = value(parser);
        if (parser.nextToken() != null) {
            throw new JsonParseException(parser, "something follows the end");
        }
        return value;
    }

    private static @Nullable Object value(final JsonParser parser) throws IOException {
        return switch (parser.currentToken()) {
            case START_OBJECT -> {
                final Map<String, @Nullable Object> object = new LinkedHashMap<>();
                while (parser.nextToken() != JsonToken.END_OBJECT) {
                    final String name = parser.currentName();
                    parser.nextToken();
                    object.put(name, value(parser));
                }
                yield object;
            }
            case START_ARRAY -> {
                final List<@Nullable Object> array = new ArrayList<>();
                while (parser.nextToken() != JsonToken.END_ARRAY) {
                    array.add(value(parser));
                }
                yield array;
            }
            case VALUE_STRING -> parser.getText();
            case VALUE_NUMBER_INT -> parser.getLongValue();
            case VALUE_NUMBER_FLOAT -> parser.getDoubleValue();
            case VALUE_TRUE -> true;
            case VALUE_FALSE -> false;
            case VALUE_NULL -> null;
            default -> throw new JsonParseException(parser, "got " + parser.currentToken());
        };
    }

    /**
     * Writes a file. It appears whole or not at all.
     *
     * @param file where to; replaced
     * @param value what {@link #read(Path)} would answer; numbers that are not finite become null
     */
    static void write(final Path file, final Object value) throws IOException {
        writeText(file, text(value));
    }

    /** Writes a file of text. It appears whole or not at all. */
    static void writeText(final Path file, final String text) throws IOException {
        final Path absolute = file.toAbsolutePath();
        final Path part = absolute.resolveSibling("." + absolute.getFileName() + ".part");
        try {
            Files.writeString(part, text);
            Files.move(part, absolute, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        } finally {
            Files.deleteIfExists(part);
        }
    }

    /** {@return the text of a value, one row or field of the outermost levels a line} */
    static String text(final Object value) throws IOException {
        final StringWriter text = new StringWriter();
        try (JsonGenerator json = FACTORY.createGenerator(text)) {
            json.useDefaultPrettyPrinter();
            write(json, value);
        }
        return text.append('\n').toString();
    }

    private static void write(final JsonGenerator json, final @Nullable Object value) throws IOException {
        switch (value) {
            case null -> json.writeNull();
            case Map<?, ?> object -> {
                json.writeStartObject();
                for (final Map.Entry<?, ?> entry : object.entrySet()) {
                    json.writeFieldName(String.valueOf(entry.getKey()));
                    write(json, entry.getValue());
                }
                json.writeEndObject();
            }
            case List<?> array -> {
                json.writeStartArray();
                for (final Object element : array) {
                    write(json, element);
                }
                json.writeEndArray();
            }
            case String string -> json.writeString(string);
            case Boolean bool -> json.writeBoolean(bool);
            case Double number -> {
                if (Double.isFinite(number)) {
                    json.writeNumber(number);
                } else {
                    json.writeNull();
                }
            }
            case Number number -> json.writeNumber(number.longValue());
            default ->
                throw new IllegalArgumentException("json: got a " + value.getClass() + ", which has no JSON form");
        }
    }
}
