package io.hopper4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.ExpertLayerSpec;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.MoeMode;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import io.hopper4j.testing.Fuzz;
import io.hopper4j.testing.Tally;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.RecordComponent;
import java.math.BigInteger;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

/**
 * Every field of every spec takes values of all kinds. What a spec must refuse is stated here in other words than in the specs; the refusal is the documented
 * exception, and it names the field. A spec that is accepted is planned for, or every unmet need is named: by the reference, and by the native
 * library for described devices.
 */
@SuppressWarnings("NullAway") // rules look at fields only where none is null
final class SpecsFuzzTest {
    private static final BigInteger MOST_ELEMENTS = BigInteger.ONE.shiftLeft(60);
    private static final long[] NUMBERS = {
        -1, 0, 1, 2, 3, 4, 7, 8, 16, 17, 32, 63, 64, 127, 128, 129, 256, 512, 576, 1000, 1024, 1025, 7168, 65535, 65536,
        1L << 29, 1L << 30
    };
    private static final long[] LARGE = {
        Long.MIN_VALUE, Long.MAX_VALUE, 1L << 31, 1L << 32, 1L << 40, 1L << 58, 1L << 60, 1L << 61, 1L << 62
    };
    private static final float[] FLOATS = {
        0,
        -0f,
        1,
        1e-6f,
        -1,
        Float.NaN,
        Float.POSITIVE_INFINITY,
        Float.NEGATIVE_INFINITY,
        Float.MIN_VALUE,
        Float.MAX_VALUE
    };
    private static final ExpertGroupSpec GROUP =
            ExpertGroupSpec.of(2, 8, 2, 256, 16).withLatencyTokens(4);

    private final Tally tally = new Tally("specs");

    /** One thing that a spec must satisfy, and how a refusal begins where it does not. */
    private record Rule(String name, Predicate<Map<String, Object>> holds, List<String> beginnings) {}

    /** A spec that is right, and the rules of its record. */
    private static final class Subject {
        private final String operation;
        private final Record right;
        private final List<Rule> rules = new ArrayList<>();

        Subject(final String operation, final Record right) {
            this.operation = operation;
            this.right = right;
        }

        Subject rule(final String field, final Predicate<Map<String, Object>> holds) {
            rules.add(new Rule(field, holds, List.of(operation + ": " + field + ": got ")));
            return this;
        }

        Subject atLeast(final long least, final String... fields) {
            for (final String field : fields) {
                rule(field, values -> number(values, field) >= least);
            }
            return this;
        }

        Subject positive(final String field) {
            return rule(field, values -> (float) values.get(field) > 0 && Float.isFinite((float) values.get(field)));
        }

        /** The product of fields and of a number is below 2^60. A refusal names the tensor and the fields. */
        Subject size(final String tensor, final long times, final String... fields) {
            rules.add(new Rule(
                    tensor,
                    values -> Arrays.stream(fields)
                                    .map(field -> BigInteger.valueOf(number(values, field)))
                                    .reduce(BigInteger.valueOf(times), BigInteger::multiply)
                                    .compareTo(MOST_ELEMENTS)
                            < 0,
                    List.of(operation + ": " + tensor + ": got ")));
            return this;
        }
    }

    private static long number(final Map<String, Object> values, final String field) {
        return ((Number) values.get(field)).longValue();
    }

    private static int tokensOf(final Map<String, Object> values) {
        final ExpertGroupSpec group = (ExpertGroupSpec) values.get("group");
        return values.get("mode") == MoeMode.LATENCY ? group.latencyTokens() : group.maxTokens();
    }

    private static Subject exchange(final String operation, final Record right) {
        return new Subject(operation, right)
                .rule("layout", v -> v.get("mode") == MoeMode.THROUGHPUT || v.get("layout") == MoeLayout.EXPERT)
                .atLeast(0, "channel")
                .rule("channel", v -> number(v, "channel") < ((ExpertGroupSpec) v.get("group")).channels())
                .rule("mode", v -> tokensOf(v) > 0);
    }

    private static boolean isPowerOfTwoUpTo256(final long value) {
        return Arrays.asList(1L, 2L, 4L, 8L, 16L, 32L, 64L, 128L, 256L).contains(value);
    }

    private static List<Subject> subjects() {
        return List.of(
                new Subject("gemm", GemmSpec.of(64, 128, 256).withQuantizedOut(ScaleKind.POWER_OF_TWO))
                        .rule(
                                "outScaleKind",
                                v -> v.get("outScaleKind") == ScaleKind.F32 || v.get("outDType") == DType.F8_E4M3)
                        .atLeast(0, "maxM", "smBudget")
                        .atLeast(1, "n", "k")
                        .size("A [maxM,k]", 1, "maxM", "k")
                        .size("B [n,k]", 1, "n", "k")
                        .size("D [maxM,n]", 1, "maxM", "n"),
                new Subject("gemm_bf16", Bf16GemmSpec.batched(2, 64, 128, 256))
                        .atLeast(0, "batch", "maxM", "smBudget")
                        .atLeast(1, "n", "k")
                        .size("A [batch,maxM,k]", 1, "batch", "maxM", "k")
                        .size("B [batch,n,k]", 1, "batch", "n", "k")
                        .size("D [batch,maxM,n]", 1, "batch", "maxM", "n"),
                new Subject("gemm_bf16_grouped", Bf16GroupedGemmSpec.of(2, 64, 128, 256))
                        .atLeast(0, "maxM", "smBudget")
                        .atLeast(1, "groups", "n", "k")
                        .size("A [maxM,k]", 1, "maxM", "k")
                        .size("B [groups,n,k]", 1, "groups", "n", "k")
                        .size("D [maxM,n]", 1, "maxM", "n"),
                new Subject("gemm_grouped", GroupedGemmSpec.of(2, 64, 128, 256))
                        .atLeast(0, "maxM", "smBudget")
                        .atLeast(1, "groups", "n", "k")
                        .size("A [maxM,k]", 1, "maxM", "k")
                        .size("B [groups,n,k]", 1, "groups", "n", "k")
                        .size("D [maxM,n]", 1, "maxM", "n"),
                new Subject("gemm_masked", MaskedGemmSpec.of(2, 64, 128, 256))
                        .atLeast(0, "maxRows", "smBudget", "expectedRows")
                        .atLeast(1, "groups", "n", "k")
                        .rule("expectedRows", v -> number(v, "expectedRows") <= number(v, "maxRows"))
                        .size("A [groups,maxRows,k]", 1, "groups", "maxRows", "k")
                        .size("B [groups,n,k]", 1, "groups", "n", "k")
                        .size("D [groups,maxRows,n]", 1, "groups", "maxRows", "n"),
                new Subject("gemm_k_grouped", KGroupedGemmSpec.of(2, 64, 128, 256))
                        .atLeast(0, "maxK", "smBudget")
                        .atLeast(1, "groups", "m", "n")
                        .size("A [m,maxK]", 1, "m", "maxK")
                        .size("B [n,maxK]", 1, "n", "maxK")
                        .size("D [groups,m,n]", 1, "groups", "m", "n"),
                new Subject("quantize", QuantizeSpec.of(64, 256, DType.BF16, Scaling.ACTIVATION_1X128))
                        .atLeast(0, "maxRows", "smBudget")
                        .atLeast(1, "cols")
                        .size("in [maxRows,cols]", 1, "maxRows", "cols"),
                new Subject("dequantize", DequantizeSpec.of(64, 256, Scaling.WEIGHT_128X128, DType.F32))
                        .atLeast(0, "maxRows", "smBudget")
                        .atLeast(1, "cols")
                        .size("out [maxRows,cols]", 1, "maxRows", "cols"),
                new Subject("swiglu_quantize", SwigluQuantizeSpec.masked(4, 64, 256))
                        .atLeast(0, "maxRows", "smBudget")
                        .atLeast(1, "groups", "cols")
                        .rule("groups", v -> (boolean) v.get("masked") || number(v, "groups") == 1)
                        .size("in [groups*maxRows,2*cols]", 2, "groups", "maxRows", "cols"),
                new Subject("rmsnorm_quantize", RmsNormQuantizeSpec.of(64, 256))
                        .atLeast(0, "maxRows", "smBudget")
                        .atLeast(1, "cols")
                        .positive("eps")
                        .size("in [maxRows,cols]", 1, "maxRows", "cols"),
                new Subject("transpose_quantize", TransposeQuantizeSpec.of(64, 256))
                        .atLeast(0, "maxRows", "smBudget")
                        .atLeast(1, "cols")
                        .size("in [maxRows,cols]", 1, "maxRows", "cols"),
                new Subject("mla_decode", MlaDecodeSpec.of(16, 64, 2, 256, 8).withSQ(2))
                        .atLeast(0, "window", "smBudget", "maxBatch", "maxLength")
                        .atLeast(1, "heads", "sQ", "pageSize", "pages")
                        .positive("softmaxScale")
                        .size("q [maxBatch,sQ,heads,576]", 576, "maxBatch", "sQ", "heads")
                        .size("cache [pages,pageSize,576]", 576, "pages", "pageSize"),
                new Subject("mla_merge", MlaMergeSpec.of(DType.BF16, 16, 2, 4))
                        .atLeast(0, "smBudget", "maxBatch")
                        .atLeast(1, "heads", "sQ")
                        .size("out [maxBatch,sQ,heads,512]", 512, "maxBatch", "sQ", "heads"),
                new Subject("mla_cache_write", MlaCacheWriteSpec.of(MlaDecodeSpec.of(16, 64, 2, 256, 8)))
                        .atLeast(0, "smBudget", "maxTokens", "maxBatch", "maxLength")
                        .atLeast(1, "pageSize", "requestTokens", "pages")
                        .positive("eps")
                        .size("in [maxTokens,576]", 576, "maxTokens")
                        .rule(
                                "cache [pages,pageSize,token]",
                                v -> BigInteger.valueOf(number(v, "pages"))
                                                .multiply(BigInteger.valueOf(number(v, "pageSize")))
                                                .multiply(BigInteger.valueOf(
                                                        ((MlaCacheFormat) v.get("format")).tokenSize()))
                                                .compareTo(MOST_ELEMENTS)
                                        < 0),
                new Subject("moe_gate", GateSpec.of(16, 32, 4).withGroups(4, 2))
                        .atLeast(0, "maxTokens", "smBudget")
                        .atLeast(1, "experts", "groups", "keptGroups", "topK")
                        .rule("groups", v -> number(v, "groups") > 0 && number(v, "experts") % number(v, "groups") == 0)
                        .rule("keptGroups", v -> number(v, "keptGroups") <= number(v, "groups"))
                        .rule(
                                "topK",
                                v -> number(v, "groups") > 0
                                        && number(v, "topK")
                                                <= number(v, "keptGroups")
                                                        * (number(v, "experts") / number(v, "groups")))
                        .positive("scale")
                        .size("logits [maxTokens,experts]", 1, "maxTokens", "experts"),
                new Subject("moe_bias_update", BiasUpdateSpec.of(32, 0.01f))
                        .atLeast(1, "experts")
                        .atLeast(0, "smBudget")
                        .rule("step", v -> (float) v.get("step") >= 0 && Float.isFinite((float) v.get("step"))),
                new Subject(
                                "moe_permute",
                                PermuteSpec.of(16, 256, 8, 2, DType.BF16).withAlignment(4))
                        .atLeast(0, "maxTokens", "smBudget")
                        .atLeast(1, "hidden", "experts", "topK", "alignment")
                        .size("ids [maxTokens,topK]", 1, "maxTokens", "topK")
                        .rule("out [rows,hidden]", SpecsFuzzTest::permutedRowsFit),
                new Subject("moe_unpermute", UnpermuteSpec.of(16, 64, 256, 2))
                        .atLeast(0, "maxTokens", "rows", "smBudget")
                        .atLeast(1, "hidden", "topK")
                        .size("x [rows,hidden]", 1, "rows", "hidden")
                        .size("out [maxTokens,hidden]", 1, "maxTokens", "hidden"),
                exchange("moe_dispatch", DispatchSpec.of(GROUP, DType.BF16))
                        .rule(
                                "inDType",
                                v -> v.get("inDType") == DType.BF16
                                        || v.get("inDType") == ((ExpertGroupSpec) v.get("group")).rowDType())
                        .rule("alignment", v -> isPowerOfTwoUpTo256(number(v, "alignment")))
                        .rule("reuse", v -> !(boolean) v.get("reuse") || v.get("layout") == MoeLayout.RANK),
                exchange("moe_combine", CombineSpec.of(DispatchSpec.of(GROUP, DType.BF16))),
                new Subject("group", GROUP)
                        .atLeast(1, "ranks", "experts", "topK", "channels")
                        .atLeast(0, "maxTokens", "latencyTokens", "smBudget")
                        .rule("hidden", v -> number(v, "hidden") >= 8 && number(v, "hidden") % 8 == 0)
                        .rule("rowDType", v -> v.get("rowDType") == DType.BF16 || v.get("rowDType") == DType.F8_E4M3)
                        .rule(
                                "deadline",
                                v -> !((Duration) v.get("deadline")).isNegative()
                                        && !((Duration) v.get("deadline")).isZero()
                                        && ((Duration) v.get("deadline")).toHours() <= 1
                                        && ((Duration) v.get("deadline"))
                                                        .minusHours(1)
                                                        .compareTo(Duration.ZERO)
                                                <= 0)
                        .size("rows [ranks*maxTokens,hidden]", 1, "ranks", "maxTokens", "hidden"),
                new Subject("expert_layer", ExpertLayerSpec.of(16, 256, 128, 8, 2))
                        .atLeast(0, "maxTokens", "smBudget")
                        .atLeast(1, "hidden", "intermediate", "experts", "topK"));
    }

    private static boolean permutedRowsFit(final Map<String, Object> v) {
        final BigInteger ids =
                BigInteger.valueOf(number(v, "maxTokens")).multiply(BigInteger.valueOf(number(v, "topK")));
        final BigInteger padded = ids.min(BigInteger.valueOf(number(v, "experts")))
                .multiply(BigInteger.valueOf(number(v, "alignment") - 1));
        return ids.add(padded).multiply(BigInteger.valueOf(number(v, "hidden"))).compareTo(MOST_ELEMENTS) < 0;
    }

    // ---- values ----

    /** A value of a field's type; null now and then where the type has it. */
    private static @Nullable Object value(final Class<?> type, final SplittableRandom random) {
        final long number = NUMBERS[random.nextInt(NUMBERS.length)];
        if (type == int.class) {
            return random.nextInt(8) == 0
                    ? (random.nextBoolean() ? Integer.MAX_VALUE : Integer.MIN_VALUE)
                    : (int) number;
        }
        if (type == long.class) {
            return random.nextInt(4) == 0 ? LARGE[random.nextInt(LARGE.length)] : number;
        }
        if (type == float.class) {
            return FLOATS[random.nextInt(FLOATS.length)];
        }
        if (type == boolean.class) {
            return random.nextBoolean();
        }
        if (random.nextInt(12) == 0) {
            return null;
        }
        if (type.isEnum()) {
            return type.getEnumConstants()[random.nextInt(type.getEnumConstants().length)];
        }
        final List<?> values;
        if (type == Scaling.class) {
            values = List.of(
                    Scaling.ACTIVATION_1X128,
                    Scaling.WEIGHT_128X128,
                    new Scaling.PerTensor(),
                    new Scaling.Block(2, 64));
        } else if (type == Duration.class) {
            values = List.of(
                    Duration.ZERO,
                    Duration.ofNanos(-1),
                    Duration.ofNanos(1),
                    Duration.ofHours(1),
                    Duration.ofHours(1).plusNanos(1));
        } else if (type == ExpertGroupSpec.class) {
            values = List.of(
                    GROUP,
                    GROUP.withRows(DType.BF16),
                    GROUP.withChannels(4),
                    GROUP.withLatencyTokens(0),
                    ExpertGroupSpec.of(1, 8, 2, 256, 0));
        } else {
            throw new AssertionError("no values of " + type);
        }
        return values.get(random.nextInt(values.size()));
    }

    private static Map<String, Object> fields(final Record spec) {
        final Map<String, Object> fields = new LinkedHashMap<>();
        for (final RecordComponent field : spec.getClass().getRecordComponents()) {
            try {
                fields.put(field.getName(), field.getAccessor().invoke(spec));
            } catch (final ReflectiveOperationException e) {
                throw new LinkageError(e.toString(), e);
            }
        }
        return fields;
    }

    private static Record make(final Class<? extends Record> type, final Map<String, Object> fields) {
        final Class<?>[] types = Arrays.stream(type.getRecordComponents())
                .map(RecordComponent::getType)
                .toArray(Class<?>[]::new);
        try {
            return type.getConstructor(types).newInstance(fields.values().toArray());
        } catch (final InvocationTargetException e) {
            if (e.getCause() instanceof final RuntimeException refusal) {
                throw refusal;
            }
            throw new AssertionError(e);
        } catch (final ReflectiveOperationException e) {
            throw new LinkageError(e.toString(), e);
        }
    }

    // ---- judging ----

    private void round(final Subject subject, final SplittableRandom random) {
        final Map<String, Object> fields = fields(subject.right);
        final RecordComponent[] components = subject.right.getClass().getRecordComponents();
        for (int changes = random.nextInt(1, 4); changes > 0; changes--) {
            final RecordComponent field = components[random.nextInt(components.length)];
            fields.put(field.getName(), value(field.getType(), random));
        }
        try {
            judge(subject, fields, random);
        } catch (final RuntimeException | AssertionError e) {
            throw new AssertionError(subject.right.getClass().getSimpleName() + fields, e);
        }
    }

    private void judge(final Subject subject, final Map<String, Object> fields, final SplittableRandom random) {
        final List<String> nulls = fields.keySet().stream()
                .filter(field -> fields.get(field) == null)
                .toList();
        // The rules are about values that are there.
        final List<Rule> broken = nulls.isEmpty()
                ? subject.rules.stream()
                        .filter(rule -> !rule.holds.test(fields))
                        .toList()
                : List.of();
        final Record spec;
        try {
            spec = make(subject.right.getClass(), fields);
        } catch (final NullPointerException e) {
            if (!nulls.contains(e.getMessage())) {
                throw new AssertionError("need one of " + nulls + " named", e);
            }
            tally.addRefused("null");
            return;
        } catch (final IllegalArgumentException e) {
            final String message = String.valueOf(e.getMessage());
            final boolean named = nulls.isEmpty()
                    ? broken.stream().flatMap(rule -> rule.beginnings.stream()).anyMatch(message::startsWith)
                    : message.startsWith(subject.operation + ": ");
            if (!named) {
                throw new AssertionError("need a refusal for " + names(broken), e);
            }
            tally.addRefused("argument");
            return;
        }
        if (!broken.isEmpty() || !nulls.isEmpty()) {
            throw new AssertionError("got through, need it refused for " + names(broken) + nulls);
        }
        if (!fields(spec).equals(fields)) {
            throw new AssertionError("got " + spec);
        }
        if (spec instanceof final OpSpec operation) {
            plan(operation, random);
        }
        tally.addRight();
    }

    private static String names(final List<Rule> rules) {
        return rules.stream().map(Rule::name).collect(Collectors.joining(", "));
    }

    /** Planned, or refused with reasons that begin with the operation; the same by every way to ask. */
    private void plan(final OpSpec spec, final SplittableRandom random) {
        try (Kernels<HostTensor> kernels = Kernels.reference()) {
            final Support support = kernels.support(spec);
            requireReasons(spec, support);
            requirePlan(kernels, spec, support);
            if (NATIVE && random.nextInt(8) == 0) {
                final List<DeviceInfo> devices = DeviceInfo.described();
                final DeviceInfo device = devices.get(random.nextInt(devices.size()));
                final Support onDevice = Kernels.support(device, spec);
                requireReasons(spec, onDevice);
                if (onDevice.isSupported() && !support.isSupported()) {
                    throw new AssertionError(device + " serves what nothing serves: " + support);
                }
                tally.addRight();
                if (!onDevice.isSupported()) {
                    tally.addRefused(support.isSupported() ? "on a device" : "by every kernel");
                }
            }
        }
    }

    private static final boolean NATIVE = System.getProperty("hopper4j.library") != null;

    private static void requireReasons(final OpSpec spec, final Support support) {
        if (support instanceof final Support.Unsupported unsupported) {
            for (final Support.Reason reason : unsupported.reasons()) {
                if (!reason.name().startsWith(spec.operation() + ": ")
                        || reason.needed().isEmpty()) {
                    throw new AssertionError("got the reason " + reason);
                }
            }
        }
    }

    private void requirePlan(final Kernels<HostTensor> kernels, final OpSpec spec, final Support support) {
        if (spec instanceof DispatchSpec || spec instanceof CombineSpec) {
            return; // planned by a group
        }
        try (Plan plan = (Plan) Kernels.class.getMethod("plan", spec.getClass()).invoke(kernels, spec)) {
            if (!support.isSupported() || !plan.spec().equals(spec)) {
                throw new AssertionError("got a plan of " + plan.spec() + ", need " + support);
            }
        } catch (final InvocationTargetException e) {
            if (!(e.getCause() instanceof final UnsupportedKernelException refusal)
                    || !new Support.Unsupported(refusal.reasons()).equals(support)) {
                throw new AssertionError("need " + support, e.getCause());
            }
            tally.addRefused("unsupported");
        } catch (final ReflectiveOperationException e) {
            throw new LinkageError(e.toString(), e);
        }
    }

    // ---- the test ----

    /** No spec is left out: those that {@link OpSpec} permits, and those that are no operation of their own. */
    @Test
    void shouldKnowEverySpec() {
        final List<Class<?>> known = new ArrayList<>();
        subjects().forEach(subject -> known.add(subject.right.getClass()));
        assertThat(known).contains(OpSpec.class.getPermittedSubclasses());
    }

    @Test
    void shouldPlanOrRefuseEverySpec() {
        final long calls = Fuzz.times(60_000);
        Tally.quietly(() -> rounds(calls));
        tally.print();
        for (final String kind : List.of("null", "argument", "unsupported")) {
            assertThat(tally.refused(kind)).as("refused: " + kind).isPositive();
        }
        assertThat(tally.right()).as("right").isGreaterThan(calls / 4);
    }

    private void rounds(final long calls) {
        final List<Subject> subjects = subjects();
        for (long round = 0; tally.right() + tally.refused() < calls; round++) {
            final SplittableRandom random = Fuzz.random(round);
            try {
                round(subjects.get(random.nextInt(subjects.size())), random);
            } catch (final AssertionError e) {
                throw new AssertionError("hopper4j.fuzz.seed=" + (Fuzz.seed() + round), e);
            }
        }
    }

    /** A rule that the spec does not keep, one that it keeps for another field, and one that it does not have. */
    @Test
    void shouldCatchPlantedFaults() {
        final Map<String, Object> fields = fields(GemmSpec.of(64, 128, 256));
        final SplittableRandom random = new SplittableRandom(1);
        assertThatExceptionOfType(AssertionError.class)
                .isThrownBy(() -> judge(
                        new Subject("gemm", GemmSpec.of(64, 128, 256)).rule("n", v -> number(v, "n") > 128),
                        fields,
                        random))
                .withMessage("got through, need it refused for n[]");
        fields.put("n", 0L);
        assertThatExceptionOfType(AssertionError.class)
                .isThrownBy(() -> judge(
                        new Subject("gemm", GemmSpec.of(64, 128, 256)).rule("k", v -> number(v, "n") > 0),
                        fields,
                        random));
        assertThatExceptionOfType(AssertionError.class)
                .isThrownBy(() -> judge(new Subject("gemm", GemmSpec.of(64, 128, 256)), fields, random));
    }
}
