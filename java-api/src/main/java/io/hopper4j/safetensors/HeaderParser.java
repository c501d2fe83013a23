package io.hopper4j.safetensors;

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
final class HeaderParser extends JsonText {
    private static final String METADATA = "__metadata__";

    /** One tensor as the header describes it, before any check against the file. */
    record Declared(String dtype, List<Long> shape, long begin, long end) {}

    /** The members of the header in their order. */
    record Header(Map<String, Declared> tensors, Map<String, String> metadata) {}

    /** Parses {@code json}, which lies at {@code fileOffset} of {@code file}; both serve only the error text. */
    HeaderParser(final Path file, final byte[] json, final long fileOffset) {
        super(file, json, fileOffset);
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
}
