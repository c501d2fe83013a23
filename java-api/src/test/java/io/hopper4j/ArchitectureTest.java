package io.hopper4j;

import static com.tngtech.archunit.base.DescribedPredicate.describe;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAPackage;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAnyPackage;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.methods;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;

import com.tngtech.archunit.base.DescribedPredicate;
import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.domain.JavaMethod;
import com.tngtech.archunit.core.domain.JavaModifier;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.lang.ArchCondition;
import com.tngtech.archunit.lang.ConditionEvents;
import com.tngtech.archunit.lang.SimpleConditionEvent;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;

/** What may know what. */
final class ArchitectureTest {
    private static final String CUDA = "io.hopper4j.internal.cuda..";
    private static final String BINDINGS = "io.hopper4j.bindings..";
    private static final String REFERENCE = "io.hopper4j.reference..";
    private static final String INTERNAL = "io.hopper4j.internal..";

    private static final JavaClasses CLASSES =
            new ClassFileImporter().withImportOption(mainClasses()).importPackages("io.hopper4j");

    /**
     * What does not lie where this test lies, be that a folder or a jar; and not the JMH benchmarks, which a bundle has on its class path: JMH subclasses
     * them, and they measure the bindings.
     */
    private static ImportOption mainClasses() {
        final String tests = ArchitectureTest.class
                .getProtectionDomain()
                .getCodeSource()
                .getLocation()
                .getPath();
        return location -> !location.contains(tests) && !location.contains("/io/hopper4j/jmh/");
    }

    @Test
    void shouldKeepTheReferenceApartFromCuda() {
        noClasses()
                .that()
                .resideInAPackage(REFERENCE)
                .should()
                .dependOnClassesThat(resideInAnyPackage(CUDA, BINDINGS))
                .because("a defect that both share would not be seen")
                .check(CLASSES);
        noClasses()
                .that()
                .resideInAnyPackage(CUDA, BINDINGS)
                .should()
                .dependOnClassesThat(resideInAPackage(REFERENCE))
                .check(CLASSES);
    }

    @Test
    void shouldKeepBindingsBehindTheCudaImplementation() {
        noClasses()
                .that()
                .resideOutsideOfPackages(BINDINGS, INTERNAL)
                .should()
                .dependOnClassesThat(resideInAPackage(BINDINGS))
                .check(CLASSES);
    }

    @Test
    void shouldFreeMemoryByHandNearAsynchronousWork() {
        noClasses()
                .that()
                .resideInAPackage(CUDA)
                .should()
                .callMethod(Arena.class, "ofAuto")
                .orShould()
                .callMethod(Arena.class, "ofShared")
                .because("a collector must not free what the GPU may still read, and shared arenas are slow to close")
                .check(CLASSES);
    }

    @Test
    void shouldTakeNoStepAroundTheForeignFunctionApi() {
        noClasses()
                .that()
                .resideOutsideOfPackage(BINDINGS)
                .should()
                .callMethod(MemorySegment.class, "reinterpret", long.class)
                .orShould()
                .callMethod(System.class, "load", String.class)
                .orShould()
                .callMethod(System.class, "loadLibrary", String.class)
                .because("--enable-native-access=io.hopper4j.bindings is all that a program needs")
                .check(CLASSES);
    }

    @Test
    void shouldShowNoInternalsInPublicSignatures() {
        methods()
                .that()
                .areDeclaredInClassesThat(resideInAPackage("io.hopper4j..").and(PUBLIC_API))
                .and()
                .arePublic()
                .should(SHOW_NO_INTERNALS)
                .check(CLASSES);
    }

    private static final DescribedPredicate<JavaClass> PUBLIC_API = describe(
            "are public API",
            type -> type.getModifiers().contains(JavaModifier.PUBLIC)
                    && !resideInAnyPackage(INTERNAL, BINDINGS).test(type));

    private static final ArchCondition<JavaMethod> SHOW_NO_INTERNALS = new ArchCondition<>("show no internal types") {
        @Override
        public void check(final JavaMethod method, final ConditionEvents events) {
            method.getAllInvolvedRawTypes().stream()
                    .filter(resideInAnyPackage(INTERNAL, BINDINGS))
                    .forEach(type -> events.add(
                            SimpleConditionEvent.violated(method, method.getFullName() + " shows " + type.getName())));
        }
    };

    @Test
    void shouldMakeImplementationsFinal() {
        classes()
                .that()
                .resideInAPackage("io.hopper4j..")
                .and()
                .areNotInterfaces()
                .and()
                .doNotHaveModifier(JavaModifier.ABSTRACT)
                .and()
                .resideOutsideOfPackage(BINDINGS)
                .and()
                .areNotEnums()
                .and()
                .haveNameNotMatching(".*\\$\\d+")
                .should()
                .haveModifier(JavaModifier.FINAL)
                .check(CLASSES);
    }
}
