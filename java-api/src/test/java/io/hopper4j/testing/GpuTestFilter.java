package io.hopper4j.testing;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.junit.platform.engine.FilterResult;
import org.junit.platform.engine.TestDescriptor;
import org.junit.platform.engine.TestTag;
import org.junit.platform.engine.support.descriptor.MethodSource;
import org.junit.platform.launcher.PostDiscoveryFilter;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestPlan;

/**
 * Leaves out tests tagged {@code gpu} where there is no CUDA device, and says how many they were: a test that did
 * not run never counts as passed. JUnit finds this class through {@code META-INF/services}, whoever starts it: Maven,
 * an IDE or the bundle's console launcher.
 */
public final class GpuTestFilter implements PostDiscoveryFilter, TestExecutionListener {
    private static final TestTag GPU = TestTag.create("gpu");

    // Shared by the filter and the listener, two instances that JUnit makes; and discovery may run more than once.
    private static final Set<String> LEFT_OUT = ConcurrentHashMap.newKeySet();

    /** Made by JUnit. */
    public GpuTestFilter() {}

    /** {@return whether this machine has an NVIDIA driver with a device; a broken one is to fail the tests, not skip them} */
    public static boolean canRun() {
        return Files.exists(Path.of("/dev/nvidiactl"));
    }

    @Override
    public FilterResult apply(TestDescriptor test) {
        boolean isMethod =
                test.getSource().filter(MethodSource.class::isInstance).isPresent();
        if (canRun() || !isMethod || !test.getTags().contains(GPU)) {
            return FilterResult.included("needs no CUDA device, or there is one");
        }
        LEFT_OUT.add(test.getUniqueId().toString());
        return FilterResult.excluded("no CUDA device");
    }

    @Override
    public void testPlanExecutionFinished(TestPlan plan) {
        if (!LEFT_OUT.isEmpty()) {
            System.out.println("Tests tagged gpu: " + LEFT_OUT.size() + " test methods not run: no CUDA device");
        }
    }
}
