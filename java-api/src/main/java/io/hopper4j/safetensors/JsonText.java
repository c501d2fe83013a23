package io.hopper4j.safetensors;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;

/** JSON text that is read from its start to its end, with the errors of what is malformed in it. Strings must be valid UTF-8. */
abstract class JsonText {
    private final Path file;
    private final long fileOffset;
    /** The text. */
    final byte[] json;
    /** Where the text goes on. */
    int at;

    /** Reads {@code json}, which lies at {@code fileOffset} of {@code file}; both serve only the error text. */
    JsonText(final Path file, final byte[] json, final long fileOffset) {
        this.file = file;
        this.json = json;
        this.fileOffset = fileOffset;
    }

    /** Reads a string. */
    final String string() throws SafeTensorsException {
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

    /** {@return where the text goes on behind spaces, which are skipped} */
    final int afterSpace() {
        while (at < json.length && (json[at] == ' ' || json[at] == '\n' || json[at] == '\r' || json[at] == '\t')) {
            at++;
        }
        return at;
    }

    /** {@return whether a character comes next behind spaces; it is skipped with them} */
    final boolean skipped(final char wanted) {
        if (afterSpace() < json.length && json[at] == wanted) {
            at++;
            return true;
        }
        return false;
    }

    final void expect(final char wanted) throws SafeTensorsException {
        if (!skipped(wanted)) {
            throw unexpected("'" + wanted + "'");
        }
    }

    final void requireFirst(final boolean first, final int keyAt, final String key) throws SafeTensorsException {
        if (!first) {
            throw error(keyAt, quoted(key) + " a second time", "each key once");
        }
    }

    /** {@return the error that something else comes next} */
    final SafeTensorsException unexpected(final String allowed) {
        if (at >= json.length) {
            return error(at, "the end of the header", allowed);
        }
        final byte b = json[at];
        return error(at, b > 0x20 && b < 0x7F ? "'" + (char) b + "'" : "byte 0x%02X".formatted(b), allowed);
    }

    final SafeTensorsException error(final int index, final String got, final String allowed) {
        return new SafeTensorsException(file, "byte " + (fileOffset + index), got, allowed);
    }

    /** {@return the text in quotes, shortened and without control characters, fit for an error message} */
    static String quoted(final String text) {
        final String start = text.length() > 80 ? text.substring(0, 80) + "…" : text;
        return '"' + start.replaceAll("\\p{Cntrl}", "?") + '"';
    }
}
