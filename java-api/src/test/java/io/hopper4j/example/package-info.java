/** How someone else runs a backend of theirs through the contract suite: {@link io.hopper4j.example.NaiveKernelsTest}. */
@NullMarked
package io.hopper4j.example;

import org.jspecify.annotations.NullMarked;
