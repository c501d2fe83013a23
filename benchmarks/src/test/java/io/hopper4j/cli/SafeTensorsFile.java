package io.hopper4j.cli;

import io.hopper4j.HostTensor;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/** Writes a safetensors file, for tests. */
final class SafeTensorsFile {
    private final Map<String, HostTensor> tensors = new LinkedHashMap<>();
    private final Map<String, String> metadata = new LinkedHashMap<>();

    SafeTensorsFile with(final String name, final HostTensor tensor) {
        tensors.put(name, tensor);
        return this;
    }

    SafeTensorsFile withMetadata(final String key, final String value) {
        metadata.put(key, value);
        return this;
    }

    Path write(final Path path) throws IOException {
        final StringBuilder header = new StringBuilder("{\"__metadata__\":{");
        metadata.forEach((key, value) -> header.append("\"%s\":\"%s\",".formatted(key, value)));
        if (!metadata.isEmpty()) {
            header.setLength(header.length() - 1);
        }
        header.append('}');
        long offset = 0;
        for (final Map.Entry<String, HostTensor> entry : tensors.entrySet()) {
            final HostTensor tensor = entry.getValue();
            final long bytes = tensor.shape().elements() * tensor.dtype().size();
            header.append(",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%d,%d]}"
                    .formatted(
                            entry.getKey(), tensor.dtype().safetensorsTag(), tensor.shape(), offset, offset + bytes));
            offset += bytes;
        }
        final byte[] json = header.append('}').toString().getBytes(StandardCharsets.UTF_8);
        final ByteBuffer file =
                ByteBuffer.allocate(8 + json.length + Math.toIntExact(offset)).order(ByteOrder.LITTLE_ENDIAN);
        file.putLong(json.length).put(json);
        for (final HostTensor tensor : tensors.values()) {
            putElements(file, tensor);
        }
        return Files.write(path, file.array());
    }

    /** Row-major, whatever the strides of the tensor. */
    private static void putElements(final ByteBuffer file, final HostTensor tensor) {
        final long[] shape = tensor.shape().toArray();
        final int size = tensor.dtype().size();
        for (long i = 0; i < tensor.shape().elements(); i++) {
            final long at = tensor.spec().offsetOf(CheckMeasure.unravel(i, shape)) * size;
            for (int b = 0; b < size; b++) {
                file.put(tensor.segment().get(ValueLayout.JAVA_BYTE, at + b));
            }
        }
    }
}
