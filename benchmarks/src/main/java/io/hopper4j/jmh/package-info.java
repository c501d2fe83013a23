/** JMH benchmarks of the host's side. Classes named {@code Gpu…} need a device; the {@code jmh} command leaves them out where there is none. */
@NullMarked
package io.hopper4j.jmh;

import org.jspecify.annotations.NullMarked;
