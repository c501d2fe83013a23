/** Mixture of experts: which experts a token goes to, the rows that go to them and back on one device, and groups of ranks that hold experts. */
@NullMarked
package io.hopper4j.moe;

import org.jspecify.annotations.NullMarked;
