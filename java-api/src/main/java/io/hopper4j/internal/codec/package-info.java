/**
 * Exact conversions between {@code float} and the narrow number formats of the tensors. Every conversion rounds to nearest, ties to even, in
 * plain Java; the results are checked bit for bit against golden files made by torch and ml_dtypes.
 */
@NullMarked
package io.hopper4j.internal.codec;

import org.jspecify.annotations.NullMarked;
