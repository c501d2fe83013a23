package io.hopper4j.cli;

/** One check of a kernel on the GPU against the reference. {@link VerifyCases} lists them all. */
interface VerifyCase {
    /** {@return the name of the operation} */
    String operation();

    /** {@return sizes and types, for the report} */
    String shape();

    /**
     * Runs the operation on the device and compares.
     *
     * @param gpu the device, its kernels and a stream
     * @return the row to report
     */
    Row run(Gpu gpu);
}
