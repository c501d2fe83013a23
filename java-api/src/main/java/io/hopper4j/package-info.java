/**
 * Devices, streams, tensors, and the one contract that the CUDA kernels and the plain Java reference fulfil.
 *
 * <p>A null where {@code @Nullable} does not allow one is refused with a {@link NullPointerException} or {@link IllegalArgumentException} that names
 * the argument.
 */
@NullMarked
package io.hopper4j;

import org.jspecify.annotations.NullMarked;
