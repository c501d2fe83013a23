package io.hopper4j.example;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectNestedClass;

import io.hopper4j.HostTensor;
import io.hopper4j.contract.Backend;
import io.hopper4j.contract.ContractSuite;
import io.hopper4j.contract.ReferenceBackend;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import org.junit.platform.launcher.listeners.TestExecutionSummary;

/** A backend of someone else's in the contract suite: the right one passes, and a fault planted in it is found. */
final class NaiveKernelsTest {
    /** This class alone is what a third party writes; the name keeps it from being run but by the tests below. */
    static final class Right extends ContractSuite<HostTensor> {
        @Override
        public Backend<HostTensor> open(final int rank) {
            return new ReferenceBackend(new NaiveKernels(NaiveKernels::product));
        }
    }

    static final class Faulty extends ContractSuite<HostTensor> {
        @Override
        public Backend<HostTensor> open(final int rank) {
            return new ReferenceBackend(new NaiveKernels(NaiveKernels::productOfWholeBlocks));
        }
    }

    private static TestExecutionSummary run(final Class<?> suite) {
        final Class<?> gemm = Arrays.stream(ContractSuite.class.getDeclaredClasses())
                .filter(nested -> nested.getSimpleName().equals("Gemm"))
                .findFirst()
                .orElseThrow();
        final SummaryGeneratingListener listener = new SummaryGeneratingListener();
        LauncherFactory.create()
                .execute(
                        LauncherDiscoveryRequestBuilder.request()
                                .selectors(selectNestedClass(List.of(suite), gemm))
                                .build(),
                        listener);
        return listener.getSummary();
    }

    private static String failures(final TestExecutionSummary summary) {
        return summary.getFailures().stream()
                .map(failure -> failure.getTestIdentifier().getDisplayName() + ": " + failure.getException())
                .collect(Collectors.joining("\n"));
    }

    @Test
    void shouldPassTheContractOfTheProduct() {
        final TestExecutionSummary summary = run(Right.class);
        assertThat(failures(summary)).isEmpty();
        assertThat(summary.getTestsSucceededCount()).isGreaterThan(20);
    }

    @Test
    void shouldBeCaughtWithAPlantedFault() {
        assertThat(failures(run(Faulty.class))).contains("of the bound");
    }
}
