package io.hopper4j.cli;

import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.cli.BenchOperation.CaseList;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** All operations of the bench, and the cases of a run. */
final class BenchOperations {
    /** The one list that an operation joins. */
    static final List<BenchOperation> ALL = List.of(
            new GemmBench(false),
            new GemmBench(true),
            new GemmChainBench(),
            new GroupedGemmBench(GroupedProducts.Form.CONTIGUOUS, true),
            new GroupedGemmBench(GroupedProducts.Form.CONTIGUOUS, false),
            new GroupedGemmBench(GroupedProducts.Form.MASKED, false),
            new GroupedGemmBench(GroupedProducts.Form.K, true),
            new Bf16GemmBench(false),
            new Bf16GemmBench(true),
            new QuantizeBench("quantize_1x128", Scaling.ACTIVATION_1X128),
            new QuantizeBench("quantize_128x128", Scaling.WEIGHT_128X128),
            new FusedQuantizeBench(FusedQuantizeBench.Kind.SWIGLU),
            new FusedQuantizeBench(FusedQuantizeBench.Kind.RMSNORM),
            new FusedQuantizeBench(FusedQuantizeBench.Kind.TRANSPOSE),
            new MlaCacheWriteBench(MlaCacheFormat.BF16),
            new MlaCacheWriteBench(MlaCacheFormat.FP8_BLOCKS),
            new MlaCacheWriteBench(MlaCacheFormat.FP8_TOKEN),
            new MlaDecodeBench(MlaDecodeBench.Part.DECODE),
            new MlaDecodeBench(MlaDecodeBench.Part.FP8_DECODE),
            new MlaDecodeBench(MlaDecodeBench.Part.FP8_TOKEN_DECODE),
            new MlaDecodeBench(MlaDecodeBench.Part.MIXED_DECODE),
            new MlaDecodeBench(MlaDecodeBench.Part.SCHEDULE),
            new GateBench(),
            new ExpertRowsBench(false),
            new ExpertRowsBench(true),
            new ExpertLayerBench(),
            new ExpertGroupBench(ExpertGroupBench.Part.DISPATCH),
            new ExpertGroupBench(ExpertGroupBench.Part.DISPATCH_EXPERT),
            new ExpertGroupBench(ExpertGroupBench.Part.DISPATCH_LATENCY),
            new ExpertGroupBench(ExpertGroupBench.Part.COMBINE),
            new ExpertGroupBench(ExpertGroupBench.Part.COMBINE_EXPERT),
            new ExpertGroupBench(ExpertGroupBench.Part.COMBINE_LATENCY));

    private BenchOperations() {}

    /**
     * One row to be made.
     *
     * @param operation what is timed
     * @param shape its sizes
     */
    record Case(BenchOperation operation, BenchShape shape) {
        /** {@return what it must move and compute} */
        BenchOperation.Work work() {
            return operation.work(shape);
        }

        @Override
        public String toString() {
            return operation.name() + " " + shape;
        }
    }

    /** {@return the families there are, in order} */
    static Set<String> families() {
        return ALL.stream().map(BenchOperation::family).collect(Collectors.toCollection(LinkedHashSet::new));
    }

    /** {@return the cases of a family in some lists, each once} */
    static List<Case> cases(final String family, final List<CaseList> lists) {
        final Set<Case> cases = new LinkedHashSet<>();
        for (final BenchOperation operation : ALL) {
            if (operation.family().equals(family)) {
                for (final CaseList list : lists) {
                    operation.cases(list).forEach(shape -> cases.add(new Case(operation, shape)));
                }
            }
        }
        return List.copyOf(cases);
    }

    /**
     * Reads a file of shapes: a case a line, an operation and its sizes, {@code fp8_gemm_nt m=64 n=2112 k=7168}; what follows a # is a remark.
     *
     * @throws IOException if it cannot be read or a line is no case; the message names the line
     */
    static List<Case> read(final Path file) throws IOException {
        final List<Case> cases = new ArrayList<>();
        final List<String> lines = Files.readAllLines(file);
        for (int i = 0; i < lines.size(); i++) {
            final String line = lines.get(i).replaceFirst("#.*", "").strip();
            if (!line.isEmpty()) {
                try {
                    cases.add(parse(line));
                } catch (final IllegalArgumentException e) {
                    throw new IOException(file + ": line " + (i + 1) + ": " + e.getMessage(), e);
                }
            }
        }
        if (cases.isEmpty()) {
            throw new IOException(file + ": got no case, need lines such as: fp8_gemm_nt m=64 n=2112 k=7168");
        }
        return cases;
    }

    /**
     * {@return the case of one line}
     *
     * @throws IllegalArgumentException if it is none
     */
    static Case parse(final String line) {
        final String[] words = line.split("\\s+", -1);
        final BenchOperation operation = ALL.stream()
                .filter(o -> o.name().equals(words[0]))
                .findFirst()
                .orElseThrow(() -> new IllegalArgumentException("operation: got " + words[0] + ", need one of "
                        + ALL.stream().map(BenchOperation::name).toList()));
        final Map<String, Long> given = new LinkedHashMap<>();
        for (final String word : Arrays.asList(words).subList(1, words.length)) {
            final int equals = word.indexOf('=');
            final String key = equals < 0 ? word : word.substring(0, equals);
            if (!operation.keys().contains(key)) {
                throw new IllegalArgumentException(
                        operation.name() + ": got " + word + ", need sizes of " + operation.keys());
            }
            if (given.put(key, size(key, word.substring(equals + 1))) != null) {
                throw new IllegalArgumentException(operation.name() + ": got " + key + " twice, need it once");
            }
        }
        final Map<String, Long> sizes = new LinkedHashMap<>();
        for (final String key : operation.keys()) {
            final Long size = given.get(key);
            if (size == null) {
                throw new IllegalArgumentException(
                        operation.name() + ": got no " + key + ", need all of " + operation.keys());
            }
            sizes.put(key, size);
        }
        return new Case(operation, new BenchShape(sizes));
    }

    private static long size(final String key, final String text) {
        try {
            final long size = Long.parseLong(text);
            if (size > 0) {
                return size;
            }
        } catch (final NumberFormatException e) {
            throw new IllegalArgumentException(key + ": got " + text + ", need a whole number above 0", e);
        }
        throw new IllegalArgumentException(key + ": got " + text + ", need a whole number above 0");
    }
}
