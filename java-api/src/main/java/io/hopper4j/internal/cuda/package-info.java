/**
 * The CUDA side of the API, over the bindings.
 *
 * <p>Lifetimes: every native object has a {@link io.hopper4j.internal.cuda.Lifetime}, which counts the calls that are inside it and the
 * leases that others hold on it, so that nothing is destroyed under a running call. Errors: {@link io.hopper4j.internal.cuda.Call} owns
 * the error struct of one call and turns a status into the documented exception. Only {@code launch} does without: it passes no error
 * struct, and asks again with one if the status is bad.
 */
@NullMarked
package io.hopper4j.internal.cuda;

import org.jspecify.annotations.NullMarked;
