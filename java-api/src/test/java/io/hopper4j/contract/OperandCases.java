package io.hopper4j.contract;

import static io.hopper4j.contract.Operand.columns;
import static io.hopper4j.contract.Operand.packed;
import static io.hopper4j.contract.Operand.rows;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Launch;
import io.hopper4j.Plan;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.Tensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaCacheWriteOperands;
import io.hopper4j.attention.MlaCacheWritePlan;
import io.hopper4j.attention.MlaCacheWriteSpec;
import io.hopper4j.attention.MlaDecodeOperands;
import io.hopper4j.attention.MlaDecodePlan;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaMergePlan;
import io.hopper4j.attention.MlaMergeSpec;
import io.hopper4j.attention.MlaResult;
import io.hopper4j.contract.Operand.Kind;
import io.hopper4j.contract.Operand.Presence;
import io.hopper4j.gemm.Bf16GemmPlan;
import io.hopper4j.gemm.Bf16GemmSpec;
import io.hopper4j.gemm.Bf16GroupedGemmPlan;
import io.hopper4j.gemm.Bf16GroupedGemmSpec;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GroupedGemmPlan;
import io.hopper4j.gemm.GroupedGemmSpec;
import io.hopper4j.gemm.KGroupedGemmPlan;
import io.hopper4j.gemm.KGroupedGemmSpec;
import io.hopper4j.gemm.MaskedGemmPlan;
import io.hopper4j.gemm.MaskedGemmSpec;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdatePlan;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.CombineOperands;
import io.hopper4j.moe.CombinePlan;
import io.hopper4j.moe.CombineSpec;
import io.hopper4j.moe.DispatchOperands;
import io.hopper4j.moe.DispatchPlan;
import io.hopper4j.moe.DispatchSpec;
import io.hopper4j.moe.ExpertGroup;
import io.hopper4j.moe.ExpertGroupSpec;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.MoeLayout;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermutePlan;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.Rendezvous;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermutePlan;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizePlan;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizePlan;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizePlan;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.quant.SwigluQuantizePlan;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizePlan;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.Function;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** Every operation that kernels plan for, each with small random sizes and the operands that its documentation asks for. */
@SuppressWarnings({"MustBeClosedChecker", "NullAway"
}) // plans and launches go to the caller; null operands are the point
final class OperandCases<T extends Tensor> {
    private final Backend<T> backend;
    private final SplittableRandom random;

    OperandCases(final Backend<T> backend, final SplittableRandom random) {
        this.backend = backend;
        this.random = random;
    }

    /** {@return one case, at random} */
    OperandCase<T> any() {
        final List<Supplier<OperandCase<T>>> all = List.of(
                this::gemm,
                this::quantizedGemm,
                this::bf16Gemm,
                this::bf16Grouped,
                this::grouped,
                this::masked,
                this::kGrouped,
                this::quantize,
                this::dequantize,
                this::swiglu,
                this::norm,
                this::transpose,
                this::gate,
                this::biasUpdate,
                this::permute,
                this::unpermute,
                this::dispatch,
                this::combine,
                this::merge,
                this::schedule,
                this::decode,
                this::cacheWrite);
        return all.get(random.nextInt(all.size())).get();
    }

    private Kernels<T> kernels() {
        return backend.kernels();
    }

    private OperandCase<T> made(
            final String operation,
            final Plan plan,
            final List<Operand> operands,
            final Function<Map<String, @Nullable T>, Launch> bind) {
        final List<Operand> all = new ArrayList<>(operands);
        if (plan.workspaceBytes() > 0) {
            all.add(Operand.scratch("workspace", plan.workspaceBytes()));
        }
        return new OperandCase<>(operation, plan, null, all, bind);
    }

    // ---- elements and pieces ----

    private long below(final int bound) {
        return random.nextLong(bound) + 1;
    }

    private float[] normal(final long... dims) {
        long count = 1;
        for (final long size : dims) {
            count *= size;
        }
        final float[] values = new float[(int) count];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    /** Whole numbers {@code from <= n < to}. */
    private float[] numbers(final long count, final int from, final int to) {
        final float[] values = new float[(int) count];
        for (int i = 0; i < values.length; i++) {
            values[i] = random.nextInt(from, to);
        }
        return values;
    }

    /** Ends of so many groups of consecutive rows, each a multiple of {@code unit}. */
    private float[] ends(final long groups, final long rows, final int unit) {
        final float[] values = new float[(int) groups];
        long end = 0;
        for (int i = 0; i < values.length; i++) {
            end += random.nextLong((rows - end) / unit + 1) * unit;
            values[i] = end;
        }
        return values;
    }

    private float[] scales(final long... dims) {
        final float[] values = normal(dims);
        for (int i = 0; i < values.length; i++) {
            values[i] = Math.abs(values[i]) + 0.01f;
        }
        return values;
    }

    private static long blocks(final long size) {
        return Math.ceilDiv(size, 128);
    }

    /** Values and scales of 1x128 blocks; {@code given} false: written. */
    private List<Operand> activation(final String name, final boolean given, final long... dims) {
        final long[] scaleDims = dims.clone();
        scaleDims[dims.length - 1] = blocks(dims[dims.length - 1]);
        return List.of(
                rows(name + ".values", DType.F8_E4M3, given ? normal(dims) : null, dims),
                columns(name + ".scales", given ? scales(scaleDims) : null, scaleDims));
    }

    /** Values and scales of 128x128 blocks. */
    private List<Operand> weight(final String name, final boolean given, final long... dims) {
        final long[] scaleDims = dims.clone();
        scaleDims[dims.length - 2] = blocks(dims[dims.length - 2]);
        scaleDims[dims.length - 1] = blocks(dims[dims.length - 1]);
        return List.of(
                rows(name + ".values", DType.F8_E4M3, given ? normal(dims) : null, dims),
                Operand.of(Kind.ROWS, name + ".scales", DType.F32, 1, given ? scales(scaleDims) : null, scaleDims));
    }

    /** Operands, and lists of them, one after the other. */
    private static List<Operand> listOf(final Object... parts) {
        final List<Operand> all = new ArrayList<>();
        for (final Object part : parts) {
            if (part instanceof final List<?> list) {
                list.forEach(each -> all.add((Operand) each));
            } else {
                all.add((Operand) part);
            }
        }
        return all;
    }

    private @Nullable Scaled<T> scaled(final Map<String, @Nullable T> x, final String name, final Scaling scaling) {
        final T values = x.get(name + ".values");
        final T scales = x.get(name + ".scales");
        return values == null && scales == null ? null : new Scaled<>(values, scales, scaling);
    }

    private @Nullable Scaled<T> activation(final Map<String, @Nullable T> x, final String name) {
        return scaled(x, name, Scaling.ACTIVATION_1X128);
    }

    private @Nullable Scaled<T> weight(final Map<String, @Nullable T> x, final String name) {
        return scaled(x, name, Scaling.WEIGHT_128X128);
    }

    /** An operand that is there if the spec says so, and must not be there otherwise. */
    private static Operand wanted(final boolean wanted, final Operand operand) {
        return operand.with(wanted ? Presence.NEEDED : Presence.FORBIDDEN);
    }

    private Operand maybe(final Operand operand) {
        return operand.with(Presence.OPTIONAL);
    }

    private DType either(final DType one, final DType other) {
        return random.nextBoolean() ? one : other;
    }

    // ---- products ----

    private OperandCase<T> gemm() {
        final long m = below(9);
        final long n = 8 * below(20);
        final long k = 16 * below(20);
        final DType type = either(DType.BF16, DType.F32);
        final boolean add = random.nextBoolean();
        final GemmPlan<T> plan =
                kernels().plan(GemmSpec.of(m, n, k).withOut(type).withAccumulate(add));
        return made(
                "gemm",
                plan,
                listOf(
                        activation("a", true, m, k),
                        weight("b", true, n, k),
                        wanted(add, rows("c", type, normal(m, n), m, n)),
                        rows("out", type, null, m, n)),
                x -> plan.bind(activation(x, "a"), weight(x, "b"), x.get("c"), x.get("out"), x.get("workspace")));
    }

    private OperandCase<T> quantizedGemm() {
        final long m = below(9);
        final long n = 16 * below(10);
        final long k = 16 * below(20);
        final GemmPlan<T> plan = kernels().plan(GemmSpec.of(m, n, k).withQuantizedOut(ScaleKind.POWER_OF_TWO));
        return made(
                "gemm",
                plan,
                listOf(activation("a", true, m, k), weight("b", true, n, k), activation("out", false, m, n)),
                x -> plan.bind(activation(x, "a"), weight(x, "b"), activation(x, "out"), x.get("workspace")));
    }

    private OperandCase<T> bf16Gemm() {
        final long batch = 1 + below(2);
        final long m = below(9);
        final long n = 8 * below(10);
        final long k = 8 * below(20);
        final DType type = either(DType.BF16, DType.F32);
        final boolean add = random.nextBoolean();
        final Bf16GemmPlan<T> plan = kernels()
                .plan(Bf16GemmSpec.batched(batch, m, n, k).withOut(type).withAccumulate(add));
        return made(
                "gemm_bf16",
                plan,
                listOf(
                        rows("a", DType.BF16, normal(batch, m, k), batch, m, k),
                        rows("b", DType.BF16, normal(batch, n, k), batch, n, k),
                        wanted(add, rows("c", type, normal(batch, m, n), batch, m, n)),
                        rows("out", type, null, batch, m, n)),
                x -> plan.bind(x.get("a"), x.get("b"), x.get("c"), x.get("out"), x.get("workspace")));
    }

    private OperandCase<T> bf16Grouped() {
        final long groups = 1 + below(3);
        final long m = below(20);
        final long n = 8 * below(10);
        final long k = 8 * below(20);
        final Bf16GroupedGemmPlan<T> plan = kernels().plan(Bf16GroupedGemmSpec.of(groups, m, n, k));
        return made(
                "gemm_bf16_grouped",
                plan,
                listOf(
                        rows("a", DType.BF16, normal(m, k), m, k),
                        rows("b", DType.BF16, normal(groups, n, k), groups, n, k),
                        packed("groupEnds", DType.I32, ends(groups, m, 1), groups),
                        wanted(false, rows("c", DType.BF16, normal(m, n), m, n)),
                        rows("out", DType.BF16, null, m, n)),
                x -> plan.bind(
                        x.get("a"), x.get("b"), x.get("groupEnds"), x.get("c"), x.get("out"), x.get("workspace")));
    }

    private OperandCase<T> grouped() {
        final long groups = below(4);
        final long m = below(20);
        final long n = 8 * below(10);
        final long k = 16 * below(20);
        final DType type = either(DType.I32, DType.I64);
        final GroupedGemmPlan<T> plan =
                kernels().plan(GroupedGemmSpec.of(groups, m, n, k).withEnds(type));
        return made(
                "gemm_grouped",
                plan,
                listOf(
                        activation("a", true, m, k),
                        weight("b", true, groups, n, k),
                        packed("groupEnds", type, ends(groups, m, 1), groups),
                        rows("out", DType.BF16, null, m, n)),
                x -> plan.bind(
                        activation(x, "a"), weight(x, "b"), x.get("groupEnds"), x.get("out"), x.get("workspace")));
    }

    private OperandCase<T> masked() {
        final long groups = below(4);
        final long m = below(9);
        final long n = 8 * below(10);
        final long k = 16 * below(20);
        final MaskedGemmPlan<T> plan = kernels().plan(MaskedGemmSpec.of(groups, m, n, k));
        return made(
                "gemm_masked",
                plan,
                listOf(
                        activation("a", true, groups, m, k),
                        weight("b", true, groups, n, k),
                        packed("counts", DType.I32, numbers(groups, 0, (int) m + 1), groups),
                        rows("out", DType.BF16, null, groups, m, n)),
                x -> plan.bind(activation(x, "a"), weight(x, "b"), x.get("counts"), x.get("out"), x.get("workspace")));
    }

    private OperandCase<T> kGrouped() {
        final long groups = below(3);
        final long m = below(20);
        final long n = 8 * below(4);
        final long k = 128 * below(4);
        final boolean add = random.nextBoolean();
        final KGroupedGemmPlan<T> plan =
                kernels().plan(KGroupedGemmSpec.of(groups, m, n, k).withAccumulate(add));
        return made(
                "gemm_k_grouped",
                plan,
                listOf(
                        activation("a", true, m, k),
                        activation("b", true, n, k),
                        packed("groupEnds", DType.I32, ends(groups, k, 128), groups),
                        wanted(add, rows("c", DType.F32, normal(groups, m, n), groups, m, n)),
                        rows("out", DType.F32, null, groups, m, n)),
                x -> plan.bind(
                        activation(x, "a"),
                        activation(x, "b"),
                        x.get("groupEnds"),
                        x.get("c"),
                        x.get("out"),
                        x.get("workspace")));
    }

    // ---- quantisation ----

    private OperandCase<T> quantize() {
        final long m = below(20);
        final long k = 8 * below(40);
        final boolean blocks = random.nextBoolean();
        final DType type = either(either(DType.F32, DType.F16), DType.BF16);
        final Scaling scaling = blocks ? Scaling.WEIGHT_128X128 : Scaling.ACTIVATION_1X128;
        final QuantizePlan<T> plan = kernels().plan(QuantizeSpec.of(m, k, type, scaling));
        return made(
                "quantize",
                plan,
                listOf(
                        rows("in", type, normal(m, k), m, k).with(Kind.ROWS, 8),
                        blocks ? weight("out", false, m, k) : activation("out", false, m, k)),
                x -> plan.bind(x.get("in"), scaled(x, "out", scaling)));
    }

    private OperandCase<T> dequantize() {
        final long m = below(20);
        final long k = 8 * below(40);
        final boolean blocks = random.nextBoolean();
        final DType type = either(either(DType.F32, DType.F16), DType.BF16);
        final Scaling scaling = blocks ? Scaling.WEIGHT_128X128 : Scaling.ACTIVATION_1X128;
        final DequantizePlan<T> plan = kernels().plan(DequantizeSpec.of(m, k, scaling, type));
        return made(
                "dequantize",
                plan,
                listOf(
                        blocks ? weight("in", true, m, k) : activation("in", true, m, k),
                        rows("out", type, null, m, k).with(Kind.ROWS, 8)),
                x -> plan.bind(scaled(x, "in", scaling), x.get("out")));
    }

    private OperandCase<T> swiglu() {
        final int groups = (int) below(3);
        final long m = below(9);
        final long k = 8 * below(40);
        final boolean masked = groups > 1 || random.nextBoolean();
        final boolean weighted = random.nextBoolean();
        final SwigluQuantizeSpec spec = masked ? SwigluQuantizeSpec.masked(groups, m, k) : SwigluQuantizeSpec.of(m, k);
        final SwigluQuantizePlan<T> plan = kernels().plan(spec.withWeights(weighted));
        final long all = groups * m;
        return made(
                "swiglu_quantize",
                plan,
                listOf(
                        rows("in", DType.BF16, normal(all, 2 * k), all, 2 * k),
                        wanted(weighted, packed("weights", DType.F32, normal(all), all)),
                        wanted(masked, packed("rowCounts", DType.I32, numbers(groups, 0, (int) m + 1), groups)),
                        activation("out", false, all, k)),
                x -> plan.bind(x.get("in"), x.get("weights"), x.get("rowCounts"), activation(x, "out")));
    }

    private OperandCase<T> norm() {
        final long m = below(9);
        final long k = 8 * below(40);
        final boolean residual = random.nextBoolean();
        final boolean normalized = random.nextBoolean();
        final DType type = either(DType.F32, DType.BF16);
        final RmsNormQuantizePlan<T> plan = kernels()
                .plan(RmsNormQuantizeSpec.of(m, k)
                        .withResidual(residual)
                        .withNormalized(normalized)
                        .withWeight(type));
        return made(
                "rmsnorm_quantize",
                plan,
                listOf(
                        rows("in", DType.BF16, normal(m, k), m, k),
                        wanted(
                                residual,
                                rows("residual", DType.BF16, normal(m, k), m, k).updated()),
                        packed("weight", type, normal(k), k),
                        activation("out", false, m, k),
                        wanted(normalized, rows("normalized", DType.BF16, null, m, k))),
                x -> plan.bind(
                        x.get("in"), x.get("residual"), x.get("weight"), activation(x, "out"), x.get("normalized")));
    }

    private OperandCase<T> transpose() {
        final long m = below(200);
        final long k = 8 * below(8);
        final TransposeQuantizePlan<T> plan = kernels().plan(TransposeQuantizeSpec.of(m, k));
        return made(
                "transpose_quantize",
                plan,
                listOf(rows("in", DType.BF16, normal(m, k), m, k), activation("out", false, k, m)),
                x -> plan.bind(x.get("in"), activation(x, "out")));
    }

    // ---- experts ----

    private OperandCase<T> gate() {
        final long m = below(9);
        final int experts = 8 * (int) below(4);
        final int topK = (int) below(4);
        final DType type = either(DType.F32, DType.BF16);
        final GatePlan<T> plan =
                kernels().plan(GateSpec.of(m, experts, topK).withGroups(4, 2).withLogits(type));
        return made(
                "moe_gate",
                plan,
                listOf(
                        rows("logits", type, normal(m, experts), m, experts).with(Kind.ROWS, 1),
                        maybe(packed("bias", DType.F32, normal(experts), experts)),
                        maybe(packed("disabled", DType.U8, new float[experts], experts)),
                        packed("ids", DType.I32, null, m, topK),
                        packed("weights", DType.F32, null, m, topK),
                        maybe(packed("counts", DType.I32, null, experts))),
                x -> plan.bind(new GateOperands<>(
                        x.get("logits"),
                        x.get("bias"),
                        x.get("disabled"),
                        x.get("ids"),
                        x.get("weights"),
                        x.get("counts"))));
    }

    private OperandCase<T> biasUpdate() {
        final int experts = (int) below(64);
        final BiasUpdatePlan<T> plan = kernels().plan(BiasUpdateSpec.of(experts, 0.01f));
        return made(
                "moe_bias_update",
                plan,
                listOf(
                        packed("counts", DType.I32, numbers(experts, 0, 9), experts)
                                .updated(),
                        packed("bias", DType.F32, normal(experts), experts).updated()),
                x -> plan.bind(new BiasUpdateOperands<>(x.get("counts"), x.get("bias"))));
    }

    private OperandCase<T> permute() {
        final long m = below(9);
        final long hidden = 16 * below(20);
        final int experts = (int) below(8);
        final int topK = (int) below(3);
        final int form = random.nextInt(3); // BF16, E4M3, BF16 that is quantised
        final DType in = form == 1 ? DType.F8_E4M3 : DType.BF16;
        final PermuteSpec plain = PermuteSpec.of(m, hidden, experts, topK, in).withAlignment(1 << random.nextInt(4));
        final PermuteSpec spec = form == 2 ? plain.withQuantize(ScaleKind.F32) : plain;
        final PermutePlan<T> plan = kernels().plan(spec);
        final long out = spec.rows();
        return made(
                "moe_permute",
                plan,
                listOf(
                        packed("ids", DType.I32, numbers(m * topK, -1, experts), m, topK),
                        rows("in", in, normal(m, hidden), m, hidden),
                        wanted(form == 1, columns("inScales", scales(m, blocks(hidden)), m, blocks(hidden))),
                        rows("out", spec.outDType(), null, out, hidden),
                        wanted(form > 0, columns("outScales", null, out, blocks(hidden))),
                        packed("groupEnds", DType.I32, null, experts),
                        packed("places", DType.I32, null, m, topK),
                        maybe(packed("sources", DType.I32, null, out))),
                x -> plan.bind(new PermuteOperands<>(
                        x.get("ids"),
                        x.get("in"),
                        x.get("inScales"),
                        x.get("out"),
                        x.get("outScales"),
                        x.get("groupEnds"),
                        x.get("places"),
                        x.get("sources"))));
    }

    private OperandCase<T> unpermute() {
        final long m = below(9);
        final long rows = below(20);
        final long hidden = 8 * below(20);
        final int topK = (int) below(3);
        final boolean weighted = random.nextBoolean();
        final boolean residual = random.nextBoolean();
        final UnpermutePlan<T> plan = kernels()
                .plan(UnpermuteSpec.of(m, rows, hidden, topK)
                        .withWeights(weighted)
                        .withResidual(residual));
        return made(
                "moe_unpermute",
                plan,
                listOf(
                        rows("x", DType.BF16, normal(rows, hidden), rows, hidden),
                        packed("places", DType.I32, numbers(m * topK, -1, (int) rows), m, topK),
                        wanted(weighted, packed("weights", DType.F32, normal(m, topK), m, topK)),
                        wanted(residual, rows("residual", DType.BF16, normal(m, hidden), m, hidden)),
                        rows("out", DType.BF16, null, m, hidden)),
                x -> plan.bind(new UnpermuteOperands<>(
                        x.get("x"), x.get("places"), x.get("weights"), x.get("residual"), x.get("out"))));
    }

    // ---- a group of one rank ----

    private ExpertGroup<T> group(final boolean latency, final DType rowType) {
        final int tokens = (int) below(6);
        final int hidden = (rowType == DType.BF16 ? 8 : 16) * (int) below(20);
        final ExpertGroupSpec spec = ExpertGroupSpec.of(1, (int) below(6), (int) below(3), hidden, tokens)
                .withRows(rowType)
                .withLatencyTokens(latency ? tokens : 0);
        return kernels().openGroup(spec, Rendezvous.inProcess(1).getFirst());
    }

    private OperandCase<T> dispatch() {
        final boolean latency = random.nextInt(3) == 0;
        final DType rowType = latency ? DType.BF16 : either(DType.BF16, DType.F8_E4M3);
        final ExpertGroup<T> group = group(latency, rowType);
        final DType in = rowType == DType.BF16 ? rowType : either(DType.BF16, rowType);
        final boolean byExpert = latency || random.nextBoolean();
        final DispatchSpec spec = latency
                ? DispatchSpec.latency(group.spec(), in)
                : DispatchSpec.of(group.spec(), in)
                        .withLayout(byExpert ? MoeLayout.EXPERT : MoeLayout.RANK)
                        .withAlignment(1 << random.nextInt(4));
        final DispatchPlan<T> plan = group.plan(spec);
        final long m = spec.maxTokens();
        final long hidden = spec.group().hidden();
        final long local = spec.group().experts();
        final long out = plan.outRows();
        final boolean scaled = rowType == DType.F8_E4M3;
        return new OperandCase<>(
                "moe_dispatch",
                plan,
                group,
                List.of(
                        rows("x", in, normal(m, hidden), m, hidden),
                        wanted(
                                in == DType.F8_E4M3,
                                columns("xScales", scales(m, blocks(hidden)), m, blocks(hidden))
                                        .with(Kind.COLUMNS, 1)),
                        routed(spec),
                        packed(
                                "weights",
                                DType.F32,
                                normal(m, spec.group().topK()),
                                m,
                                spec.group().topK()),
                        Operand.scratch("handle", plan.handleBytes()),
                        maybe(packed("received", DType.I32, null, 2)),
                        wanted(
                                byExpert,
                                latency
                                        ? rows("out", rowType, null, local, out, hidden)
                                                .with(Kind.EVEN_ROWS, 8)
                                        : rows("out", rowType, null, out, hidden)
                                                .with(Kind.ANY_ROWS, 16 / rowType.size())),
                        wanted(
                                byExpert && scaled,
                                columns("outScales", null, out, blocks(hidden)).with(Kind.COLUMNS, 1)),
                        wanted(
                                byExpert,
                                latency
                                        ? packed("expertRows", DType.I32, null, local)
                                        : packed("expertRows", DType.I32, null, local, 2))),
                x -> plan.bind(new DispatchOperands<>(
                        x.get("x"),
                        x.get("xScales"),
                        x.get("experts"),
                        x.get("weights"),
                        x.get("handle"),
                        x.get("received"),
                        x.get("out"),
                        x.get("outScales"),
                        x.get("expertRows"))));
    }

    private Operand routed(final DispatchSpec spec) {
        final long m = spec.maxTokens();
        final int topK = spec.group().topK();
        return packed("experts", DType.I32, numbers(m * topK, -1, spec.group().experts()), m, topK);
    }

    private OperandCase<T> combine() {
        final ExpertGroup<T> group = group(false, DType.BF16);
        final DispatchSpec sent = DispatchSpec.of(group.spec(), DType.BF16).withLayout(MoeLayout.EXPERT);
        final boolean residual = random.nextBoolean();
        final CombinePlan<T> plan = group.plan(CombineSpec.of(sent).withResidual(residual));
        final long m = sent.maxTokens();
        final long hidden = sent.group().hidden();
        final Sent handle = sent(group, sent);
        return new OperandCase<>(
                "moe_combine",
                plan,
                group,
                List.of(
                        Operand.of(Kind.BYTES, "handle", DType.U8, 1, handle.bytes(), handle.bytes().length),
                        rows("x", DType.BF16, normal(handle.rows(), hidden), handle.rows(), hidden)
                                .with(Kind.ANY_ROWS, 8),
                        wanted(residual, rows("residual", DType.BF16, normal(m, hidden), m, hidden)),
                        rows("out", DType.BF16, null, m, hidden)),
                x -> plan.bind(new CombineOperands<>(x.get("handle"), x.get("x"), x.get("residual"), x.get("out"))));
    }

    /** What a dispatch leaves for the combine behind it. */
    @SuppressWarnings("ArrayRecordComponent") // nobody compares these records
    private record Sent(float[] bytes, long rows) {}

    private Sent sent(final ExpertGroup<T> group, final DispatchSpec spec) {
        final long m = spec.maxTokens();
        final ExpertGroupSpec of = group.spec();
        try (DispatchPlan<T> plan = group.plan(spec)) {
            final Operand experts = routed(spec);
            final T handle = backend.allocate(TensorSpec.packed(DType.U8, plan.handleBytes()));
            final T x = backend.filled(TensorSpec.packed(DType.BF16, m, of.hidden()), 1);
            final DispatchOperands<T> operands = DispatchOperands.of(
                            x,
                            null,
                            backend.put(backend.hostTensor(experts.layout(null), experts.elements())),
                            backend.filled(TensorSpec.packed(DType.F32, m, of.topK()), 0.5f),
                            handle)
                    .withOut(
                            backend.allocate(TensorSpec.packed(DType.BF16, plan.outRows(), of.hidden())),
                            null,
                            backend.allocate(TensorSpec.packed(DType.I32, of.experts(), 2)));
            try (Launch launch = plan.bind(operands)) {
                launch.launch(backend.stream());
                return new Sent(backend.get(handle).toFloats(), plan.outRows());
            }
        }
    }

    // ---- attention ----

    private OperandCase<T> merge() {
        final long b = below(3);
        final int heads = (int) below(4);
        final int sQ = (int) below(2);
        final DType type = either(DType.BF16, DType.F32);
        final MlaMergePlan<T> plan = kernels().plan(MlaMergeSpec.of(type, heads, sQ, b));
        final List<Operand> operands = new ArrayList<>();
        for (final String name : List.of("a", "b", "merged")) {
            final boolean given = !name.equals("merged");
            operands.add(packed(name + ".out", type, given ? normal(b, sQ, heads, 512) : null, b, sQ, heads, 512));
            operands.add(packed(name + ".lse", DType.F32, given ? normal(b, heads, sQ) : null, b, heads, sQ));
        }
        return made("mla_merge", plan, operands, x -> plan.bind(result(x, "a"), result(x, "b"), result(x, "merged")));
    }

    private @Nullable MlaResult<T> result(final Map<String, @Nullable T> x, final String name) {
        final T out = x.get(name + ".out");
        final T lse = x.get(name + ".lse");
        return out == null && lse == null ? null : new MlaResult<>(out, lse);
    }

    private MlaDecodeSpec decodeSpec(final long batch, final MlaCacheFormat format) {
        return MlaDecodeSpec.of((int) below(4), 1 << random.nextInt(4), batch, below(40), 1 + below(8))
                .withSQ((int) below(2))
                .withCacheFormat(format);
    }

    /** Numbers of cached tokens: as many as the pages of a table row hold. */
    private float[] lengths(final MlaDecodeSpec spec) {
        return numbers(spec.maxBatch(), 0, (int) spec.maxLength() + 1);
    }

    private OperandCase<T> schedule() {
        final MlaDecodeSpec spec = decodeSpec(below(4), MlaCacheFormat.BF16);
        final MlaDecodePlan<T> plan = kernels().plan(spec);
        final long b = spec.maxBatch();
        return new OperandCase<>(
                "mla_schedule",
                plan,
                null,
                List.of(
                        packed("lengths", DType.I32, lengths(spec), b),
                        maybe(packed("qTokens", DType.I32, numbers(b, 0, spec.sQ() + 1), b)),
                        Operand.of(Kind.BYTES, "schedule", DType.U8, 1, null, plan.scheduleBytes())),
                x -> plan.bindSchedule(x.get("lengths"), x.get("qTokens"), x.get("schedule")));
    }

    private OperandCase<T> decode() {
        final MlaCacheFormat format = random.nextInt(3) > 0
                ? MlaCacheFormat.BF16
                : random.nextBoolean() ? MlaCacheFormat.FP8_BLOCKS : MlaCacheFormat.FP8_TOKEN;
        final MlaDecodeSpec spec = decodeSpec(below(3), format);
        final MlaDecodePlan<T> plan = kernels().plan(spec);
        final long b = spec.maxBatch();
        final long sQ = spec.sQ();
        final long heads = spec.heads();
        final float[] lengths = lengths(spec);
        final long table = spec.tableWidth();
        final long pages = spec.pages();
        return made(
                "mla_decode",
                plan,
                List.of(
                        rows("q", DType.BF16, normal(b, sQ, heads, 576), b, sQ, heads, 576)
                                .with(Kind.EVEN_ROWS, 8),
                        rows("cache", format.dtype(), cached(spec), pages, spec.pageSize(), format.tokenSize()),
                        Operand.of(
                                Kind.TABLE, "blockTable", DType.I32, 1, numbers(b * table, 0, (int) pages), b, table),
                        packed("lengths", DType.I32, lengths, b),
                        maybe(packed("sink", DType.F32, normal(heads), heads)),
                        Operand.of(Kind.BYTES, "schedule", DType.U8, 1, scheduled(plan, lengths), plan.scheduleBytes()),
                        packed("out", DType.BF16, null, b, sQ, heads, 512),
                        packed("lse", DType.F32, null, b, heads, sQ)),
                x -> plan.bind(new MlaDecodeOperands<>(
                        x.get("q"),
                        x.get("cache"),
                        x.get("blockTable"),
                        x.get("lengths"),
                        null,
                        x.get("sink"),
                        x.get("schedule"),
                        x.get("out"),
                        x.get("lse"),
                        x.get("workspace"))));
    }

    /** Tokens of a cache: normal values, or bytes whose scales are small positive numbers. */
    private float[] cached(final MlaDecodeSpec spec) {
        final MlaCacheFormat format = spec.cacheFormat();
        if (format == MlaCacheFormat.BF16) {
            return normal(spec.pages(), spec.pageSize(), 576);
        }
        final long tokens = spec.pages() * spec.pageSize();
        final float[] bytes = numbers(tokens * format.tokenSize(), 0, 0x78); // E4M3 and BF16 that are finite
        for (int token = 0; token < tokens; token++) {
            final int scales = token * format.tokenSize() + 512;
            for (int i = 0; i < 4; i++) {
                bytes[scales + 4 * i + 3] = 0x3C; // F32 of about 2^-7, little-endian
            }
            for (int i = scales + 17; i < scales + 144; i += 2) {
                bytes[i] = 0x3E; // BF16 of about 0.2
            }
        }
        return bytes;
    }

    /** What the schedule's launch writes. */
    private float[] scheduled(final MlaDecodePlan<T> plan, final float[] lengths) {
        final T schedule = backend.allocate(TensorSpec.packed(DType.U8, plan.scheduleBytes()));
        final T numbers = backend.put(
                backend.hostTensor(TensorSpec.packed(DType.I32, plan.spec().maxBatch()), lengths));
        try (Launch launch = plan.bindSchedule(numbers, null, schedule)) {
            launch.launch(backend.stream());
        }
        final HostTensor bytes = backend.get(schedule);
        return bytes.toFloats();
    }

    private OperandCase<T> cacheWrite() {
        final MlaCacheFormat[] formats = MlaCacheFormat.values();
        final MlaCacheFormat format = formats[random.nextInt(formats.length)];
        final long b = below(3);
        final MlaDecodeSpec decode = decodeSpec(b, format);
        final long tokens = below(6);
        final MlaCacheWriteSpec spec = MlaCacheWriteSpec.of(decode)
                .withMaxTokens(tokens)
                .withTypes(either(DType.BF16, DType.F32), either(DType.I32, DType.I64));
        final MlaCacheWritePlan<T> plan = kernels().plan(spec);
        final long width = spec.tableWidth();
        // Each token goes to a place of its own, or two would race for it.
        final float[] positions = new float[(int) tokens];
        for (int t = 0; t < positions.length; t++) {
            positions[t] = t < spec.maxLength() ? t : -1;
        }
        final float[] table = new float[(int) (b * width)];
        for (int i = 0; i < table.length; i++) {
            table[i] = i < spec.pages() ? i : 0;
        }
        final boolean fits = width <= spec.pages();
        for (int t = 0; t < positions.length && !fits; t++) {
            positions[t] = t == 0 ? 0 : -1;
        }
        return made(
                "mla_cache_write",
                plan,
                List.of(
                        rows("in", DType.BF16, normal(tokens, 576), tokens, 576),
                        packed("weight", spec.weightDType(), normal(512), 512),
                        packed("rope", DType.F32, normal(spec.maxLength(), 64), spec.maxLength(), 64),
                        packed("positions", spec.positionDType(), positions, tokens),
                        packed("requests", DType.I32, new float[(int) tokens], tokens)
                                .with(Presence.OPTIONAL),
                        Operand.of(Kind.TABLE, "blockTable", DType.I32, 1, table, b, width),
                        rows("cache", format.dtype(), null, spec.pages(), spec.pageSize(), format.tokenSize())),
                x -> plan.bind(new MlaCacheWriteOperands<>(
                        x.get("in"),
                        x.get("weight"),
                        x.get("rope"),
                        x.get("positions"),
                        x.get("requests"),
                        x.get("blockTable"),
                        x.get("cache"))));
    }
}
