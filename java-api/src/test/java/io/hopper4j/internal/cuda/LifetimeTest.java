package io.hopper4j.internal.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.junit.jupiter.api.Test;

/** Nothing is closed under a call or a lease, and closing twice is fine. */
final class LifetimeTest {
    private final Lifetime lifetime = new Lifetime(this, "thing");

    @Test
    void shouldCloseOnce() {
        assertThat(lifetime.close()).isTrue();
        assertThat(lifetime.close()).isFalse();
        assertThatIllegalStateException()
                .isThrownBy(lifetime::enter)
                .withMessage("thing: got a closed one, need an open one");
        assertThatIllegalStateException().isThrownBy(lifetime::requireOpen);
        assertThatIllegalStateException().isThrownBy(() -> lifetime.lease("someone"));
        assertThatIllegalStateException().isThrownBy(() -> lifetime.enterExclusively("rebind"));
    }

    @Test
    void shouldNameTheHoldersOfLeases() {
        final Lifetime.Lease first = lifetime.lease("gemm launch");
        final Lifetime.Lease second = lifetime.lease("graph");
        assertThatIllegalStateException()
                .isThrownBy(lifetime::close)
                .withMessage("thing: close: got open [gemm launch, graph], need them closed before");
        first.release();
        first.release();
        assertThatIllegalStateException()
                .isThrownBy(lifetime::close)
                .withMessage("thing: close: got open [graph], need them closed before");
        second.release();
        assertThat(lifetime.close()).isTrue();
    }

    @Test
    void shouldNotCloseUnderACall() {
        lifetime.enter();
        lifetime.enter();
        lifetime.exit();
        assertThatIllegalStateException()
                .isThrownBy(lifetime::close)
                .withMessage("thing: close: got a call of another thread inside, need none");
        assertThatIllegalStateException()
                .isThrownBy(() -> lifetime.enterExclusively("rebind"))
                .withMessage("thing: rebind: got a call of another thread inside, need none");
        lifetime.exit();
        assertThat(lifetime.close()).isTrue();
    }

    @Test
    void shouldKeepCallsOutOfAChange() {
        lifetime.enterExclusively("rebind");
        assertThatIllegalStateException()
                .isThrownBy(lifetime::enter)
                .withMessage("thing: got one that another thread changes, need an open one");
        assertThatIllegalStateException().isThrownBy(lifetime::close);
        lifetime.endExclusive();
        lifetime.enter();
        lifetime.exit();
    }

    @Test
    void shouldNeverLetAThreadInAfterClose() throws InterruptedException {
        for (int round = 0; round < 200; round++) {
            final Lifetime contended = new Lifetime(this, "contended");
            final boolean[] open = {true};
            final List<String> wrong = new ArrayList<>();
            final Thread caller = Thread.ofPlatform().start(() -> {
                try {
                    while (true) {
                        contended.enter();
                        synchronized (open) {
                            if (!open[0]) {
                                wrong.add("inside after close");
                            }
                        }
                        contended.exit();
                    }
                } catch (IllegalStateException e) {
                    // Closed: the end.
                }
            });
            boolean closed = false;
            while (!closed) {
                try {
                    closed = contended.close();
                } catch (IllegalStateException e) {
                    Thread.onSpinWait();
                }
            }
            synchronized (open) {
                open[0] = false;
            }
            caller.join();
            assertThat(wrong).isEmpty();
        }
    }

    /** Gives the log records of leaks to {@code body}, which makes the leaks. */
    private static LogRecord reportOf(final String leaked, final Runnable body) throws InterruptedException {
        final List<LogRecord> records = new CopyOnWriteArrayList<>();
        final Handler handler = new Handler() {
            @Override
            public void publish(final LogRecord record) {
                records.add(record);
            }

            @Override
            public void flush() {}

            @Override
            public void close() {}
        };
        final Logger logger = Logger.getLogger("io.hopper4j");
        logger.addHandler(handler);
        logger.setUseParentHandlers(false);
        try {
            body.run();
            for (int i = 0; i < 500; i++) {
                System.gc();
                Thread.sleep(20);
                assertThat(records).noneMatch(record -> record.getMessage().startsWith("closed thing"));
                for (final LogRecord record : records) {
                    if (record.getMessage().startsWith(leaked)) {
                        return record;
                    }
                }
            }
            throw new AssertionError("no report of " + leaked);
        } finally {
            logger.removeHandler(handler);
            logger.setUseParentHandlers(true);
        }
    }

    @Test
    void shouldReportWhatWasNeverClosed() throws InterruptedException {
        final LogRecord report = reportOf("leaked thing", () -> {
            new Lifetime(new Object(), "closed thing").close();
            new Lifetime(new Object(), "leaked thing").requireOpen();
        });
        assertThat(report.getMessage())
                .isEqualTo("leaked thing was never closed: its native resources are lost until the process ends"
                        + "; -Dhopper4j.leaks=stack says where it was made");
        assertThat(report.getThrown()).isNull();
    }

    @Test
    void shouldReportWhereALeakWasMade() throws InterruptedException {
        System.setProperty("hopper4j.leaks", "stack");
        try {
            final LogRecord report = reportOf("lost thing", () -> makeAndLose());
            assertThat(report.getThrown())
                    .hasMessage("lost thing: made here")
                    .hasStackTraceContaining("LifetimeTest.makeAndLose");
        } finally {
            System.clearProperty("hopper4j.leaks");
        }
    }

    private static void makeAndLose() {
        new Lifetime(new Object(), "lost thing").requireOpen();
    }
}
