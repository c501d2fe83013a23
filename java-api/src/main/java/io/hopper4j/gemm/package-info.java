/** Products of matrices, dense, in batches and by groups, of FP8 with block scales or of BF16: what is computed, plans and launches, and how exact they are. */
@NullMarked
package io.hopper4j.gemm;

import org.jspecify.annotations.NullMarked;
