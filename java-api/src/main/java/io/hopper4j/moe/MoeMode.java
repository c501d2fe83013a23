package io.hopper4j.moe;

/** What a call is made for. */
public enum MoeMode {
    /** Many tokens: prefill and training. */
    THROUGHPUT(0),
    /** A few tokens: decode. */
    LATENCY(1);

    private final int code;

    MoeMode(final int code) {
        this.code = code;
    }

    /** {@return the code of the native library} */
    public int code() {
        return code;
    }
}
