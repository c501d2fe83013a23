package io.hopper4j.cli;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Invented results for tests: no card gave these figures. */
final class Results {
    private Results() {}

    /** {@return a head that the schema takes} */
    static Map<String, @Nullable Object> head(final String commit) {
        final Map<String, @Nullable Object> head = new LinkedHashMap<>();
        head.put("schema", 1L);
        head.put("family", "gemm");
        head.put("date", "2000-01-01");
        head.put("commit", commit);
        head.put("command", "hopper4j bench gemm");
        head.put("gpu", "TEST <card>");
        head.put("gpus", 1L);
        head.put("driver", "0");
        head.put("cuda", "0.0");
        head.put("java", "25");
        return head;
    }

    /** {@return yardsticks of 1000 GB/s and 100 TFLOPS} */
    static Map<String, @Nullable Object> yardsticks() {
        final Map<String, @Nullable Object> yardsticks = new LinkedHashMap<>();
        yardsticks.put("copyGBs", 900.0);
        yardsticks.put("readGBs", 1000.0);
        yardsticks.put("bf16MatmulTflops", 50.0);
        yardsticks.put("fp8PerTensorTflops", 100.0);
        yardsticks.put("peerStoreGBs", null);
        return yardsticks;
    }

    /** {@return a product's row} */
    static Map<String, @Nullable Object> row(final long m, final long n, final double us) {
        final Map<String, @Nullable Object> row = new LinkedHashMap<>();
        row.put("op", "fp8_gemm_nt");
        row.put("shape", BenchShape.of("m", m, "n", n).with("k", 512).sizes());
        row.put("kernel", "test_kernel");
        row.put("timer", "cupti");
        row.put("us", us);
        row.put("usP10", us * 0.99);
        row.put("usP90", us * 1.01);
        row.put("usPeerMethod", us * 1.1);
        row.put("smClockMHz", 1000L);
        row.put("watts", 100L);
        row.put("tflops", 40.0);
        row.put("gbs", 800.0);
        row.put("floorUs", us / 2);
        row.put("floorShare", 0.5);
        row.put("error", 1e-6);
        row.put("errorKind", "cosine");
        row.put("peers", List.of(peer("cublaslt_fp8_per_tensor", us * 0.8), peer("cublaslt_bf16", us * 2)));
        row.put("warnings", List.of("clock held down by the \"power\" limit, <so>"));
        return row;
    }

    private static Map<String, @Nullable Object> peer(final String name, final double us) {
        final Map<String, @Nullable Object> peer = new LinkedHashMap<>();
        peer.put("name", name);
        peer.put("us", us);
        peer.put("usPeerMethod", us * 1.1);
        return peer;
    }

    /** {@return a whole document} */
    @SafeVarargs
    static Map<String, @Nullable Object> document(final String commit, final Map<String, @Nullable Object>... rows) {
        final Map<String, @Nullable Object> document = head(commit);
        document.put("yardsticks", yardsticks());
        final List<Map<String, @Nullable Object>> list = new ArrayList<>();
        for (final Map<String, @Nullable Object> row : rows) {
            list.add(row);
        }
        document.put("rows", list);
        return document;
    }
}
