package io.hopper4j;

import io.hopper4j.internal.Arguments;
import io.hopper4j.internal.codec.Bf16;
import io.hopper4j.internal.codec.E8m0;
import io.hopper4j.internal.codec.Fp16;
import io.hopper4j.internal.codec.Fp8;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SegmentAllocator;
import java.lang.foreign.ValueLayout;
import java.util.Objects;

/** The one implementation of {@link HostTensor}. */
final class HostSegmentTensor implements HostTensor {
    /** Wide enough for the vector loads of any host and for the 16-byte rule of the kernels. */
    private static final long ALIGNMENT = 64;

    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;
    private static final ValueLayout.OfByte BYTE = ValueLayout.JAVA_BYTE;
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED;

    private final MemorySegment segment;
    private final TensorSpec spec;

    private HostSegmentTensor(final MemorySegment segment, final TensorSpec spec) {
        this.segment = segment;
        this.spec = spec;
    }

    static HostSegmentTensor allocate(final SegmentAllocator allocator, final TensorSpec spec) {
        final MemorySegment memory =
                allocator.allocate(spec.byteSpan(), ALIGNMENT).fill((byte) 0);
        return new HostSegmentTensor(memory, spec);
    }

    static HostSegmentTensor wrap(final MemorySegment segment, final TensorSpec spec) {
        Objects.requireNonNull(segment, "segment");
        Arguments.require(
                segment.byteSize() >= spec.byteSpan(),
                "tensor: segment",
                segment.byteSize() + " bytes",
                "at least " + spec.byteSpan() + " bytes for " + spec);
        return new HostSegmentTensor(segment.asSlice(0, spec.byteSpan()), spec);
    }

    private HostSegmentTensor view(final TensorSpec view, final long firstElement) {
        final long start =
                view.elements() == 0 ? 0 : firstElement * view.dtype().size();
        return new HostSegmentTensor(segment.asSlice(start, view.byteSpan()), view);
    }

    @Override
    public TensorSpec spec() {
        return spec;
    }

    @Override
    public MemorySegment segment() {
        return segment;
    }

    @Override
    public HostTensor slice(final int dim, final long from, final long to) {
        return view(spec.slice(dim, from, to), from * spec.strides().step(dim));
    }

    @Override
    public HostTensor select(final int dim, final long index) {
        return view(spec.select(dim, index), index * spec.strides().step(dim));
    }

    @Override
    public HostTensor transpose(final int dim0, final int dim1) {
        return view(spec.transpose(dim0, dim1), 0);
    }

    @Override
    public HostTensor reshape(final long... dims) {
        return view(spec.reshape(dims), 0);
    }

    @Override
    public float getFloat(final long... index) {
        return read(spec.offsetOf(index));
    }

    @Override
    public void setFloat(final float value, final long... index) {
        write(spec.offsetOf(index), value);
    }

    @Override
    public float[] toFloats() {
        Arguments.require(
                spec.elements() <= Integer.MAX_VALUE - 8, "toFloats: elements", spec.elements(), "at most 2147483639");
        final float[] values = new float[(int) spec.elements()];
        final Cursor cursor = new Cursor(spec);
        for (int i = 0; i < values.length; i++) {
            values[i] = read(cursor.next());
        }
        return values;
    }

    @Override
    public void setFloats(final float... values) {
        Arguments.require(
                values.length == spec.elements(),
                "setFloats: values",
                values.length,
                spec.elements() + " for shape " + spec.shape());
        final Cursor cursor = new Cursor(spec);
        for (final float value : values) {
            write(cursor.next(), value);
        }
    }

    private float read(final long element) {
        final long at = element * spec.dtype().size();
        return switch (spec.dtype()) {
            case F32 -> segment.get(FLOAT, at);
            case F16 -> Fp16.toFloat(segment.get(SHORT, at));
            case BF16 -> Bf16.toFloat(segment.get(SHORT, at));
            case F8_E4M3 -> Fp8.E4M3.toFloat(segment.get(BYTE, at));
            case F8_E5M2 -> Fp8.E5M2.toFloat(segment.get(BYTE, at));
            case F8_E8M0 -> E8m0.toFloat(segment.get(BYTE, at));
            case I32 -> segment.get(INT, at);
            case I64 -> segment.get(LONG, at);
            case U8 -> Byte.toUnsignedInt(segment.get(BYTE, at));
        };
    }

    private void write(final long element, final float value) {
        final long at = element * spec.dtype().size();
        switch (spec.dtype()) {
            case F32 -> segment.set(FLOAT, at, value);
            case F16 -> segment.set(SHORT, at, Fp16.fromFloat(value));
            case BF16 -> segment.set(SHORT, at, Bf16.fromFloat(value));
            case F8_E4M3 -> segment.set(BYTE, at, Fp8.E4M3.fromFloat(value));
            case F8_E5M2 -> segment.set(BYTE, at, Fp8.E5M2.fromFloat(value));
            case F8_E8M0 -> segment.set(BYTE, at, E8m0.fromFloat(value));
            case I32 -> segment.set(INT, at, (int) Math.rint(value));
            case I64 -> segment.set(LONG, at, (long) Math.rint(value));
            case U8 -> segment.set(BYTE, at, (byte) Math.clamp((int) Math.rint(value), 0, 255));
        }
    }

    @Override
    public String toString() {
        return "HostTensor " + spec;
    }

    /** Walks the elements of a tensor in row-major order. */
    private static final class Cursor {
        private final long[] dims;
        private final long[] steps;
        private final long[] index;
        private long offset;

        Cursor(final TensorSpec spec) {
            dims = spec.shape().toArray();
            steps = spec.strides().toArray();
            index = new long[dims.length];
        }

        /** Answers the offset of the current element, then moves on. */
        long next() {
            final long current = offset;
            for (int dim = dims.length - 1; dim >= 0; dim--) {
                offset += steps[dim];
                if (++index[dim] < dims[dim]) {
                    break;
                }
                offset -= dims[dim] * steps[dim];
                index[dim] = 0;
            }
            return current;
        }
    }
}
