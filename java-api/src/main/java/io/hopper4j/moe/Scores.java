package io.hopper4j.moe;

/** How a gate makes scores of logits. */
public enum Scores {
    /** {@code 1 / (1 + exp(-logit))}, each expert by itself. */
    SIGMOID(0),
    /** {@code exp(logit) / sum of exp}, over all experts, disabled ones included. */
    SOFTMAX(1);

    private final int code;

    Scores(final int code) {
        this.code = code;
    }

    /** {@return the code of this kind in the C ABI} */
    public int code() {
        return code;
    }
}
