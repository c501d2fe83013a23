/** Mixture of experts: groups of ranks that hold experts, and the rows that go to them and back. */
@NullMarked
package io.hopper4j.moe;

import org.jspecify.annotations.NullMarked;
