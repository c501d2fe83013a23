/** The C ABI of Hopper4J as jextract sees it: an implementation detail of {@code io.hopper4j}, exported to it alone. */
module io.hopper4j.bindings {
    exports io.hopper4j.bindings to
            io.hopper4j;
}
