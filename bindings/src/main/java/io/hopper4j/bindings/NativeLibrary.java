package io.hopper4j.bindings;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;
import java.util.function.Consumer;

/**
 * Loads the native library that the generated code calls. The generated code asks its own class loader for symbols, so the library must be
 * loaded by a class of the same loader: this one.
 */
public final class NativeLibrary implements AutoCloseable {
    private final Arena arena = Arena.ofConfined();
    private final SymbolLookup symbols;

    private NativeLibrary(final Path library) {
        this.symbols = SymbolLookup.libraryLookup(library, arena);
    }

    /**
     * Opens a library to look at it before it is loaded: what was loaded cannot be unloaded.
     *
     * @param library an absolute path
     * @return the library, which the caller closes
     * @throws IllegalArgumentException if it cannot be opened
     */
    public static NativeLibrary open(final Path library) {
        return new NativeLibrary(library);
    }

    /**
     * Loads a library for the generated code.
     *
     * @param library an absolute path
     * @throws UnsatisfiedLinkError if it cannot be loaded, in the words of the system's loader
     */
    public static void load(final Path library) {
        System.load(library.toString());
    }

    /**
     * {@return the ABI version that the library was built with; -1 if it does not say}
     */
    public int abiVersion() {
        final MethodHandle function = function("h4j_abi_version", FunctionDescriptor.of(ValueLayout.JAVA_INT));
        if (function == null) {
            return -1;
        }
        try {
            return (int) function.invokeExact();
        } catch (Throwable t) {
            throw new AssertionError(t);
        }
    }

    /**
     * {@return the size of a struct in the library; 0 if it does not know it}
     *
     * @param struct name of the struct
     */
    public long structSize(final String struct) {
        final MethodHandle function =
                function("h4j_struct_size", FunctionDescriptor.of(ValueLayout.JAVA_LONG, ValueLayout.ADDRESS));
        if (function == null) {
            return 0;
        }
        try (Arena name = Arena.ofConfined()) {
            return (long) function.invokeExact(name.allocateFrom(struct));
        } catch (Throwable t) {
            throw new AssertionError(t);
        }
    }

    private MethodHandle function(final String name, final FunctionDescriptor descriptor) {
        return symbols.find(name)
                .map(symbol -> Linker.nativeLinker().downcallHandle(symbol, descriptor))
                .orElse(null);
    }

    /**
     * {@return memory that native code allocated, as a segment that an arena owns}
     *
     * @param address the memory
     * @param bytes its size
     * @param owner releases it when closed
     * @param release how
     */
    public static MemorySegment own(
            final MemorySegment address, final long bytes, final Arena owner, final Consumer<MemorySegment> release) {
        return address.reinterpret(bytes, owner, release);
    }

    @Override
    public void close() {
        arena.close();
    }
}
