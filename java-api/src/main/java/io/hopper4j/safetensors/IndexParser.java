package io.hopper4j.safetensors;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Reads the JSON of an index: which shard holds which tensor. Everything but {@code weight_map} is looked over and left. */
final class IndexParser extends JsonText {
    private static final int MAX_DEPTH = 32;

    IndexParser(final Path file, final byte[] json) {
        super(file, json, 0);
    }

    /** {@return the shard of each tensor by its name, in the order of the index} */
    Map<String, String> parse() throws SafeTensorsException {
        @Nullable Map<String, String> shards = null;
        expect('{');
        if (!skipped('}')) {
            do {
                final int keyAt = afterSpace();
                final String key = string();
                expect(':');
                if (key.equals("weight_map")) {
                    requireFirst(shards == null, keyAt, key);
                    shards = strings();
                } else {
                    skipValue(0);
                }
            } while (skipped(','));
            expect('}');
        }
        if (afterSpace() != json.length) {
            throw unexpected("only spaces after the last '}'");
        }
        if (shards == null) {
            throw error(0, "no \"weight_map\"", "one: the file of each tensor");
        }
        return shards;
    }

    private Map<String, String> strings() throws SafeTensorsException {
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

    private void skipValue(final int depth) throws SafeTensorsException {
        if (depth > MAX_DEPTH) {
            throw unexpected("values nested at most " + MAX_DEPTH + " deep");
        }
        if (skipped('{')) {
            if (!skipped('}')) {
                do {
                    string();
                    expect(':');
                    skipValue(depth + 1);
                } while (skipped(','));
                expect('}');
            }
        } else if (skipped('[')) {
            if (!skipped(']')) {
                do {
                    skipValue(depth + 1);
                } while (skipped(','));
                expect(']');
            }
        } else if (afterSpace() < json.length && json[at] == '"') {
            string();
        } else {
            skipWord();
        }
    }

    /** A number, {@code true}, {@code false} or {@code null}. */
    private void skipWord() throws SafeTensorsException {
        final int start = at;
        while (at < json.length && (Character.isLetterOrDigit(json[at]) || "+-.".indexOf(json[at]) >= 0)) {
            at++;
        }
        if (at == start) {
            throw unexpected("a value");
        }
    }
}
