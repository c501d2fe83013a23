/**
 * What jextract makes of {@code hopper4j.h}, and the one hand-written class {@link io.hopper4j.bindings.NativeLibrary}. Every restricted
 * operation of the project is in this package, so that {@code --enable-native-access=io.hopper4j.bindings} is all a program needs.
 */
package io.hopper4j.bindings;
