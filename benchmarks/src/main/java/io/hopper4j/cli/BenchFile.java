package io.hopper4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The file of a run. While the run goes on, its rows lie in a file of their own beside it, whole after every row, so that whatever ends the run leaves what
 * was measured; the result's own file appears, or is replaced, when all is done.
 */
final class BenchFile {
    private final Path file;
    private final Map<String, @Nullable Object> head;
    private final Map<String, @Nullable Object> yardsticks;
    private final List<Map<String, @Nullable Object>> rows = new ArrayList<>();

    /**
     * @param file the result's
     * @param head its fields before the yardsticks
     * @param yardsticks its yardsticks
     */
    BenchFile(
            final Path file, final Map<String, @Nullable Object> head, final Map<String, @Nullable Object> yardsticks) {
        this.file = file;
        this.head = head;
        this.yardsticks = yardsticks;
    }

    /** {@return where the rows of an unfinished run lie} */
    static Path partial(final Path file) {
        final String name = String.valueOf(file.getFileName());
        return file.resolveSibling(name.replaceFirst("\\.json$", "") + ".partial.json");
    }

    /** Adds a row and writes the unfinished result. */
    void add(final Map<String, @Nullable Object> row) throws IOException {
        rows.add(row);
        BenchResult.write(partial(file), document(false));
    }

    /** Writes the finished result. */
    void finish() throws IOException {
        BenchResult.write(partial(file), document(true));
        Files.move(partial(file), file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    private Map<String, @Nullable Object> document(final boolean complete) {
        final Map<String, @Nullable Object> document = new LinkedHashMap<>(head);
        document.put("complete", complete);
        document.put("yardsticks", yardsticks);
        document.put("rows", rows);
        return document;
    }
}
