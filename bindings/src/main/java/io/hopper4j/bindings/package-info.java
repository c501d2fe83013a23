/** What jextract makes of {@code hopper4j.h}. */
package io.hopper4j.bindings;
