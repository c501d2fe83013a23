package io.hopper4j;

import java.nio.file.Path;

/**
 * The native library in use.
 *
 * @param path the file it was loaded from
 * @param version its version, such as {@code 0.1.0}
 * @param abiVersion the version of its C ABI
 * @param driverCudaVersion the CUDA version that the driver supports, 1000 * major + 10 * minor; 0 where there is no driver
 */
public record LibraryInfo(Path path, String version, int abiVersion, int driverCudaVersion) {}
