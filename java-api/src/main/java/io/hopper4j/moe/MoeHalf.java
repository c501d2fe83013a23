package io.hopper4j.moe;

/** Which part of a call a launch does. The halves of a call are two launches on one channel, other work between them. */
public enum MoeHalf {
    /** Sends and waits. */
    WHOLE(0),
    /** Sends, and does not wait for what peers send. */
    START(1),
    /** Waits for what peers send; after its {@link #START}, before the channel's next one. */
    FINISH(2);

    private final int code;

    MoeHalf(final int code) {
        this.code = code;
    }

    /** {@return the code of the native library} */
    public int code() {
        return code;
    }
}
