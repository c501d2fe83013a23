package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import java.lang.foreign.ValueLayout;

/** Elements of contiguous I32 tensors, exact where floats would round. */
final class Integers {
    private Integers() {}

    static int get(final HostTensor tensor, final long index) {
        return tensor.segment().get(ValueLayout.JAVA_INT_UNALIGNED, index * Integer.BYTES);
    }

    static void set(final HostTensor tensor, final long index, final int value) {
        tensor.segment().set(ValueLayout.JAVA_INT_UNALIGNED, index * Integer.BYTES, value);
    }
}
