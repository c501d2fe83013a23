/** Kernels of DeepSeek-V3-class models on NVIDIA Hopper GPUs, for Java programs. */
module io.hopper4j {
    requires io.hopper4j.bindings;
    requires static transitive org.jspecify;

    exports io.hopper4j;
    exports io.hopper4j.attention;
    exports io.hopper4j.gemm;
    exports io.hopper4j.moe;
    exports io.hopper4j.quant;
    exports io.hopper4j.reference;
    exports io.hopper4j.safetensors;
}
