/**
 * What every implementation of {@code Kernels} must do: the same cases run on the reference and, tagged gpu, on CUDA. Expected values come
 * from formulas written out here, not from either of them.
 */
@NullMarked
package io.hopper4j.contract;

import org.jspecify.annotations.NullMarked;
