package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.Device;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.Event;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Stream;
import java.lang.foreign.Arena;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** A device with what a check needs of it: kernels, a stream, and tensors surrounded by what must not be touched. */
final class Gpu implements AutoCloseable {
    private static final int TIMED_RUNS = 5;

    private final Device device;
    private final Kernels<DeviceTensor> kernels;
    private final Stream stream;

    Gpu(final Device device) {
        this.device = device;
        this.kernels = Kernels.cuda(device);
        this.stream = device.openStream();
    }

    /**
     * A matrix inside a larger one.
     *
     * @param storage {@code [rows, cols + gap]}
     * @param matrix its first columns
     */
    record Padded(DeviceTensor storage, DeviceTensor matrix) {}

    Device device() {
        return device;
    }

    Kernels<DeviceTensor> kernels() {
        return kernels;
    }

    Stream stream() {
        return stream;
    }

    DeviceArena openArena() {
        return device.openArena(stream);
    }

    /** A matrix of NaN, with at least {@code gap} more of them between its rows. */
    Padded poisoned(final DeviceArena arena, final DType dtype, final long rows, final long cols, final long gap) {
        final DeviceTensor storage = arena.allocate(dtype, rows, HostData.rowStride(cols, gap));
        poison(storage);
        return new Padded(storage, storage.slice(1, 0, cols));
    }

    /** Values with scales of NaN. */
    Scaled<DeviceTensor> withPoisonedScales(final DeviceArena arena, final Padded values, final Scaling scaling) {
        final DeviceTensor scales = arena.allocate(HostData.scaleSpec(
                scaling,
                values.matrix().shape().size(0),
                values.matrix().shape().size(1)));
        poison(scales);
        return new Scaled<>(values.matrix(), scales, scaling);
    }

    private void poison(final DeviceTensor tensor) {
        try (Arena host = Arena.ofConfined()) {
            final HostTensor source = HostTensor.allocate(host, tensor.spec());
            source.segment().fill((byte) 0xFF);
            tensor.copyFrom(source, stream);
            stream.synchronize();
        }
    }

    /** A copy of a matrix with at least {@code gap} NaN between its rows. */
    DeviceTensor upload(final DeviceArena arena, final HostTensor source, final long gap) {
        final Padded copy = poisoned(
                arena, source.dtype(), source.shape().size(0), source.shape().size(1), gap);
        copy.matrix().copyFrom(source, stream);
        return copy.matrix();
    }

    /** A copy of a tensor, laid out as it is. */
    DeviceTensor copy(final DeviceArena arena, final HostTensor source) {
        final DeviceTensor copy = arena.allocate(source.spec());
        copy.copyFrom(source, stream);
        return copy;
    }

    /** A copy of a quantised matrix with at least {@code gap} NaN between the rows of its values. */
    Scaled<DeviceTensor> upload(final DeviceArena arena, final Scaled<HostTensor> source, final long gap) {
        final DeviceTensor scales = arena.allocate(source.scales().spec());
        scales.copyFrom(source.scales(), stream);
        return new Scaled<>(upload(arena, source.values(), gap), scales, source.scaling());
    }

    /** The workspace that a plan asks for, or null where it asks for none. */
    @Nullable
    DeviceTensor workspace(final DeviceArena arena, final Plan plan) {
        return plan.workspaceBytes() == 0 ? null : arena.allocate(DType.U8, plan.workspaceBytes());
    }

    /** Copies back and waits for it. */
    void download(final DeviceTensor source, final HostTensor target) {
        source.copyTo(target, stream);
        stream.synchronize();
    }

    /** How many elements between the rows, or in rows from {@code rows} on, have been written: all of them held NaN. */
    long strayWrites(final Padded padded, final long rows) {
        final long cols = padded.matrix().shape().size(1);
        final long allRows = padded.storage().shape().size(0);
        final long stride = padded.storage().shape().size(1);
        return written(padded.storage().slice(1, cols, stride))
                + written(padded.matrix().slice(0, rows, allRows));
    }

    /** How many elements of a matrix that held NaN have been written. */
    long written(final DeviceTensor matrix) {
        long written = 0;
        try (Arena host = Arena.ofConfined()) {
            final HostTensor copy = HostTensor.allocate(host, matrix.spec());
            download(matrix, copy);
            for (final float value : copy.toFloats()) {
                written += Float.isNaN(value) ? 0 : 1;
            }
        }
        return written;
    }

    /** Runs a launch that has run before a few times and takes the median: a rough figure with warm caches, to be read beside the verdict only. */
    double microseconds(final Launch launch, final long rows) {
        final double[] times = new double[TIMED_RUNS];
        for (int i = 0; i < TIMED_RUNS; i++) {
            try (Event start = stream.record()) {
                launch.launch(stream, rows);
                try (Event end = stream.record()) {
                    end.synchronize();
                    times[i] = end.elapsedSince(start).toNanos() / 1e3;
                }
            }
        }
        Arrays.sort(times);
        return times[TIMED_RUNS / 2];
    }

    @Override
    public void close() {
        stream.close();
        kernels.close();
    }
}
