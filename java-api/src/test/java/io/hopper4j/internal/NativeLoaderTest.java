package io.hopper4j.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.NativeLibraryException;
import io.hopper4j.NativeLibraryException.Attempt;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where the library is looked for, and what is said of each place. */
final class NativeLoaderTest {
    @TempDir
    private Path folder;

    private static List<Attempt> attempts(final Map<String, String> properties, final Map<String, String> environment) {
        final NativeLoader.Search search = new NativeLoader.Search(properties::get, environment::get);
        try {
            search.find();
        } catch (NativeLibraryException e) {
            assertThat(e).hasMessageStartingWith("libhopper4j could not be loaded:\n  ");
            for (final Attempt attempt : e.attempts()) {
                assertThat(e)
                        .hasMessageContaining(attempt.source() + ": " + attempt.place() + ": " + attempt.outcome());
            }
            return e.attempts();
        }
        throw new AssertionError("the library was loaded");
    }

    private List<Attempt> attemptsOf(final Path library) {
        return attempts(Map.of("hopper4j.library", library.toString()), Map.of());
    }

    @Test
    void shouldSayThatAFileIsMissing() {
        final Path missing = folder.resolve("libhopper4j.so");
        assertThat(attemptsOf(missing))
                .containsExactly(new Attempt("system property hopper4j.library", missing.toString(), "no such file"));
    }

    @Test
    void shouldQuoteTheLoaderOnAFileThatIsNoLibrary() throws IOException {
        final Path text = Files.writeString(folder.resolve("text.so"), "not an ELF file\n".repeat(1000));
        assertThat(attemptsOf(text))
                .singleElement()
                .satisfies(attempt -> assertThat(attempt.outcome())
                        .contains(text.toString())
                        .containsIgnoringCase("invalid ELF header"));
    }

    @Test
    void shouldNameTheAbiVersionItNeeds() throws IOException, InterruptedException {
        final Path other = compile("int h4j_abi_version(void) { return 99; }");
        assertThat(attemptsOf(other))
                .containsExactly(new Attempt(
                        "system property hopper4j.library", other.toString(), "ABI version: got 99, need 1"));
    }

    @Test
    void shouldNameAStructOfAnotherSize() throws IOException, InterruptedException {
        final Path other = compile(
                "int h4j_abi_version(void) { return 1; } long h4j_struct_size(const char* name) { return name ? 4 : 0; }");
        assertThat(attemptsOf(other))
                .singleElement()
                .satisfies(attempt ->
                        assertThat(attempt.outcome()).matches("struct h4j_\\w+: got 4 bytes, need at least \\d+"));
    }

    @Test
    void shouldRefuseOtherLibraries() throws IOException, InterruptedException {
        final Path other = compile("int something_else(void) { return 0; }");
        assertThat(attemptsOf(other))
                .containsExactly(new Attempt(
                        "system property hopper4j.library",
                        other.toString(),
                        "not a Hopper4J library: it has no h4j_abi_version"));
    }

    @Test
    void shouldLookNowhereElseWhenTheVariableNamesAFile() {
        final Path missing = folder.resolve("named.so");
        assertThat(attempts(
                        Map.of("java.library.path", folder.toString()), Map.of("HOPPER4J_LIBRARY", missing.toString())))
                .containsExactly(
                        new Attempt("system property hopper4j.library", "-", "not set"),
                        new Attempt("environment variable HOPPER4J_LIBRARY", missing.toString(), "no such file"));
    }

    @Test
    void shouldListEveryPlaceInOrder() {
        assumeTrue(
                NativeLoader.class.getResource("/META-INF/native/linux-x86_64/libhopper4j.so") == null,
                "the classifier jar is on the class path");
        final Path first = folder.resolve("a");
        final Path second = folder.resolve("b");
        assertThat(attempts(Map.of("java.library.path", first + ":" + second), Map.of()))
                .containsExactly(
                        new Attempt("system property hopper4j.library", "-", "not set"),
                        new Attempt("environment variable HOPPER4J_LIBRARY", "-", "not set"),
                        new Attempt(
                                "java.library.path",
                                first.resolve("libhopper4j.so").toString(),
                                "no such file"),
                        new Attempt(
                                "java.library.path",
                                second.resolve("libhopper4j.so").toString(),
                                "no such file"),
                        new Attempt(
                                "class path resource",
                                "META-INF/native/linux-x86_64/libhopper4j.so",
                                "no such resource: no classifier jar with the native library"));
    }

    @Test
    void shouldLoadTheBuiltLibraryAfterAFailure() {
        final String built = System.getProperty("hopper4j.library");
        assumeTrue(built != null, "the native library has not been built");
        attemptsOf(folder.resolve("missing.so"));
        assertThat(new NativeLoader.Search(Map.of("hopper4j.library", built)::get, Map.<String, String>of()::get)
                        .find())
                .isEqualTo(Path.of(built).toAbsolutePath());
    }

    @Test
    void shouldExtractOnceIntoAFolderNamedByContents() throws IOException {
        final byte[] contents = {1, 2, 3};
        final Path cache = folder.resolve("cache");
        final Path extracted = NativeLoader.extract(contents, cache);
        assertThat(extracted)
                .isEqualTo(cache.resolve(
                        "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81/libhopper4j.so"))
                .hasBinaryContent(contents);
        final Object firstFile = Files.readAttributes(extracted, "unix:ino").get("ino");
        assertThat(NativeLoader.extract(contents, cache)).isEqualTo(extracted);
        assertThat(Files.readAttributes(extracted, "unix:ino").get("ino"))
                .as("not written again")
                .isEqualTo(firstFile);

        Files.write(extracted, new byte[] {9});
        assertThat(NativeLoader.extract(contents, cache))
                .as("a damaged file is replaced")
                .hasBinaryContent(contents);
        assertThat(NativeLoader.extract(new byte[] {4}, cache)).isNotEqualTo(extracted);
        try (Stream<Path> files = Files.list(extracted.getParent())) {
            assertThat(files).as("no parts are left behind").containsExactly(extracted);
        }
    }

    @Test
    void shouldSayWhyACacheCannotBeWritten() throws IOException {
        final Path file = Files.writeString(folder.resolve("file"), "a file, no folder");
        assertThatExceptionOfType(IOException.class).isThrownBy(() -> NativeLoader.extract(new byte[] {1}, file));
    }

    private Path compile(final String source) throws IOException, InterruptedException {
        final Path library = folder.resolve("other.so");
        Files.writeString(folder.resolve("other.c"), source);
        final Process compiler;
        try {
            compiler = new ProcessBuilder("cc", "-shared", "-fPIC", "-o", library.toString(), "other.c")
                    .directory(folder.toFile())
                    .inheritIO()
                    .start();
        } catch (IOException e) {
            assumeTrue(false, "there is no C compiler: " + e.getMessage());
            throw e;
        }
        assertThat(compiler.waitFor()).as("exit code of the C compiler").isZero();
        return library;
    }
}
