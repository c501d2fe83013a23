package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** The reference against torch and ml_dtypes, as {@code verify} runs it. */
final class GoldenChecksTest {
    @TestFactory
    Stream<DynamicTest> referenceMatchesGoldenFiles() {
        return GoldenChecks.all().stream()
                .map(check -> DynamicTest.dynamicTest(check.operation(), () -> {
                    final Row row = check.row().get();
                    assertThat(row.verdict()).as(row.toString()).isEqualTo(Row.Verdict.OK);
                }));
    }
}
