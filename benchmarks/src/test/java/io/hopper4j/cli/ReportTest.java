package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

final class ReportTest {
    private final StringWriter out = new StringWriter();
    private final Report report = new Report(new PrintWriter(out), new PrintWriter(new StringWriter()));

    @ParameterizedTest
    @CsvSource({
        "0, 0, OK",
        "1, 0, FAIL",
        "0.999, 1, OK",
        "1, 1, OK",
        "1.001, 1, FAIL",
        "NaN, 1, FAIL",
        "Infinity, 1, FAIL"
    })
    void decidesByTheBound(final double value, final double bound, final Row.Verdict verdict) {
        final Row row =
                Row.measured("gemm", "m=1", "k", 1, new Row.Measure("fine", 0, 0), new Row.Measure("x", value, bound));
        assertThat(row.verdict()).isEqualTo(verdict);
    }

    @Test
    void printsEachRowAndCounts() {
        report.header();
        report.add(Row.measured("gemm", "m=64 n=8", "gemm_x", 12.34, new Row.Measure("error/bound", 0.25, 1)));
        report.add(Row.measured("gemm", "m=65 n=8", "gemm_x", 12.34, new Row.Measure("error/bound", Double.NaN, 1)));
        report.add(Row.failed("quantize", "m=1", "java.lang.IllegalStateException: closed"));
        report.addNotRun(
                List.of(Row.notRun("gemm", "m=2", "no CUDA device"), Row.notRun("gemm", "m=3", "no CUDA device")));
        report.close();
        assertThat(out.toString())
                .containsPattern("gemm +m=64 n=8 +gemm_x +error/bound 0.25 \\(1\\) +12.3  ok")
                .containsPattern("gemm +m=65 n=8 +gemm_x +error/bound NaN \\(1\\) +12.3  FAIL")
                .containsPattern("quantize +m=1 .* FAIL: java.lang.IllegalStateException: closed")
                .containsPattern("gemm +2 cases .* not run: no CUDA device")
                .containsPattern("1 passed, 2 failed, 2 not run, [0-9.]+ s\n$");
    }

    @Test
    void writesWhatJsonCannotHoldAsNull(@TempDir final Path folder) throws IOException {
        report.add(Row.measured("gemm", "m=\"1\"", "k", Double.NaN, new Row.Measure("x", Double.POSITIVE_INFINITY, 1)));
        final Path file = folder.resolve("rows.json");
        report.write(file, Map.of("command", "verify"));
        assertThat(Files.readString(file))
                .contains("\"command\" : \"verify\"", "\"us\" : null", "\"value\" : null", "\"bound\" : 1.0")
                .contains("\"shape\" : \"m=\\\"1\\\"\"", "\"verdict\" : \"fail\"", "\"failed\" : 1");
    }
}
