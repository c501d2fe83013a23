package io.hopper4j.contract;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.List;

/** The few driver calls with which another engine would make its context, stream and buffers, without this library. */
@SuppressWarnings("restricted")
final class CudaDriver implements AutoCloseable {
    private static final int NON_BLOCKING = 1;

    private final Arena arena = Arena.ofConfined();
    private final SymbolLookup symbols = SymbolLookup.libraryLookup("libcuda.so.1", arena);
    private final MemorySegment output = arena.allocate(ValueLayout.JAVA_LONG);

    CudaDriver() {
        check("cuInit", 0);
    }

    /** A context that is not the primary one; it becomes current. */
    long createContext(final int device) {
        final MemorySegment ordinal = arena.allocate(ValueLayout.JAVA_INT);
        check("cuDeviceGet", ordinal, device);
        check("cuCtxCreate_v2", output, 0, ordinal.get(ValueLayout.JAVA_INT, 0));
        return output.get(ValueLayout.JAVA_LONG, 0);
    }

    long currentContext() {
        check("cuCtxGetCurrent", output);
        return output.get(ValueLayout.JAVA_LONG, 0);
    }

    void setCurrent(final long context) {
        check("cuCtxSetCurrent", context);
    }

    void destroyContext(final long context) {
        check("cuCtxDestroy_v2", context);
    }

    /** A stream of the current context. */
    long createStream() {
        check("cuStreamCreate", output, NON_BLOCKING);
        return output.get(ValueLayout.JAVA_LONG, 0);
    }

    /** Fails if the stream has been destroyed. */
    void synchronize(final long stream) {
        check("cuStreamSynchronize", stream);
    }

    void destroyStream(final long stream) {
        check("cuStreamDestroy_v2", stream);
    }

    /** Memory of the current context. */
    long allocate(final long bytes) {
        check("cuMemAlloc_v2", output, bytes);
        return output.get(ValueLayout.JAVA_LONG, 0);
    }

    void free(final long address) {
        check("cuMemFree_v2", address);
    }

    void copyToDevice(final long address, final MemorySegment source) {
        check("cuMemcpyHtoD_v2", address, source, source.byteSize());
    }

    void copyToHost(final MemorySegment target, final long address) {
        check("cuMemcpyDtoH_v2", target, address, target.byteSize());
    }

    private void check(final String function, final Object... arguments) {
        final List<MemoryLayout> layouts = new ArrayList<>();
        for (final Object argument : arguments) {
            layouts.add(
                    switch (argument) {
                        case Integer _ -> ValueLayout.JAVA_INT;
                        case Long _ -> ValueLayout.JAVA_LONG;
                        default -> ValueLayout.ADDRESS;
                    });
        }
        final MethodHandle handle = Linker.nativeLinker()
                .downcallHandle(
                        symbols.find(function).orElseThrow(),
                        FunctionDescriptor.of(ValueLayout.JAVA_INT, layouts.toArray(MemoryLayout[]::new)));
        final int result;
        try {
            result = (int) handle.invokeWithArguments(arguments);
        } catch (Throwable t) {
            throw new AssertionError(t);
        }
        if (result != 0) {
            throw new AssertionError(function + " answered " + result);
        }
    }

    @Override
    public void close() {
        arena.close();
    }
}
