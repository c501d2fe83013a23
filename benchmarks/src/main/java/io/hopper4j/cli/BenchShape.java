package io.hopper4j.cli;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * The sizes of one case by the keys that its operation names, in their order.
 *
 * @param sizes the sizes; unmodifiable
 */
record BenchShape(Map<String, Long> sizes) {
    BenchShape {
        sizes = Collections.unmodifiableMap(new LinkedHashMap<>(sizes));
    }

    static BenchShape of(final String key0, final long size0, final String key1, final long size1) {
        final Map<String, Long> sizes = new LinkedHashMap<>();
        sizes.put(key0, size0);
        sizes.put(key1, size1);
        return new BenchShape(sizes);
    }

    BenchShape with(final String key, final long size) {
        final Map<String, Long> more = new LinkedHashMap<>(sizes);
        more.put(key, size);
        return new BenchShape(more);
    }

    /**
     * {@return a size}
     *
     * @throws IllegalArgumentException if there is none of this key
     */
    long get(final String key) {
        final Long size = sizes.get(key);
        if (size == null) {
            throw new IllegalArgumentException("shape: got " + this + ", need " + key);
        }
        return size;
    }

    /** {@return as shape files have it: {@code m=64 n=2112 k=7168}} */
    @Override
    public String toString() {
        return sizes.entrySet().stream()
                .map(e -> e.getKey() + "=" + e.getValue())
                .collect(Collectors.joining(" "));
    }
}
