package io.hopper4j.internal.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DeviceException;
import io.hopper4j.KernelException;
import io.hopper4j.OutOfDeviceMemoryException;
import io.hopper4j.Support;
import io.hopper4j.UnsupportedKernelException;
import io.hopper4j.bindings.h4j_error;
import io.hopper4j.bindings.hopper4j_h;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** What each status of the C ABI becomes in Java; the error struct is filled as the library would. */
final class CallTest {
    private final Call call = new Call();

    CallTest() {
        final MemorySegment error = call.error();
        h4j_error.operation(error).setString(0, "gemm");
        h4j_error.argument(error).setString(0, "k");
        h4j_error.got(error).setString(0, "120");
        h4j_error.allowed(error).setString(0, "a multiple of 16");
        h4j_error.message(error).setString(0, "gemm: k: got 120, need a multiple of 16");
        h4j_error.cuda_code(error, 700);
        h4j_error.sticky(error, 1);
        h4j_error.requested_bytes(error, 1L << 40);
        h4j_error.free_bytes(error, 123);
    }

    @AfterEach
    void close() {
        call.close();
    }

    private RuntimeException failure(final int status) {
        final RuntimeException failure = call.failure(status);
        assertThat(failure).hasMessage("gemm: k: got 120, need a multiple of 16");
        return failure;
    }

    @Test
    void shouldTellTheLibraryWhichStructItHas() {
        assertThat(h4j_error.struct_size(call.error())).isEqualTo((int) h4j_error.sizeof());
    }

    @Test
    void shouldBlameTheCallerForArgumentsAndStates() {
        assertThat(failure(hopper4j_h.H4J_INVALID_ARGUMENT())).isExactlyInstanceOf(IllegalArgumentException.class);
        assertThat(failure(hopper4j_h.H4J_INVALID_STATE())).isExactlyInstanceOf(IllegalStateException.class);
        assertThat(failure(hopper4j_h.H4J_NOT_READY())).isExactlyInstanceOf(IllegalStateException.class);
    }

    @Test
    void shouldGiveTheReasonOfARefusal() {
        assertThat(failure(hopper4j_h.H4J_UNSUPPORTED()))
                .isInstanceOfSatisfying(
                        UnsupportedKernelException.class,
                        e -> assertThat(e.reasons())
                                .containsExactly(new Support.Reason("gemm: k", "120", "a multiple of 16")));
    }

    @Test
    void shouldSayHowMuchMemoryWasAskedForAndFree() {
        assertThat(failure(hopper4j_h.H4J_OUT_OF_DEVICE_MEMORY()))
                .isInstanceOfSatisfying(OutOfDeviceMemoryException.class, e -> {
                    assertThat(e.requestedBytes()).isEqualTo(1L << 40);
                    assertThat(e.freeBytes()).isEqualTo(123);
                });
    }

    @Test
    void shouldSayWhetherTheContextIsLost() {
        for (final int status :
                new int[] {hopper4j_h.H4J_DEVICE_ERROR(), hopper4j_h.H4J_NO_DRIVER(), hopper4j_h.H4J_INTERNAL()}) {
            assertThat(failure(status)).isInstanceOfSatisfying(DeviceException.class, e -> {
                assertThat(e.operation()).isEqualTo("gemm");
                assertThat(e.code()).isEqualTo(700);
                assertThat(e.isSticky()).isTrue();
            });
        }
        assertThat(failure(99)).as("a status of a newer library").isInstanceOf(KernelException.class);
    }

    @Test
    void shouldThrowOnlyOnBadStatus() {
        call.check(hopper4j_h.H4J_OK());
        assertThat(call.checkReady(hopper4j_h.H4J_OK())).isTrue();
        assertThat(call.checkReady(hopper4j_h.H4J_NOT_READY())).isFalse();
    }
}
