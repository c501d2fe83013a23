package io.hopper4j.safetensors;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Reads the JSON header of a safetensors file. The format allows only one shape of JSON, so the parser knows that grammar and no other:
 *
 * <pre>{@code
 * header   = "{" [ member { "," member } ] "}"
 * member   = "\"__metadata__\"" ":" "{" [ string ":" string { "," … } ] "}"
 *          | name ":" "{" field "," field "," field "}"            in any order, each once
 * field    = "\"dtype\"" ":" string | "\"shape\"" ":" integers | "\"data_offsets\"" ":" "[" integer "," integer "]"
 * integers = "[" [ integer { "," integer } ] "]"                   0 to 2^63 - 1, no sign, no leading zero, no fraction, no exponent
 * }</pre>
 *
 * Nesting is thereby bounded. Strings must be valid UTF-8 without unescaped control characters and without lone surrogates; a repeated key is an error.
 */
final class HeaderParser {
    private static final String METADATA = "__metadata__";

    /** One tensor as the header describes it, before any check against the file. */
    record Declared(String dtype, List<Long> shape, long begin, long end) {}

    /** The members of the header in their order. */
    record Header(Map<String, Declared> tensors, Map<String, String> metadata) {}

    private final Path file;
    private final byte[] json;
    private final long fileOffset;
    private int at;

    /** Parses {@code json}, which lies at {@code fileOffset} of {@code file}; both serve only the error text. */
    HeaderParser(final Path file, final byte[] json, final long fileOffset) {
        this.file = file;
        this.json = json;
        this.fileOffset = fileOffset;
    }

    Header parse() throws SafeTensorsException {
        if (json.length == 0 || json[0] != '{') {
            throw unexpected("'{' as the first byte of the header");
        }
        final Map<String, Declared> tensors = new LinkedHashMap<>();
        @Nullable Map<String, String> metadata = null;
        at = 1;
        if (!skipped('}')) {
            do {
                final int keyAt = afterSpace();
                final String key = string();
                expect(':');
                if (key.equals(METADATA)) {
                    requireFirst(metadata == null, keyAt, key);
                    metadata = metadata();
                } else {
                    requireFirst(!tensors.containsKey(key), keyAt, key);
                    tensors.put(key, tensor(keyAt, key));
                }
            } while (skipped(','));
            expect('}');
        }
        if (afterSpace() != json.length) {
            throw unexpected("only spaces after the header's last '}'");
        }
        return new Header(tensors, metadata == null ? Map.of() : metadata);
    }

    private Map<String, String> metadata() throws SafeTensorsException {
        final Map<String, String> result = new LinkedHashMap<>();
        expect('{');
        if (skipped('}')) {
            return result;
        }
        do {
            final int keyAt = afterSpace();
            final String key = string();
            requireFirst(!result.containsKey(key), keyAt, key);
            expect(':');
            result.put(key, string());
        } while (skipped(','));
        expect('}');
        return result;
    }

    private Declared tensor(final int nameAt, final String name) throws SafeTensorsException {
        @Nullable String dtype = null;
        @Nullable List<Long> shape = null;
        @Nullable List<Long> offsets = null;
        expect('{');
        if (!skipped('}')) {
            do {
                final int keyAt = afterSpace();
                final String key = string();
                expect(':');
                switch (key) {
                    case "dtype" -> {
                        requireFirst(dtype == null, keyAt, key);
                        dtype = string();
                    }
                    case "shape" -> {
                        requireFirst(shape == null, keyAt, key);
                        shape = integers();
                    }
                    case "data_offsets" -> {
                        requireFirst(offsets == null, keyAt, key);
                        final int valueAt = afterSpace();
                        offsets = integers();
                        if (offsets.size() != 2) {
                            throw error(valueAt, offsets.size() + " data_offsets", "2: begin and end");
                        }
                    }
                    default -> throw error(keyAt, quoted(key), "\"dtype\", \"shape\" or \"data_offsets\"");
                }
            } while (skipped(','));
            expect('}');
        }
        if (dtype == null || shape == null || offsets == null) {
            throw error(nameAt, "tensor " + quoted(name) + " without all its fields", "dtype, shape and data_offsets");
        }
        return new Declared(dtype, shape, offsets.getFirst(), offsets.getLast());
    }

    private List<Long> integers() throws SafeTensorsException {
        final List<Long> result = new ArrayList<>();
        expect('[');
        if (skipped(']')) {
            return result;
        }
        do {
            result.add(integer());
        } while (skipped(','));
        expect(']');
        return List.copyOf(result);
    }

    private long integer() throws SafeTensorsException {
        final int start = afterSpace();
        long value = 0;
        while (at < json.length && json[at] >= '0' && json[at] <= '9') {
            final int digit = json[at] - '0';
            if (value > (Long.MAX_VALUE - digit) / 10) {
                throw error(start, "an integer above 2^63 - 1", "at most 2^63 - 1");
            }
            value = 10 * value + digit;
            at++;
        }
        final boolean leadingZero = at > start + 1 && json[start] == '0';
        final boolean continues = at < json.length && (json[at] == '.' || json[at] == 'e' || json[at] == 'E');
        if (at == start || leadingZero || continues) {
            at = start;
            throw unexpected("an integer of digits only, without a leading zero");
        }
        return value;
    }

    private String string() throws SafeTensorsException {
        expect('"');
        final StringBuilder text = new StringBuilder();
        int plainFrom = at;
        while (true) {
            if (at >= json.length) {
                throw unexpected("'\"' to end the string");
            }
            final byte b = json[at];
            if (b == '"') {
                appendUtf8(text, plainFrom, at);
                at++;
                return text.toString();
            } else if (b == '\\') {
                appendUtf8(text, plainFrom, at);
                at++;
                appendEscaped(text);
                plainFrom = at;
            } else if (b >= 0 && b < 0x20) {
                throw unexpected("no unescaped control character in a string");
            } else {
                at++;
            }
        }
    }

    private void appendUtf8(final StringBuilder text, final int from, final int to) throws SafeTensorsException {
        try {
            text.append(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(json, from, to - from)));
        } catch (final CharacterCodingException e) {
            final SafeTensorsException thrown = error(from, "bytes that are not UTF-8", "UTF-8");
            thrown.initCause(e);
            throw thrown;
        }
    }

    private void appendEscaped(final StringBuilder text) throws SafeTensorsException {
        if (at >= json.length) {
            throw unexpected("an escaped character");
        }
        switch (json[at]) {
            case '"', '\\', '/' -> text.append((char) json[at]);
            case 'b' -> text.append('\b');
            case 'f' -> text.append('\f');
            case 'n' -> text.append('\n');
            case 'r' -> text.append('\r');
            case 't' -> text.append('\t');
            case 'u' -> {
                appendCodePoint(text);
                return;
            }
            default -> throw unexpected("one of \" \\ / b f n r t u after a backslash");
        }
        at++;
    }

    private void appendCodePoint(final StringBuilder text) throws SafeTensorsException {
        final int start = at - 1;
        final char first = codeUnit();
        text.append(first);
        if (Character.isHighSurrogate(first) && at < json.length && json[at] == '\\') {
            at++;
            final char second = codeUnit();
            text.append(second);
            if (Character.isLowSurrogate(second)) {
                return;
            }
        }
        if (Character.isSurrogate(first)) {
            throw error(start, "a lone surrogate", "a pair of surrogates");
        }
    }

    /** Reads {@code uXXXX} at the current place. */
    private char codeUnit() throws SafeTensorsException {
        if (at >= json.length || json[at] != 'u') {
            throw unexpected("'u' and four hexadecimal digits");
        }
        at++;
        int unit = 0;
        for (int i = 0; i < 4; i++) {
            final int digit = at < json.length && json[at] > 0 ? Character.digit(json[at], 16) : -1;
            if (digit < 0) {
                throw unexpected("a hexadecimal digit");
            }
            unit = 16 * unit + digit;
            at++;
        }
        return (char) unit;
    }

    private int afterSpace() {
        while (at < json.length && (json[at] == ' ' || json[at] == '\n' || json[at] == '\r' || json[at] == '\t')) {
            at++;
        }
        return at;
    }

    private boolean skipped(final char wanted) {
        if (afterSpace() < json.length && json[at] == wanted) {
            at++;
            return true;
        }
        return false;
    }

    private void expect(final char wanted) throws SafeTensorsException {
        if (!skipped(wanted)) {
            throw unexpected("'" + wanted + "'");
        }
    }

    private void requireFirst(final boolean first, final int keyAt, final String key) throws SafeTensorsException {
        if (!first) {
            throw error(keyAt, quoted(key) + " a second time", "each key once");
        }
    }

    private SafeTensorsException unexpected(final String allowed) {
        if (at >= json.length) {
            return error(at, "the end of the header", allowed);
        }
        final byte b = json[at];
        return error(at, b > 0x20 && b < 0x7F ? "'" + (char) b + "'" : "byte 0x%02X".formatted(b), allowed);
    }

    private SafeTensorsException error(final int index, final String got, final String allowed) {
        return new SafeTensorsException(file, "byte " + (fileOffset + index), got, allowed);
    }

    /** {@return the text in quotes, shortened and without control characters, fit for an error message} */
    static String quoted(final String text) {
        final String start = text.length() > 80 ? text.substring(0, 80) + "…" : text;
        return '"' + start.replaceAll("\\p{Cntrl}", "?") + '"';
    }
}
