package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Result files: the schema, reading and writing, what is left of an interrupted run, and what is made of them. */
final class BenchResultTest {
    @TempDir
    private Path folder;

    private BenchResult written(final String name, final Map<String, @Nullable Object> document) throws IOException {
        final Path file = folder.resolve(name);
        BenchResult.write(file, document);
        return BenchResult.read(file);
    }

    @Test
    @Tag("build") // the results lie in the source tree
    void committedResultsAreValid() throws IOException {
        final Path results = Path.of("results").toAbsolutePath();
        assertThat(results).isDirectory();
        try (Stream<Path> files = Files.list(results)) {
            for (final Path file :
                    files.filter(f -> f.toString().endsWith(".json")).toList()) {
                final BenchResult result = BenchResult.read(file);
                assertThat(file.getFileName().toString())
                        .isEqualTo(result.text("date") + "-" + BenchCommand.slug(result.text("gpu")) + "-"
                                + result.text("family") + ".json");
                assertThat(result.document().get("complete"))
                        .as(file.toString())
                        .isEqualTo(true);
                assertThat(result.text("commit")).as(file.toString()).doesNotContain("dirty", "unknown");
                assertThat(result.rows()).as(file.toString()).isNotEmpty();
            }
        }
    }

    @Test
    void whatIsWrittenIsRead() throws IOException {
        final BenchResult result =
                written("r.json", Results.document("abc", Results.row(64, 576, 10), Results.row(1, 576, 5)));
        assertThat(result.text("commit")).isEqualTo("abc");
        assertThat(result.yardstick("readGBs")).isEqualTo(1000);
        assertThat(result.yardstick("peerStoreGBs")).isNaN();
        assertThat(result.rows().stream().map(BenchResult.Row::key))
                .containsExactly("fp8_gemm_nt m=64 n=576 k=512", "fp8_gemm_nt m=1 n=576 k=512");
        assertThat(result.rows().getFirst().peers("us"))
                .containsExactly(Map.entry("cublaslt_fp8_per_tensor", 8.0), Map.entry("cublaslt_bf16", 20.0));
    }

    @Test
    void bandwidthsMayNameTheirDevices() throws IOException {
        final Map<String, @Nullable Object> pair = new LinkedHashMap<>();
        pair.put("what", "allToAll");
        pair.put("sms", 24L);
        pair.put("directions", 2L);
        pair.put("gbs", 1.0);
        pair.put("devices", List.of(0L, 1L, 2L, 3L));
        final Map<String, @Nullable Object> yardsticks = Results.yardsticks();
        yardsticks.put("bandwidths", List.of(pair));
        final Map<String, @Nullable Object> document = Results.document("abc", Results.row(1, 8, 1));
        document.put("yardsticks", yardsticks);
        assertThat(written("b.json", document).rows()).hasSize(1);
        pair.put("devices", List.of("0"));
        assertRefused(Json.text(document), "devices");
    }

    @Test
    void otherSchemasAndBrokenFilesAreRefusedInWords() throws IOException {
        final Map<String, @Nullable Object> later = Results.document("abc");
        later.put("schema", 2L);
        assertRefused(Json.text(later), "schema: got 2, need 1");
        assertRefused("{\"rows\": []}", "has no schema");
        assertRefused("[]", "got an array, need object");
        assertRefused("{", "not JSON");
        assertRefused("", "not JSON");
        final Map<String, @Nullable Object> odd = Results.document("abc", Results.row(1, 8, 1));
        odd.put("surprise", 1L);
        assertRefused(Json.text(odd), "has surprise, which the schema does not know");
        final Map<String, @Nullable Object> row = Results.row(1, 8, 1);
        row.put("us", "fast");
        row.put("timer", "stopwatch");
        row.remove("error");
        assertRefused(Json.text(Results.document("abc", row)), "rows[0]: has no error, and 2 more");
    }

    private void assertRefused(final String text, final String message) throws IOException {
        final Path file = folder.resolve("refused.json");
        Files.writeString(file, text);
        assertThatThrownBy(() -> BenchResult.read(file))
                .isInstanceOf(IOException.class)
                .hasMessageContaining(file.toString())
                .hasMessageContaining(message);
    }

    @Test
    void invalidDocumentsAreNotWritten() {
        final Map<String, @Nullable Object> document = Results.document("abc");
        document.remove("gpu");
        final Path file = folder.resolve("w.json");
        assertThatIllegalStateException()
                .isThrownBy(() -> BenchResult.write(file, document))
                .withMessageContaining("has no gpu");
        assertThat(file).doesNotExist();
    }

    @Test
    void schemasWithUnknownKeywordsAreRefused() {
        final Map<String, @Nullable Object> inner = new LinkedHashMap<>(Map.of("maximum", 1L));
        assertThatIllegalArgumentException()
                .isThrownBy(() -> new JsonSchema(Map.of("type", "object", "properties", Map.of("x", inner))))
                .withMessageContaining("maximum");
    }

    @Test
    void anInterruptedRunLeavesAValidFileAndTheOldResult() throws IOException {
        final Path file = folder.resolve("2000-01-01-test-gemm.json");
        BenchResult.write(file, Results.document("old"));
        final BenchFile run = new BenchFile(file, Results.head("new"), Results.yardsticks());
        run.add(Results.row(1, 8, 1));
        run.add(Results.row(2, 8, 1));
        final Path partial = BenchFile.partial(file);
        final BenchResult left = BenchResult.read(partial);
        assertThat(left.document().get("complete")).isEqualTo(false);
        assertThat(left.rows()).hasSize(2);
        assertThat(BenchResult.read(file).text("commit")).isEqualTo("old");
        run.finish();
        assertThat(partial).doesNotExist();
        assertThat(BenchResult.read(file).text("commit")).isEqualTo("new");
        assertThat(BenchResult.read(file).document().get("complete")).isEqualTo(true);
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files).containsExactly(file);
        }
    }

    @Test
    void comparisonIsOldByNew() throws IOException {
        final BenchResult older =
                written("old.json", Results.document("old", Results.row(1, 8, 10), Results.row(2, 8, 10)));
        final BenchResult newer = written(
                "new.json", Results.document("new", Results.row(1, 8, 5), Results.row(2, 8, 11), Results.row(3, 8, 1)));
        final List<String> lines = BenchTable.compare(older, newer);
        assertThat(lines).hasSize(6);
        assertThat(lines.get(3)).contains("fp8_gemm_nt m=1 n=8 k=512", "10.0", "5.00", "2.00");
        assertThat(lines.get(4)).contains("m=2", "0.91");
        assertThat(lines.getLast()).isEqualTo("2 rows in both; median of the absolute change 30.0 %");
        assertThat(BenchTable.compare(older, written("none.json", Results.document("none")))
                        .getLast())
                .isEqualTo("no row is in both");
    }

    @Test
    void csvHasAFieldForEveryName() throws IOException {
        final BenchResult.Row row = written("c.json", Results.document("abc", Results.row(1, 8, 10)))
                .rows()
                .getFirst();
        assertThat(BenchTable.csvLine(row))
                .startsWith("fp8_gemm_nt,m=1 n=8 k=512,test_kernel,cupti,10.0,9.9,")
                .endsWith(
                        ",cublaslt_fp8_per_tensor=8.0 cublaslt_bf16=20.0,\"clock held down by the \"\"power\"\" limit, <so>\"");
        final String plain = BenchTable.csvLine(row).replaceAll("\"(?:[^\"]|\"\")*\"", "x");
        assertThat(plain.split(",", -1)).hasSameSizeAs(BenchTable.csvHeader().split(",", -1));
    }

    @Test
    void readmeTableReplacesWhatIsBetweenTheMarkers() throws IOException {
        final BenchResult result =
                written("m.json", Results.document("abc", Results.row(64, 576, 10), Results.row(1, 8, 7)));
        final String before = "# Title\n" + ReadmeTable.BEGIN + "\nold\n" + ReadmeTable.END + "\nrest\n";
        final String after = ReadmeTable.replace(Path.of("README.md"), before, List.of(result));
        assertThat(after)
                .startsWith("# Title\n" + ReadmeTable.BEGIN + "\n\n**gemm on TEST &lt;card&gt;**, 2 rows.")
                .endsWith(ReadmeTable.END + "\nrest\n")
                .contains("rows: `fp8_gemm_nt` cublaslt_fp8_per_tensor 0.80, cublaslt_bf16 2.00.")
                .contains("| `fp8_gemm_nt` | m=64 n=576 k=512 | 10.0 | 50.0 % | 40.0 | 800 | 8.00 | 20.0 |")
                .doesNotContain("old");
        assertThat(ReadmeTable.replace(Path.of("README.md"), after, List.of(result)))
                .isEqualTo(after);
        for (final String wrong : List.of("", ReadmeTable.END + ReadmeTable.BEGIN, before + before)) {
            assertThatThrownBy(() -> ReadmeTable.replace(Path.of("R.md"), wrong, List.of(result)))
                    .isInstanceOf(IOException.class)
                    .hasMessageContaining("R.md: got no pair of markers");
        }
    }

    @Test
    @Tag("build") // a bundle's runtime does not draw
    void pageIsOneFileWithoutNetworkAndShowsEveryRow() throws IOException {
        final BenchResult result =
                written("p.json", Results.document("abc", Results.row(64, 576, 10), Results.row(1, 576, 5)));
        final String page = HtmlReport.of(List.of(result));
        assertThat(page.replace("http://www.w3.org/2000/svg", ""))
                .doesNotContain("http:", "https:", "<script", "<link", "@import", "url(http");
        assertThat(page)
                .contains(
                        "TEST &lt;card&gt;", "prefers-color-scheme: dark", "fp8_gemm_nt m=64 n=576 k=512", "&lt;so&gt;")
                .doesNotContain("rgb(1,2,3)", "rgb(9,0,1)")
                .doesNotContain("TEST <card>");
        // two groups, the roofline, the clock
        assertThat(page.split("<svg ", -1)).hasSize(1 + 4);
    }
}
