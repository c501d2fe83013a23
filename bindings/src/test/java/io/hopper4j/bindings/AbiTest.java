package io.hopper4j.bindings;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.lang.foreign.GroupLayout;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemoryLayout.PathElement;
import java.lang.foreign.PaddingLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Whether the committed bindings are those of the built library and of the header: sizes by the library itself, the place of every field by
 * the C compiler. Needs no GPU.
 */
final class AbiTest {
    /** Every struct of the header. */
    static Stream<GroupLayout> structs() {
        return Stream.of(
                h4j_error.layout(),
                h4j_device_info.layout(),
                h4j_plan_info.layout(),
                h4j_quantize_spec.layout(),
                h4j_quantize_args.layout(),
                h4j_dequantize_spec.layout(),
                h4j_dequantize_args.layout(),
                h4j_gemm_spec.layout(),
                h4j_gemm_args.layout(),
                h4j_mla_decode_spec.layout(),
                h4j_mla_schedule_args.layout(),
                h4j_mla_decode_args.layout(),
                h4j_mla_merge_spec.layout(),
                h4j_mla_merge_args.layout(),
                h4j_swiglu_quantize_spec.layout(),
                h4j_swiglu_quantize_args.layout(),
                h4j_rmsnorm_quantize_spec.layout(),
                h4j_rmsnorm_quantize_args.layout(),
                h4j_transpose_quantize_spec.layout(),
                h4j_transpose_quantize_args.layout(),
                h4j_mla_cache_write_spec.layout(),
                h4j_mla_cache_write_args.layout(),
                h4j_moe_gate_spec.layout(),
                h4j_moe_gate_args.layout(),
                h4j_moe_bias_update_spec.layout(),
                h4j_moe_bias_update_args.layout(),
                h4j_moe_permute_spec.layout(),
                h4j_moe_permute_args.layout(),
                h4j_moe_unpermute_spec.layout(),
                h4j_moe_unpermute_args.layout());
    }

    private static NativeLibrary library() {
        final String library = System.getProperty("hopper4j.library");
        assumeTrue(
                library != null, "the native library has not been built: system property hopper4j.library is not set");
        return NativeLibrary.open(Path.of(library).toAbsolutePath());
    }

    @Test
    void shouldHaveTheVersionOfTheLibrary() {
        try (NativeLibrary library = library()) {
            assertThat(library.abiVersion()).isEqualTo(hopper4j_h.H4J_ABI_VERSION());
        }
    }

    @ParameterizedTest
    @MethodSource("structs")
    void shouldHaveTheSizeOfTheLibrary(final GroupLayout struct) {
        try (NativeLibrary library = library()) {
            assertThat(library.structSize(struct.name().orElseThrow())).isEqualTo(struct.byteSize());
        }
    }

    @Test
    void shouldNotKnowOtherStructs() {
        try (NativeLibrary library = library()) {
            assertThat(library.structSize("h4j_no_such_struct")).isZero();
        }
    }

    @Test
    void shouldPlaceEveryFieldWhereTheCompilerDoes(@TempDir final Path folder)
            throws IOException, InterruptedException {
        final Path header = header();
        final List<String> expected = new ArrayList<>();
        final StringBuilder program =
                new StringBuilder("#include <stdio.h>\n#include \"hopper4j.h\"\nint main(void) {\n");
        structs().forEach(struct -> {
            final String name = struct.name().orElseThrow();
            for (final MemoryLayout member : struct.memberLayouts()) {
                if (!(member instanceof PaddingLayout)) {
                    final String field = member.name().orElseThrow();
                    final long offset = struct.byteOffset(PathElement.groupElement(field));
                    expected.add(name + "." + field + " at " + offset + " of " + member.byteSize() + " bytes");
                    program.append("  printf(\"%1$s.%2$s at %%zu of %%zu bytes\\n\", ".formatted(name, field))
                            .append("offsetof(%1$s, %2$s), sizeof(((%1$s*)0)->%2$s));\n".formatted(name, field));
                }
            }
        });
        Files.writeString(folder.resolve("fields.c"), program.append("  return 0;\n}\n"));

        final List<String> compiled =
                run(folder, "cc", "-I", header.getParent().toString(), "-o", "fields", "fields.c");
        assertThat(compiled).as("what the C compiler says").isEmpty();
        assertThat(run(folder, folder.resolve("fields").toString())).isEqualTo(expected);
    }

    private static Path header() {
        for (Path folder = Path.of("").toAbsolutePath(); folder != null; folder = folder.getParent()) {
            final Path header = folder.resolve("native/include/hopper4j.h");
            if (Files.exists(header)) {
                return header;
            }
        }
        assumeTrue(false, "native/include/hopper4j.h is not here: not in the source tree");
        throw new AssertionError();
    }

    private static List<String> run(final Path folder, final String... command)
            throws IOException, InterruptedException {
        final Process process;
        try {
            process = new ProcessBuilder(command)
                    .directory(folder.toFile())
                    .redirectErrorStream(true)
                    .start();
        } catch (IOException e) {
            assumeTrue(false, "there is no C compiler: " + e.getMessage());
            throw e;
        }
        try (Stream<String> lines = process.inputReader().lines()) {
            final List<String> output = lines.toList();
            assertThat(process.waitFor()).as("%s", output).isZero();
            return output;
        }
    }
}
