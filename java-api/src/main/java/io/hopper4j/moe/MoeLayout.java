package io.hopper4j.moe;

/** How rows stand at the rank that has their experts. */
public enum MoeLayout {
    /** One row for each token that came, by source rank, then by token. */
    RANK(0),
    /** One row for each token and local expert, by expert, then by source rank, then by token. */
    EXPERT(1);

    private final int code;

    MoeLayout(final int code) {
        this.code = code;
    }

    /** {@return the code of the native library} */
    public int code() {
        return code;
    }
}
