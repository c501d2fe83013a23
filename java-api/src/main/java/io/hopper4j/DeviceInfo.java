package io.hopper4j;

import io.hopper4j.internal.Arguments;
import java.util.List;
import java.util.Objects;

/**
 * What planning needs to know of a device: one that is there ({@link Device#info()}) or one that is only described, so that choice of
 * kernel instances and explanations work on any machine.
 *
 * @param name as the driver calls it, or the name of a description
 * @param computeMajor compute capability; 9 for Hopper
 * @param computeMinor compute capability after the dot; 0 for Hopper
 * @param smCount streaming multiprocessors
 * @param sharedMemoryPerBlock bytes of shared memory that one thread block may ask for
 * @param l2Bytes size of the L2 cache
 * @param memoryBytes size of device memory
 * @param nvlinkGBs NVLink, GB/s a direction over all links, nominal or as an expert group has measured it; 0 where there is none or it is unknown
 */
public record DeviceInfo(
        String name,
        int computeMajor,
        int computeMinor,
        int smCount,
        int sharedMemoryPerBlock,
        long l2Bytes,
        long memoryBytes,
        float nvlinkGBs) {
    private static final int HOPPER_SHARED_MEMORY = 227 * 1024;
    private static final long MIB = 1L << 20;
    private static final long GIB = 1L << 30;

    /** H100 SXM5: 132 SMs, 80 GiB. */
    public static final DeviceInfo H100_SXM = hopper("H100-SXM", 132, 50 * MIB, 80 * GIB, 450);
    /** H800 SXM5: the H100 with 200 GB/s of NVLink a direction. */
    public static final DeviceInfo H800 = hopper("H800-SXM", 132, 50 * MIB, 80 * GIB, 200);
    /** H200 SXM5: 132 SMs, 141 GiB. */
    public static final DeviceInfo H200 = hopper("H200-SXM", 132, 60 * MIB, 141 * GIB, 450);
    /** H100 PCIe: 114 SMs, 80 GiB, no NVLink unless bridged. */
    public static final DeviceInfo H100_PCIE = hopper("H100-PCIe", 114, 50 * MIB, 80 * GIB, 0);
    /** H20: 78 SMs, 96 GiB. */
    public static final DeviceInfo H20 = hopper("H20", 78, 60 * MIB, 96 * GIB, 450);

    /**
     * Checks the figures.
     *
     * @throws IllegalArgumentException if a count or size is not positive, or the NVLink rate is negative
     */
    public DeviceInfo {
        Objects.requireNonNull(name, "name");
        Arguments.require(computeMajor > 0, "device: computeMajor", computeMajor, "at least 1");
        Arguments.require(computeMinor >= 0, "device: computeMinor", computeMinor, "at least 0");
        Arguments.require(smCount > 0, "device: smCount", smCount, "at least 1");
        Arguments.require(sharedMemoryPerBlock > 0, "device: sharedMemoryPerBlock", sharedMemoryPerBlock, "at least 1");
        Arguments.require(l2Bytes > 0, "device: l2Bytes", l2Bytes, "at least 1");
        Arguments.require(memoryBytes > 0, "device: memoryBytes", memoryBytes, "at least 1");
        Arguments.require(nvlinkGBs >= 0, "device: nvlinkGBs", nvlinkGBs, "at least 0");
    }

    private static DeviceInfo hopper(
            final String name, final int sms, final long l2Bytes, final long memoryBytes, final float nvlinkGBs) {
        return new DeviceInfo(name, 9, 0, sms, HOPPER_SHARED_MEMORY, l2Bytes, memoryBytes, nvlinkGBs);
    }

    /** {@return this device with another NVLink rate, as it was measured for example} */
    public DeviceInfo withNvlinkGBs(final float gbs) {
        return new DeviceInfo(
                name, computeMajor, computeMinor, smCount, sharedMemoryPerBlock, l2Bytes, memoryBytes, gbs);
    }

    /** {@return the descriptions of this class} */
    public static List<DeviceInfo> described() {
        return List.of(H100_SXM, H800, H200, H100_PCIE, H20);
    }

    /**
     * {@return a description by its name}
     *
     * @param name {@code H100-SXM}, {@code H800-SXM}, {@code H200-SXM}, {@code H100-PCIe} or {@code H20}
     * @throws IllegalArgumentException if there is no such description
     */
    public static DeviceInfo described(final String name) {
        return described().stream()
                .filter(info -> info.name().equals(name))
                .findFirst()
                .orElseThrow(() -> Arguments.bad(
                        "device: name",
                        name,
                        "one of " + described().stream().map(DeviceInfo::name).toList()));
    }

    /** {@return whether the kernels of this library can run: compute capability 9.0} */
    public boolean isHopper() {
        return computeMajor == 9 && computeMinor == 0;
    }
}
