/** What the packages of this module share and no caller sees: the form of error messages and the checks of operations. */
@NullMarked
package io.hopper4j.internal;

import org.jspecify.annotations.NullMarked;
