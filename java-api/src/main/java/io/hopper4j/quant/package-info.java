/** Quantisation to FP8 with block scales, and back. */
@NullMarked
package io.hopper4j.quant;

import org.jspecify.annotations.NullMarked;
