package io.hopper4j.cli;

import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/** An operation that the bench times. One entry in {@link BenchOperations} makes it part of every command. */
interface BenchOperation {
    /** {@return its name in results} */
    String name();

    /** {@return the family whose file its rows join} */
    String family();

    /** {@return the keys of its shapes, in order} */
    List<String> keys();

    /** {@return the cases of a list; empty if the list has none of this operation} */
    List<BenchShape> cases(CaseList list);

    /** {@return whether a case of a list is for a run on so many GPUs} */
    default boolean isFor(final BenchShape shape, final int gpus) {
        return true;
    }

    /** {@return what a case must move and compute} */
    Work work(BenchShape shape);

    /**
     * Makes operands and binds a launch.
     *
     * @param gpu where
     * @param shape the case
     * @param seed of the operands
     */
    Prepared prepare(BenchGpu gpu, BenchShape shape, long seed);

    /** {@return why a case cannot run on as many GPUs as there are; empty if it can} */
    default Optional<String> obstacle(final BenchGpu gpu, final BenchShape shape) {
        return Optional.empty();
    }

    /**
     * {@return whether the peers of this operation are published by CUDA events after a flush of 512 MB, not by their kernels' own times after one of 1 GB}
     * An operation of several kernels that overlap has to be: a kernel that waits for the one ahead counts its waiting as its own time.
     */
    default boolean peersUseEvents() {
        return false;
    }

    /** The two figures of a row. */
    enum Method {
        /** This project's. */
        OURS,
        /** As peers publish theirs. */
        PEERS
    }

    /** Named case lists. */
    enum CaseList {
        /** The layers of DeepSeek-V3 with 1, 64, 128 and 4096 rows. */
        DEEPSEEK_V3("deepseek-v3"),
        /** The public lists that peers are measured on. */
        PEERS("peers");

        private final String text;

        CaseList(final String text) {
            this.text = text;
        }

        @Override
        public String toString() {
            return text;
        }
    }

    /**
     * The least that a case costs on any hardware.
     *
     * @param bytes that must cross the memory's interface, each operand once
     * @param flops operations of the tensor cores, 0: none
     * @param isBf16 whether those are of BF16 numbers, at half the rate of FP8
     * @param traffic between the ranks of a group; null: there is none
     */
    record Work(
            double bytes,
            double flops,
            boolean isBf16,
            @Nullable Traffic traffic) {
        /** Work of one GPU. */
        Work(final double bytes, final double flops, final boolean isBf16) {
            this(bytes, flops, isBf16, null);
        }

        /** Work on FP8 numbers, or none of the tensor cores. */
        Work(final double bytes, final double flops) {
            this(bytes, flops, false);
        }

        static Work bf16(final double bytes, final double flops) {
            return new Work(bytes, flops, true);
        }

        /**
         * {@return the microseconds below which a card of these yardsticks cannot go; NaN where they are not known}
         *
         * @param gbs bytes a second, in 10^9
         * @param tflops operations a second, in 10^12
         */
        double floorMicroseconds(final double gbs, final double tflops) {
            final double moving = bytes / gbs / 1e3;
            return flops == 0 ? moving : Math.max(moving, flops / tflops / 1e6);
        }
    }

    /**
     * Bytes that a rank exchanges.
     *
     * @param remote those that come from other ranks
     * @param logical those that come from all ranks, its own rows included
     * @param ranks that exchange them; where there are several GPUs, ranks are on several
     */
    record Traffic(double remote, double logical, int ranks) {}

    /** A case ready to run. */
    interface Prepared extends AutoCloseable {
        /** {@return the kernel instance} */
        String kernel();

        /** Launches once on the GPU's stream. */
        void run();

        /**
         * {@return times of a case that must be timed in its own way; empty for those that a {@link KernelTimer} times}
         *
         * @param method which of the two figures is wanted
         * @param repetitions how many are timed
         */
        default Optional<KernelTimer.Timing> time(final Method method, final int repetitions) {
            return Optional.empty();
        }

        /** Runs once more and compares with the reference. */
        Deviation check();

        /** {@return what else can do the same work, or why not} */
        List<Peer> peers();

        @Override
        void close();
    }

    /**
     * The error of the timed configuration.
     *
     * @param kind {@code cosine} or {@code differing}
     * @param value the error
     * @param bound what it may be
     * @param ratio largest error of an element by its bound; NaN where elements have none
     * @param within whether all bounds hold
     */
    record Deviation(String kind, double value, double bound, double ratio, boolean within) {}

    /**
     * Another implementation of the same work.
     *
     * @param name in results
     * @param run launches once on the GPU's stream
     * @param skipped why it does not run; empty if it does
     */
    record Peer(String name, Runnable run, String skipped) {
        static Peer skipped(final String name, final String why) {
            return new Peer(name, () -> {}, why);
        }
    }
}
