package io.hopper4j.cli;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_DOUBLE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;

/** {@code libhopper4j_bench}: timers, yardsticks, peers and probes, by hand as its header native/bench/hopper4j_bench.h has them. */
@SuppressWarnings("restricted") // a library is loaded and called, which is what this class is for
public final class NativeBench {
    private static final int VERSION = 1;
    private static final long TEXT = 512;

    /** Bytes that {@link Session#flush} can write. */
    static final long MAX_WRITE = 1L << 30;

    /** Bytes that {@link Session#flush} can read. */
    static final long MAX_READ = 256L << 20;

    private final SymbolLookup symbols;
    private final MethodHandle flush;
    private final MethodHandle copy;
    private final MethodHandle readAll;
    private final MethodHandle matmulRun;
    private final MethodHandle hostRun;
    private final MethodHandle hostSynchronize;

    private NativeBench(final Path file) {
        this.symbols = SymbolLookup.libraryLookup(file, Arena.global());
        final int version = (int) invoke(bind("h4j_bench_version", FunctionDescriptor.of(JAVA_INT)));
        if (version != VERSION) {
            throw new IllegalStateException(file + ": version: got " + version + ", need " + VERSION);
        }
        this.flush = function("h4j_bench_flush", ADDRESS, JAVA_LONG, JAVA_LONG, JAVA_LONG, ADDRESS);
        this.copy = function("h4j_bench_copy", ADDRESS, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, ADDRESS);
        this.readAll = function("h4j_bench_read_all", ADDRESS, JAVA_LONG, JAVA_LONG, JAVA_LONG, ADDRESS);
        this.matmulRun = function("h4j_bench_matmul_run", ADDRESS, JAVA_LONG, ADDRESS);
        this.hostRun = function("h4j_bench_host_run", ADDRESS, JAVA_INT, JAVA_LONG, ADDRESS);
        this.hostSynchronize = function("h4j_bench_host_synchronize", ADDRESS, ADDRESS);
    }

    /**
     * Opens the library that lies beside libhopper4j.
     *
     * @param library the file that libhopper4j was loaded from
     * @return the open library
     * @throws IllegalStateException if it is not there or of another version
     */
    public static NativeBench beside(final Path library) {
        final Path file = library.resolveSibling("libhopper4j_bench.so");
        if (!Files.exists(file)) {
            throw new IllegalStateException(file + ": no such file; it is built with the native library");
        }
        return new NativeBench(file);
    }

    /** What the library answers when something did not work, in its words. */
    static final class Failure extends RuntimeException {
        private static final long serialVersionUID = 1;

        Failure(final String message) {
            super(message);
        }
    }

    /** How long kernels took; element i belongs to repetition i. */
    @SuppressWarnings("ArrayRecordComponent") // never compared
    record Trace(double[] spans, double[] sums, int[] kernels) {}

    /** What the card did; zeros and {@code samples} 0 where nothing was seen. */
    record Sample(
            int samples,
            int smClockMHz,
            int smClockMinMHz,
            int watts,
            int wattsMax,
            int celsius,
            int otherProcesses,
            long throttleReasons,
            int wattsLimit) {}

    /** Kinds of bandwidth, by the header's numbers. */
    enum Bandwidth {
        READ(0, "read"),
        COPY(1, "copy"),
        PEER_STORE(2, "peerStore"),
        PEER_LOAD(3, "peerLoad");

        private final int number;
        private final String text;

        Bandwidth(final int number, final String text) {
            this.number = number;
            this.text = text;
        }

        @Override
        public String toString() {
            return text;
        }
    }

    /** Kinds of product, by the header's numbers. */
    enum Matmul {
        FP8_PER_TENSOR(0),
        FP8_BLOCK(1),
        BF16(2);

        private final int number;

        Matmul(final int number) {
            this.number = number;
        }
    }

    /** Host-side calls, by the header's numbers. */
    public enum HostCall {
        /** A call that does nothing. */
        DOWNCALL(0),
        /** Plan and close. */
        PLAN(1),
        /** Bind and close. */
        BIND(2),
        /** Rebind. */
        REBIND(3),
        /** Launch. */
        LAUNCH(4),
        /** Plan, bind and launch in one call. */
        EAGER(5),
        /** Launch with no rows in use: the whole way but the driver's launch. */
        NO_ROWS(6);

        private final int number;

        HostCall(final int number) {
            this.number = number;
        }
    }

    private MethodHandle bind(final String name, final FunctionDescriptor descriptor) {
        return Linker.nativeLinker()
                .downcallHandle(
                        symbols.find(name)
                                .orElseThrow(() -> new IllegalStateException("libhopper4j_bench.so has no " + name)),
                        descriptor);
    }

    private MethodHandle function(final String name, final MemoryLayout... arguments) {
        return bind(name, FunctionDescriptor.of(JAVA_INT, arguments));
    }

    private static Object invoke(final MethodHandle handle, final Object... arguments) {
        try {
            return handle.invokeWithArguments(arguments);
        } catch (final RuntimeException | Error e) {
            throw e;
        } catch (final Throwable e) {
            throw new AssertionError("a downcall throws nothing checked", e);
        }
    }

    /** Calls a function whose last argument is room for the reason. */
    private static void call(final Arena arena, final MethodHandle handle, final Object... arguments) {
        final MemorySegment why = arena.allocate(TEXT);
        final Object[] all = new Object[arguments.length + 1];
        System.arraycopy(arguments, 0, all, 0, arguments.length);
        all[arguments.length] = why;
        if ((int) invoke(handle, all) != 0) {
            throw new Failure(why.getString(0));
        }
    }

    /** {@return cuBLASLt's version, {@code 13.0.2}; empty where it does not open} */
    Optional<String> cublasLtVersion() {
        final long version = (long) invoke(bind("h4j_bench_matmul_version", FunctionDescriptor.of(JAVA_LONG)));
        return version == 0
                ? Optional.empty()
                : Optional.of(version / 10000 + "." + version / 100 % 100 + "." + version % 100);
    }

    /**
     * Opens a place where the streams of ranks meet.
     *
     * @param ordinals the device of each rank
     */
    Meeting openMeeting(final int... ordinals) {
        return new Meeting(ordinals);
    }

    /** Streams of several ranks go on from here together. */
    final class Meeting implements AutoCloseable {
        private final Arena arena = Arena.ofShared();
        private final MemorySegment why = arena.allocate(TEXT);
        private final MethodHandle meet = function("h4j_bench_meet", ADDRESS, JAVA_INT, JAVA_LONG, ADDRESS);
        private final MemorySegment handle;

        private Meeting(final int... ordinals) {
            try {
                final MemorySegment out = arena.allocate(ADDRESS);
                call(
                        arena,
                        function("h4j_bench_meeting_open", ADDRESS, JAVA_INT, ADDRESS, ADDRESS),
                        arena.allocateFrom(JAVA_INT, ordinals),
                        ordinals.length,
                        out);
                this.handle = out.get(ADDRESS, 0);
            } catch (final RuntimeException e) {
                arena.close();
                throw e;
            }
        }

        /** What is given to a rank's stream after this begins when every rank has come as often. */
        void meet(final int rank, final long stream) {
            if ((int) invoke(meet, handle, rank, stream, why) != 0) {
                throw new Failure(why.getString(0));
            }
        }

        @Override
        public void close() {
            invoke(bind("h4j_bench_meeting_close", FunctionDescriptor.ofVoid(ADDRESS)), handle);
            arena.close();
        }
    }

    /**
     * {@return GB/s that leave a device when all of them store to all others at once}
     *
     * @param sms of each device
     */
    double allToAll(final int[] ordinals, final int sms, final int repetitions) {
        try (Arena arena = Arena.ofConfined()) {
            final MemorySegment gbs = arena.allocate(JAVA_DOUBLE);
            call(
                    arena,
                    function("h4j_bench_all_to_all", ADDRESS, JAVA_INT, JAVA_INT, JAVA_INT, ADDRESS, ADDRESS),
                    arena.allocateFrom(JAVA_INT, ordinals),
                    ordinals.length,
                    sms,
                    repetitions,
                    gbs);
            return gbs.get(JAVA_DOUBLE, 0);
        }
    }

    /** Opens a device. */
    Session open(final int ordinal) {
        return new Session(ordinal);
    }

    /** A device with flush buffers. */
    final class Session implements AutoCloseable {
        private final Arena arena = Arena.ofShared();
        private final MemorySegment why = arena.allocate(TEXT);
        private final MemorySegment handle;

        private Session(final int ordinal) {
            try {
                this.handle = opened("h4j_bench_open", ordinal);
            } catch (final RuntimeException e) {
                arena.close();
                throw e;
            }
        }

        private MemorySegment opened(final String name, final int ordinal) {
            final MemorySegment out = arena.allocate(ADDRESS);
            call(arena, function(name, JAVA_INT, ADDRESS, ADDRESS), ordinal, out);
            return out.get(ADDRESS, 0);
        }

        /** Empties the L2, on a stream. */
        void flush(final long stream, final long writeBytes, final long readBytes) {
            check((int) invoke(flush, handle, stream, writeBytes, readBytes, why));
        }

        /** Copies device memory with all SMs, on a stream. */
        void copy(final long stream, final long to, final long from, final long bytes) {
            check((int) invoke(copy, handle, stream, to, from, bytes, why));
        }

        /** Reads a multiple of 16 bytes by a plain kernel on all SMs. */
        void readAll(final long stream, final long from, final long bytes) {
            check((int) invoke(readAll, handle, stream, from, bytes, why));
        }

        private void check(final int status) {
            if (status != 0) {
                throw new Failure(why.getString(0));
            }
        }

        /** {@return why kernel times cannot be collected; empty if they can} */
        Optional<String> traceProblem() {
            try {
                call(arena, function("h4j_bench_trace_available", ADDRESS, ADDRESS), handle);
                return Optional.empty();
            } catch (final Failure e) {
                return Optional.of(String.valueOf(e.getMessage()));
            }
        }

        /** Records kernels from now on. */
        void beginTrace() {
            call(arena, function("h4j_bench_trace_begin", ADDRESS, ADDRESS), handle);
        }

        /** Waits for the device and answers what was recorded: at most {@code capacity} repetitions, each opened by a flush. */
        Trace endTrace(final int capacity) {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment spans = local.allocate(JAVA_DOUBLE, capacity);
                final MemorySegment sums = local.allocate(JAVA_DOUBLE, capacity);
                final MemorySegment kernels = local.allocate(JAVA_INT, capacity);
                final MemorySegment count = local.allocate(JAVA_INT);
                call(
                        local,
                        function("h4j_bench_trace_end", ADDRESS, JAVA_INT, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS),
                        handle,
                        capacity,
                        spans,
                        sums,
                        kernels,
                        count);
                final int repetitions = count.get(JAVA_INT, 0);
                if (repetitions > capacity) {
                    throw new Failure("trace: got " + repetitions + " repetitions, need at most " + capacity);
                }
                return new Trace(
                        spans.asSlice(0, repetitions * JAVA_DOUBLE.byteSize()).toArray(JAVA_DOUBLE),
                        sums.asSlice(0, repetitions * JAVA_DOUBLE.byteSize()).toArray(JAVA_DOUBLE),
                        kernels.asSlice(0, repetitions * JAVA_INT.byteSize()).toArray(JAVA_INT));
            }
        }

        /** {@return GB/s as the header counts them} */
        double bandwidth(
                final Bandwidth kind, final int sms, final int directions, final int peer, final int repetitions) {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment gbs = local.allocate(JAVA_DOUBLE);
                call(
                        local,
                        function(
                                "h4j_bench_bandwidth",
                                ADDRESS,
                                JAVA_INT,
                                JAVA_INT,
                                JAVA_INT,
                                JAVA_INT,
                                JAVA_INT,
                                ADDRESS,
                                ADDRESS),
                        handle,
                        kind.number,
                        sms,
                        directions,
                        peer,
                        repetitions,
                        gbs);
                return gbs.get(JAVA_DOUBLE, 0);
            }
        }

        /** {@return microseconds of an empty kernel between two events} */
        double emptyKernelMicroseconds() {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment us = local.allocate(JAVA_DOUBLE);
                call(local, function("h4j_bench_empty_kernel", ADDRESS, ADDRESS, ADDRESS), handle, us);
                return us.get(JAVA_DOUBLE, 0);
            }
        }

        /**
         * Opens a product of cuBLASLt.
         *
         * @throws Failure if there is none for it
         */
        Product open(
                final Matmul kind,
                final long m,
                final long n,
                final long k,
                final long a,
                final long aScales,
                final long b,
                final long bScales,
                final long d) {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment out = local.allocate(ADDRESS);
                call(
                        local,
                        function(
                                "h4j_bench_matmul_open",
                                ADDRESS,
                                JAVA_INT,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                ADDRESS,
                                ADDRESS),
                        handle,
                        kind.number,
                        m,
                        n,
                        k,
                        a,
                        aScales,
                        b,
                        bScales,
                        d,
                        out);
                return new Product(out.get(ADDRESS, 0));
            }
        }

        /** A product of cuBLASLt, bound to its operands. */
        final class Product implements AutoCloseable {
            private final MemorySegment product;

            private Product(final MemorySegment product) {
                this.product = product;
            }

            void run(final long stream) {
                check((int) invoke(matmulRun, product, stream, why));
            }

            @Override
            public void close() {
                invoke(bind("h4j_bench_matmul_close", FunctionDescriptor.ofVoid(ADDRESS)), product);
            }
        }

        /**
         * Samples clock and power from now on.
         *
         * @throws Failure where there is no NVML
         */
        void startMonitor() {
            call(arena, function("h4j_bench_monitor_start", ADDRESS, ADDRESS), handle);
        }

        /** {@return what was sampled since the start} */
        Sample stopMonitor() {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment sample = local.allocate(48, 8);
                call(local, function("h4j_bench_monitor_stop", ADDRESS, ADDRESS, ADDRESS), handle, sample);
                final ValueLayout.OfInt i = JAVA_INT;
                return new Sample(
                        sample.get(i, 0),
                        sample.get(i, 4),
                        sample.get(i, 8),
                        sample.get(i, 16),
                        sample.get(i, 20),
                        sample.get(i, 24),
                        sample.get(i, 28),
                        sample.get(JAVA_LONG, 32),
                        sample.get(i, 40));
            }
        }

        /** {@return the driver's release; empty where NVML does not tell} */
        Optional<String> driverRelease() {
            try (Arena local = Arena.ofConfined()) {
                final MemorySegment text = local.allocate(TEXT);
                call(local, function("h4j_bench_driver_release", ADDRESS, ADDRESS, ADDRESS), handle, text);
                return Optional.of(text.getString(0));
            } catch (final Failure e) {
                return Optional.empty();
            }
        }

        @Override
        public void close() {
            invoke(bind("h4j_bench_close", FunctionDescriptor.ofVoid(ADDRESS)), handle);
            arena.close();
        }
    }

    /**
     * Opens the host-side loops over one small product.
     *
     * @param library the file that libhopper4j was loaded from
     * @param ordinal the device's
     * @param m rows of A and D
     * @param n rows of B, columns of D
     * @param k columns of A and B
     * @return the loops, which the caller closes
     */
    public Host openHost(final Path library, final int ordinal, final long m, final long n, final long k) {
        return new Host(library, ordinal, m, n, k);
    }

    /** Loops in C over the calls that Java makes, for comparison. */
    public final class Host implements AutoCloseable {
        private final Arena arena = Arena.ofShared();
        private final MemorySegment why = arena.allocate(TEXT);
        private final MemorySegment handle;

        private Host(final Path library, final int ordinal, final long m, final long n, final long k) {
            try {
                final MemorySegment out = arena.allocate(ADDRESS);
                call(
                        arena,
                        function(
                                "h4j_bench_host_open",
                                ADDRESS,
                                JAVA_INT,
                                JAVA_LONG,
                                JAVA_LONG,
                                JAVA_LONG,
                                ADDRESS,
                                ADDRESS),
                        arena.allocateFrom(library.toString()),
                        ordinal,
                        m,
                        n,
                        k,
                        out);
                this.handle = out.get(ADDRESS, 0);
            } catch (final RuntimeException e) {
                arena.close();
                throw e;
            }
        }

        /**
         * Runs a call in a loop.
         *
         * @param what the call
         * @param count how many times
         */
        public void run(final HostCall what, final long count) {
            check((int) invoke(hostRun, handle, what.number, count, why));
        }

        /** Waits for the launched work. */
        public void synchronize() {
            check((int) invoke(hostSynchronize, handle, why));
        }

        private void check(final int status) {
            if (status != 0) {
                throw new Failure(why.getString(0));
            }
        }

        @Override
        public void close() {
            invoke(bind("h4j_bench_host_close", FunctionDescriptor.ofVoid(ADDRESS)), handle);
            arena.close();
        }
    }
}
