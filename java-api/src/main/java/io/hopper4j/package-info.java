/** Devices, streams, tensors, and the one contract that the CUDA kernels and the plain Java reference fulfil. */
@NullMarked
package io.hopper4j;

import org.jspecify.annotations.NullMarked;
