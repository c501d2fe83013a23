/**
 * The plain meaning of every operation: scalar Java to be read beside the papers. It shares no code with the kernels. Sums that the specification
 * states over real numbers are taken in {@code double} and rounded once; what the specification states in bits is done in those bits.
 *
 * <p>The calling thread alone reads and writes tensors, so tensors of a confined arena are fine; the arithmetic between runs in parallel.
 */
@NullMarked
package io.hopper4j.reference;

import org.jspecify.annotations.NullMarked;
