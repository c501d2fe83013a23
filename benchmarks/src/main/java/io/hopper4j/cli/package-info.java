/** The command line: {@code verify} and {@code doctor}. */
@NullMarked
package io.hopper4j.cli;

import org.jspecify.annotations.NullMarked;
