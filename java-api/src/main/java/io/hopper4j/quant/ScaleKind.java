package io.hopper4j.quant;

/** How a scale is formed from the largest magnitude of its block; see {@link QuantizeSpec}. */
public enum ScaleKind {
    /** {@code amax * (1/448)}, so that the largest element becomes 448. */
    F32(0),
    /** The power of two at or above that, which UE8M0 can hold: scaling then loses no bits. */
    POWER_OF_TWO(1);

    private final int code;

    ScaleKind(final int code) {
        this.code = code;
    }

    /** {@return the code of this kind in the C ABI} */
    public int code() {
        return code;
    }
}
