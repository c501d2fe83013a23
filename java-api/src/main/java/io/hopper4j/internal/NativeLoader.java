package io.hopper4j.internal;

import io.hopper4j.NativeLibraryException;
import io.hopper4j.NativeLibraryException.Attempt;
import io.hopper4j.bindings.NativeLibrary;
import io.hopper4j.bindings.h4j_dequantize_args;
import io.hopper4j.bindings.h4j_dequantize_spec;
import io.hopper4j.bindings.h4j_device_info;
import io.hopper4j.bindings.h4j_error;
import io.hopper4j.bindings.h4j_gemm_args;
import io.hopper4j.bindings.h4j_gemm_spec;
import io.hopper4j.bindings.h4j_plan_info;
import io.hopper4j.bindings.h4j_quantize_args;
import io.hopper4j.bindings.h4j_quantize_spec;
import io.hopper4j.bindings.hopper4j_h;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.MemoryLayout;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Finds and loads the native library, once. It is looked for in this order; where the property or the variable is set, nowhere else:
 *
 * <ol>
 *   <li>the file named by the system property {@code hopper4j.library}
 *   <li>the file named by the environment variable {@code HOPPER4J_LIBRARY}
 *   <li>{@code libhopper4j.so} in the folders of {@code java.library.path}
 *   <li>the resource {@code META-INF/native/linux-x86_64/libhopper4j.so} of the classifier jar, extracted to a cache folder named after its
 *       SHA-256
 * </ol>
 *
 * A library is looked at before it is loaded, since a loaded one cannot be unloaded: its ABI version and its structs must be those of the
 * bindings.
 */
public final class NativeLoader {
    /** The system property that names the library. */
    public static final String PROPERTY = "hopper4j.library";

    private static final String VARIABLE = "HOPPER4J_LIBRARY";
    private static final String CACHE_PROPERTY = "hopper4j.cache";
    private static final String FILE = "libhopper4j.so";
    private static final String PART = ".part";
    private static final String RESOURCE = "META-INF/native/linux-x86_64/" + FILE;

    /** The structs of the header by name, as the bindings lay them out; read only once native access is known to be allowed, which the bindings need. */
    private static final class Structs {
        static final Map<String, MemoryLayout> LAYOUTS = Map.of(
                "h4j_error", h4j_error.layout(),
                "h4j_device_info", h4j_device_info.layout(),
                "h4j_plan_info", h4j_plan_info.layout(),
                "h4j_quantize_spec", h4j_quantize_spec.layout(),
                "h4j_quantize_args", h4j_quantize_args.layout(),
                "h4j_dequantize_spec", h4j_dequantize_spec.layout(),
                "h4j_dequantize_args", h4j_dequantize_args.layout(),
                "h4j_gemm_spec", h4j_gemm_spec.layout(),
                "h4j_gemm_args", h4j_gemm_args.layout());
    }

    private static @Nullable Path loaded;

    private NativeLoader() {}

    /**
     * Loads the library unless that has been done.
     *
     * @return the file it was loaded from
     * @throws NativeLibraryException if it cannot be loaded; a later call tries again
     */
    public static synchronized Path load() {
        Path library = loaded;
        if (library == null) {
            library = new Search(System::getProperty, System::getenv).find();
            loaded = library;
        }
        return library;
    }

    /** System properties or environment variables. */
    @FunctionalInterface
    interface Settings {
        @Nullable
        String get(String name);
    }

    /** One search for the library, with what was tried so far. */
    static final class Search {
        private final Settings properties;
        private final Settings environment;
        private final List<Attempt> attempts = new ArrayList<>();

        Search(final Settings properties, final Settings environment) {
            this.properties = properties;
            this.environment = environment;
        }

        Path find() {
            final String named = properties.get(PROPERTY);
            if (named != null) {
                return require(tryFile("system property " + PROPERTY, Path.of(named)));
            }
            attempts.add(new Attempt("system property " + PROPERTY, "-", "not set"));
            final String variable = environment.get(VARIABLE);
            if (variable != null) {
                return require(tryFile("environment variable " + VARIABLE, Path.of(variable)));
            }
            attempts.add(new Attempt("environment variable " + VARIABLE, "-", "not set"));
            final String folders = properties.get("java.library.path");
            for (final String folder : folders == null ? new String[0] : folders.split(File.pathSeparator, -1)) {
                if (!folder.isEmpty()) {
                    final Path found = tryFile("java.library.path", Path.of(folder, FILE));
                    if (found != null) {
                        return found;
                    }
                }
            }
            return require(tryResource());
        }

        private Path require(final @Nullable Path found) {
            if (found == null) {
                throw new NativeLibraryException(attempts);
            }
            return found;
        }

        private @Nullable Path tryFile(final String source, final Path file) {
            final Path library = file.toAbsolutePath();
            final String problem = load(library);
            if (problem == null) {
                return library;
            }
            attempts.add(new Attempt(source, library.toString(), problem));
            return null;
        }

        private @Nullable Path tryResource() {
            final String source = "class path resource";
            try (InputStream resource = resource()) {
                if (resource == null) {
                    attempts.add(new Attempt(
                            source, RESOURCE, "no such resource: no classifier jar with the native library"));
                    return null;
                }
                if (!"amd64".equals(properties.get("os.arch")) || !"Linux".equals(properties.get("os.name"))) {
                    final String here = properties.get("os.name") + " on " + properties.get("os.arch");
                    attempts.add(new Attempt(source, RESOURCE, "built for Linux on amd64, and this is " + here));
                    return null;
                }
                return tryFile(source + " " + RESOURCE, extract(resource.readAllBytes(), cache()));
            } catch (IOException e) {
                attempts.add(new Attempt(
                        source,
                        RESOURCE,
                        "cannot be extracted: " + e + "; system property " + CACHE_PROPERTY + " names another folder"));
                return null;
            }
        }

        private static @Nullable InputStream resource() {
            final ClassLoader loader = NativeLoader.class.getClassLoader();
            return loader == null
                    ? ClassLoader.getSystemResourceAsStream(RESOURCE)
                    : loader.getResourceAsStream(RESOURCE);
        }

        private Path cache() {
            final String named = properties.get(CACHE_PROPERTY);
            if (named != null) {
                return Path.of(named);
            }
            final String xdg = environment.get("XDG_CACHE_HOME");
            if (xdg != null && !xdg.isEmpty()) {
                return Path.of(xdg, "hopper4j");
            }
            return Path.of(String.valueOf(properties.get("user.home")), ".cache", "hopper4j");
        }
    }

    /**
     * Writes a library to {@code cache/<sha256>/libhopper4j.so}, unless a file with these very bytes is there. Several processes may do so at
     * once: the file appears whole or not at all. Nobody but the owner of the process may write there, or the bytes that are loaded could be others.
     */
    static Path extract(final byte[] library, final Path cache) throws IOException {
        final String hash = sha256(library);
        final Path folder = cache.resolve(hash);
        final Path target = folder.resolve(FILE);
        Files.createDirectories(
                folder, PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
        requirePrivate(folder);
        if (Files.exists(target) && sha256(Files.readAllBytes(target)).equals(hash)) {
            requirePrivate(target);
            return target;
        }
        removeParts(folder);
        final Path part = Files.createTempFile(folder, FILE, PART); // readable and writable by the owner alone
        try {
            Files.write(part, library);
            Files.move(part, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        } finally {
            Files.deleteIfExists(part);
        }
        return target;
    }

    private static void requirePrivate(final Path path) throws IOException {
        final Set<PosixFilePermission> permissions = Files.getPosixFilePermissions(path);
        if (permissions.contains(PosixFilePermission.GROUP_WRITE)
                || permissions.contains(PosixFilePermission.OTHERS_WRITE)) {
            throw new IOException(path + ": got permissions " + PosixFilePermissions.toString(permissions)
                    + ", need none for others to write: chmod go-w, or remove it");
        }
        final Object owner = Files.getAttribute(path, "unix:uid");
        final Object user = Files.getAttribute(Path.of("/proc/self"), "unix:uid");
        if (!owner.equals(user) && !owner.equals(0)) {
            throw new IOException(path + ": got the owner " + owner + ", need the user of this process, " + user);
        }
    }

    /** Removes what processes that died while extracting have left; parts of living ones are younger. */
    private static void removeParts(final Path folder) throws IOException {
        final Instant old = Instant.now().minus(1, ChronoUnit.HOURS);
        try (DirectoryStream<Path> parts = Files.newDirectoryStream(folder, "*" + PART)) {
            for (final Path part : parts) {
                try {
                    if (Files.getLastModifiedTime(part).toInstant().isBefore(old)) {
                        Files.deleteIfExists(part);
                    }
                } catch (NoSuchFileException e) {
                    // Its process lives and has just finished.
                }
            }
        }
    }

    private static String sha256(final byte[] bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every Java platform has SHA-256", e);
        }
    }

    /** Loads one file; answers what is wrong with it and what to do, or null once it is loaded. */
    private static @Nullable String load(final Path library) {
        if (!Files.exists(library)) {
            return "no such file";
        }
        try (NativeLibrary candidate = NativeLibrary.open(library)) {
            final String mismatch = mismatch(candidate);
            if (mismatch != null) {
                return mismatch;
            }
        } catch (IllegalArgumentException e) {
            // Says only that it failed. The words of the system's loader come from the next line, which fails alike.
        } catch (IllegalCallerException e) {
            final Module module = NativeLibrary.class.getModule();
            return "native access is denied: start java with --enable-native-access="
                    + (module.isNamed() ? module.getName() : "ALL-UNNAMED");
        }
        try {
            NativeLibrary.load(library);
            return null;
        } catch (UnsatisfiedLinkError e) {
            return e.getMessage() + remedy(String.valueOf(e.getMessage()));
        }
    }

    private static String remedy(final String problem) {
        if (problem.contains("already loaded in another classloader")) {
            return "; put Hopper4J where one class loader serves all who use it";
        }
        if (problem.contains("failed to map segment") || problem.contains("Operation not permitted")) {
            return "; where the file system is mounted noexec, system property " + CACHE_PROPERTY
                    + " names a folder of another one";
        }
        return "";
    }

    private static @Nullable String mismatch(final NativeLibrary candidate) {
        final int version = candidate.abiVersion();
        if (version == -1) {
            return "not a Hopper4J library: it has no h4j_abi_version";
        }
        if (version != hopper4j_h.H4J_ABI_VERSION()) {
            return "ABI version: got " + version + ", need " + hopper4j_h.H4J_ABI_VERSION();
        }
        for (final Map.Entry<String, MemoryLayout> struct : Structs.LAYOUTS.entrySet()) {
            final long size = candidate.structSize(struct.getKey());
            final long need = struct.getValue().byteSize();
            if (size < need) {
                return "struct " + struct.getKey() + ": got " + size + " bytes, need at least " + need;
            }
        }
        return null;
    }
}
