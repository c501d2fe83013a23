package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.safetensors.Checkpoint;
import io.hopper4j.safetensors.SafeTensorsException;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/** The tensors of one file that {@code check} was given, by name; what does not fit is an error that names the file and the tensor. */
final class CheckTensors implements AutoCloseable {
    private final Path path;
    private final Checkpoint file;
    private final Map<String, String> attributes;

    private CheckTensors(final Path path, final Checkpoint file, final Map<String, String> attributes) {
        this.path = path;
        this.file = file;
        this.attributes = attributes;
    }

    static CheckTensors open(final Path path, final Map<String, String> attributes) throws IOException {
        return new CheckTensors(path, Checkpoint.open(path), attributes);
    }

    /** What does not fit; the message is for the user. */
    static final class Misfit extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Misfit(final String message) {
            super(message);
        }
    }

    /** {@return the tensor, or null where the file has none of this name} */
    @Nullable
    HostTensor optional(final String name, final int rank, final DType... types) throws SafeTensorsException {
        return file.names().contains(name) ? tensor(name, rank, types) : null;
    }

    /** {@return the tensor, which then must have this shape, or null where the file has none of this name} */
    @Nullable
    HostTensor optional(final String name, final long[] shape, final DType... types) throws SafeTensorsException {
        return file.names().contains(name) ? tensor(name, shape, types) : null;
    }

    HostTensor tensor(final String name, final int rank, final DType... types) throws SafeTensorsException {
        if (!file.names().contains(name)) {
            throw new Misfit("%s: tensor \"%s\": missing; the file has %s".formatted(path, name, file.names()));
        }
        final HostTensor tensor = file.tensor(name);
        if (!Arrays.asList(types).contains(tensor.dtype())) {
            throw misfit(name, tensor.dtype(), Arrays.toString(types));
        }
        if (tensor.shape().rank() != rank) {
            throw misfit(name, "shape " + tensor.shape(), "rank " + rank);
        }
        return tensor;
    }

    /** {@return a tensor of this shape} */
    HostTensor tensor(final String name, final long[] shape, final DType... types) throws SafeTensorsException {
        final HostTensor tensor = tensor(name, shape.length, types);
        if (!Arrays.equals(tensor.shape().toArray(), shape)) {
            throw misfit(name, "shape " + tensor.shape(), Arrays.toString(shape).replace(" ", ""));
        }
        return tensor;
    }

    Misfit misfit(final String name, final Object got, final Object need) {
        return new Misfit("%s: tensor \"%s\": got %s, need %s".formatted(path, name, got, need));
    }

    /** {@return a scalar of the operation: from {@code --set}, or else from the file's metadata} */
    Optional<String> attribute(final String name) {
        final Optional<String> set = Optional.ofNullable(attributes.get(name));
        return set.isPresent() ? set : file.metadata(name);
    }

    int integer(final String name, final int otherwise) {
        try {
            return attribute(name).map(Integer::valueOf).orElse(otherwise);
        } catch (final NumberFormatException e) {
            throw new Misfit("%s: %s: got %s, need an integer"
                    .formatted(path, name, attribute(name).orElse("")));
        }
    }

    float number(final String name, final float otherwise) {
        try {
            return attribute(name).map(Float::valueOf).orElse(otherwise);
        } catch (final NumberFormatException e) {
            throw new Misfit("%s: %s: got %s, need a number"
                    .formatted(path, name, attribute(name).orElse("")));
        }
    }

    @Override
    public void close() {
        file.close();
    }
}
