package io.hopper4j.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIOException;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.hopper4j.NativeLibraryException;
import java.io.IOException;
import java.io.OutputStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Loading the library where something is in the way: it works, or the exception says what to do. */
final class LoaderProcessTest {
    private static final String RESOURCE = "META-INF/native/linux-x86_64/libhopper4j.so";
    /** A library as far as the loader looks into it. */
    private static final String LIKENESS =
            "int h4j_abi_version(void) { return 1; } long h4j_struct_size(const char* name) { return name ? 1 << 20 : 0; }";

    @TempDir
    private Path folder;

    /** Prints what the loader says, in a process of its own. */
    static final class Program {
        private Program() {}

        public static void main(final String[] args) {
            try {
                System.out.println("loaded " + NativeLoader.load());
            } catch (final NativeLibraryException e) {
                System.out.println(e.getMessage());
            }
        }
    }

    private List<String> command(final String classPath, final String... options) {
        final List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:TieredStopAtLevel=1",
                "-Dhopper4j.cache=" + folder.resolve("cache")));
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", classPath, Program.class.getName()));
        return command;
    }

    private static Process start(final List<String> command) throws IOException {
        return new ProcessBuilder(command).redirectErrorStream(true).start();
    }

    private static String output(final Process process) throws IOException {
        return new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    }

    private String run(final String classPath, final String... options) throws IOException, InterruptedException {
        final Process process = start(command(classPath, options));
        final String out = output(process);
        assertThat(process.waitFor()).as(out).isZero();
        return out;
    }

    /** Runs the program where only it sees the cache mounted so; skips the test where nobody may mount. */
    private String runMounted(final String mount, final String classPath) throws IOException, InterruptedException {
        final String cache = folder.resolve("cache").toString();
        final List<String> reasons = new ArrayList<>();
        for (final List<String> unshare :
                List.of(List.of("unshare", "--mount"), List.of("unshare", "--mount", "--map-root-user"))) {
            final List<String> command = new ArrayList<>(unshare);
            command.addAll(List.of("sh", "-c", mount + " && echo mounted && exec \"$@\"", cache));
            command.addAll(command(classPath, "--enable-native-access=ALL-UNNAMED"));
            final Process process;
            try {
                process = start(command);
            } catch (final IOException e) {
                reasons.add(String.valueOf(e.getMessage()));
                continue;
            }
            final String out = output(process);
            process.waitFor();
            if (out.startsWith("mounted\n")) {
                return out.substring("mounted\n".length());
            }
            reasons.add(out.strip());
        }
        assumeTrue(false, "nothing can be mounted here: " + reasons);
        throw new AssertionError();
    }

    /** The classes of this test's own class path, without any classifier jar. */
    private static String classes() {
        return System.getProperty("java.class.path");
    }

    private Path compile(final String source) throws IOException, InterruptedException {
        final Path library = folder.resolve("likeness.so");
        Files.writeString(folder.resolve("likeness.c"), source);
        final Process compiler;
        try {
            compiler = new ProcessBuilder("cc", "-shared", "-fPIC", "-o", library.toString(), "likeness.c")
                    .directory(folder.toFile())
                    .inheritIO()
                    .start();
        } catch (final IOException e) {
            assumeTrue(false, "there is no C compiler: " + e.getMessage());
            throw e;
        }
        assertThat(compiler.waitFor()).isZero();
        return library;
    }

    private Path jar(final byte[] library) throws IOException {
        final Path jar = folder.resolve("natives.jar");
        try (OutputStream out = Files.newOutputStream(jar);
                JarOutputStream entries = new JarOutputStream(out)) {
            entries.putNextEntry(new ZipEntry(RESOURCE));
            entries.write(library);
        }
        return jar;
    }

    private String withLikeness() throws IOException, InterruptedException {
        return classes() + ":" + jar(Files.readAllBytes(compile(LIKENESS)));
    }

    @Test
    void shouldLoadFromTheClassifierJar() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        assertThat(run(classPath, "--enable-native-access=ALL-UNNAMED"))
                .startsWith("loaded " + folder.resolve("cache"));
        try (Stream<Path> files = Files.walk(folder.resolve("cache"))) {
            assertThat(files.filter(Files::isRegularFile))
                    .as("no temporary file stays")
                    .hasSize(1);
        }
    }

    @Test
    void shouldSayHowToAllowNativeAccess() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        assertThat(run(classPath, "--illegal-native-access=deny"))
                .contains("native access is denied: start java with --enable-native-access=ALL-UNNAMED");
        assertThat(run(classPath, "--illegal-native-access=deny", "--enable-native-access=ALL-UNNAMED"))
                .startsWith("loaded ");
    }

    @Test
    void shouldSayThatALibraryIsOfAnotherArchitecture() throws IOException, InterruptedException {
        final byte[] library = Files.readAllBytes(compile(LIKENESS));
        library[18] = (byte) 183; // e_machine: AArch64
        assertThat(run(classes() + ":" + jar(library), "--enable-native-access=ALL-UNNAMED"))
                .contains("libhopper4j could not be loaded")
                .containsPattern("AARCH64|cannot open shared object file|ELF");
        final Path natives = jar(Files.readAllBytes(compile(LIKENESS)));
        assertThat(run(classes() + ":" + natives, "--enable-native-access=ALL-UNNAMED", "-Dos.arch=aarch64"))
                .contains("built for Linux on amd64, and this is Linux on aarch64");
    }

    @Test
    void shouldSayThatAJarIsCutShort() throws IOException, InterruptedException {
        final Path jar = jar(Files.readAllBytes(compile(LIKENESS)));
        final byte[] whole = Files.readAllBytes(jar);
        Files.write(jar, java.util.Arrays.copyOf(whole, whole.length / 2));
        assertThat(run(classes() + ":" + jar, "--enable-native-access=ALL-UNNAMED"))
                .contains("libhopper4j could not be loaded")
                .contains("no such resource: no classifier jar with the native library");
        // The list of entries is whole, the entry is not.
        final byte[] damaged = whole.clone();
        java.util.Arrays.fill(damaged, 200, 400, (byte) 0x55);
        Files.write(jar, damaged);
        assertThat(run(classes() + ":" + jar, "--enable-native-access=ALL-UNNAMED"))
                .contains("cannot be extracted: java.util.zip.ZipException");
    }

    @Test
    void shouldSayThatTheCacheCannotBeUsed() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        final Path cache = Files.writeString(folder.resolve("cache"), "a file, no folder");
        assertThat(run(classPath, "--enable-native-access=ALL-UNNAMED"))
                .contains("cannot be extracted: ")
                .contains("system property hopper4j.cache names another folder");
        Files.delete(cache);
        // Some file system of the machine that nobody can write to, as a read-only mount.
        assertThat(run(classPath, "--enable-native-access=ALL-UNNAMED", "-Dhopper4j.cache=/proc/hopper4j"))
                .contains("system property hopper4j.cache names another folder");
    }

    @Test
    void shouldSayThatTheCacheMayNotRun() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        Files.createDirectory(folder.resolve("cache"));
        assertThat(runMounted("mount -t tmpfs -o noexec none \"$0\"", classPath))
                .contains("libhopper4j could not be loaded")
                .contains(
                        "; where the file system is mounted noexec, system property hopper4j.cache names a folder of another one");
        // The same mount without noexec: what is refused above is that, and nothing else.
        assertThat(runMounted("mount -t tmpfs none \"$0\"", classPath)).startsWith("loaded ");
    }

    @Test
    void shouldReadACacheThatNobodyCanWriteTo() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        final Path cache = Files.createDirectory(folder.resolve("cache"));
        final String readOnly = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
        assertThat(runMounted(readOnly, classPath))
                .contains("cannot be extracted: ")
                .contains("Read-only file system")
                .contains("system property hopper4j.cache names another folder");
        assertThat(run(classPath, "--enable-native-access=ALL-UNNAMED")).startsWith("loaded " + cache);
        assertThat(runMounted(readOnly, classPath)).startsWith("loaded " + cache);
    }

    /** Twenty processes find an empty cache at the same time. */
    @Test
    void shouldSurviveARaceForTheCache() throws IOException, InterruptedException {
        final String classPath = withLikeness();
        final List<Process> processes = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            processes.add(start(command(classPath, "--enable-native-access=ALL-UNNAMED")));
        }
        for (final Process process : processes) {
            assertThat(output(process)).startsWith("loaded ");
        }
        try (Stream<Path> files = Files.walk(folder.resolve("cache"))) {
            assertThat(files.filter(Files::isRegularFile)).hasSize(1);
        }
    }

    /** Two class loaders, each with classes of its own: the second learns that a library belongs to one class loader. */
    @Test
    void shouldSayThatAnotherClassLoaderHasTheLibrary() throws Exception {
        final String first = compile(LIKENESS).toString();
        final List<URL> urls = new ArrayList<>();
        for (final String element : classes().split(":", -1)) {
            urls.add(Path.of(element).toUri().toURL());
        }
        final String before = System.getProperty("hopper4j.library");
        System.setProperty("hopper4j.library", first);
        try (URLClassLoader one = new URLClassLoader(urls.toArray(URL[]::new), ClassLoader.getPlatformClassLoader());
                URLClassLoader two =
                        new URLClassLoader(urls.toArray(URL[]::new), ClassLoader.getPlatformClassLoader())) {
            assertThat(load(one)).hasToString(first);
            try {
                load(two);
                throw new AssertionError("loaded twice");
            } catch (final InvocationTargetException e) {
                assertThat(e.getCause())
                        .hasMessageContaining(
                                "already loaded in another classloader; put Hopper4J where one class loader serves all who use it");
            }
            // Another version is another file: both live in one process.
            final Path other = Files.copy(Path.of(first), folder.resolve("other.so"));
            System.setProperty("hopper4j.library", other.toString());
            assertThat(load(two)).hasToString(other.toString());
        } finally {
            if (before == null) {
                System.clearProperty("hopper4j.library");
            } else {
                System.setProperty("hopper4j.library", before);
            }
        }
    }

    private static Object load(final ClassLoader loader) throws ReflectiveOperationException {
        return loader.loadClass(NativeLoader.class.getName()).getMethod("load").invoke(null);
    }

    @Test
    void shouldKeepTheCacheToItsOwner() throws IOException {
        final byte[] contents = {1, 2, 3};
        final Path extracted = NativeLoader.extract(contents, folder.resolve("cache"));
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(extracted)))
                .isEqualTo("rw-------");
        final Path parent = extracted.getParent();
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(parent)))
                .isEqualTo("rwx------");
        for (final Path open : List.of(extracted, parent)) {
            final var right = Files.getPosixFilePermissions(open);
            Files.setPosixFilePermissions(open, PosixFilePermissions.fromString("rwxrwxrwx"));
            assertThatIOException()
                    .isThrownBy(() -> NativeLoader.extract(contents, folder.resolve("cache")))
                    .withMessage(open
                            + ": got permissions rwxrwxrwx, need none for others to write: chmod go-w, or remove it");
            Files.setPosixFilePermissions(open, right);
        }
    }

    @Test
    void shouldRemoveWhatADeadProcessLeft() throws IOException {
        final Path cache = folder.resolve("cache");
        final Path extracted = NativeLoader.extract(new byte[] {1}, cache);
        final Path dead = Files.write(extracted.resolveSibling("libhopper4j.so123.part"), new byte[] {1});
        Files.setLastModifiedTime(dead, FileTime.from(Instant.now().minusSeconds(7200)));
        final Path living = Files.write(extracted.resolveSibling("libhopper4j.so456.part"), new byte[] {1});
        Files.delete(extracted);
        NativeLoader.extract(new byte[] {1}, cache);
        assertThat(dead).doesNotExist();
        assertThat(living).exists();
    }
}
