/** Dense matrix multiplication of FP8 matrices with block scales: what is computed, its plan, and how exact it is. */
@NullMarked
package io.hopper4j.gemm;

import org.jspecify.annotations.NullMarked;
