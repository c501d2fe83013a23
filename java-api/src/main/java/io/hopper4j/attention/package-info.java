/** Multi-head latent attention over paged caches: what decode computes, its plan and launches, how exact it is, and who holds which page. */
@NullMarked
package io.hopper4j.attention;

import org.jspecify.annotations.NullMarked;
