package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.gemm.GemmLaunch;
import io.hopper4j.gemm.GemmPlan;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.gemm.GemmTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockQuantization;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.ProductSample;
import io.hopper4j.safetensors.SafeTensors;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.stream.IntStream;

/**
 * The run on real input: every weight matrix of a safetensors file that the kernels take is quantised and multiplied with activations, rows of the file's
 * own embedding where their width fits. Two errors are told apart: the kernel's, against the exact product of the same FP8 values, and that of
 * quantisation, against the exact product of the matrices before it.
 */
final class WeightsCheck {
    private static final int GPU_ROWS = 256;
    private static final int REFERENCE_ROWS = 16;
    private static final int REFERENCE_BLOCKS = 4;
    private static final int BLOCK = 128;

    /** Multiply-adds of the sample that is compared. */
    private static final long BUDGET = 500_000_000L;

    private static final List<String> EMBEDDING_NAMES =
            List.of("word_embeddings", "embed_tokens", "tok_embeddings", "wte");

    private final SafeTensors file;
    private final long seed;
    private final Optional<HostTensor> embedding;

    WeightsCheck(final SafeTensors file, final long seed) {
        this.file = file;
        this.seed = seed;
        this.embedding = file.names().stream()
                .filter(name -> EMBEDDING_NAMES.stream().anyMatch(name::contains))
                .filter(name -> isMatrix(file.entry(name)))
                .findFirst()
                .map(this::tensor);
    }

    /** {@return the weights that are run: matrices of F32, F16 or BF16, K a multiple of 128, N of 8} */
    List<String> names() {
        return file.names().stream().filter(name -> isTaken(file.entry(name))).toList();
    }

    private static boolean isMatrix(final SafeTensors.Entry entry) {
        final Optional<DType> type = entry.dtype();
        return entry.shape().size() == 2
                && type.isPresent()
                && (type.get() == DType.F32 || type.get() == DType.F16 || type.get() == DType.BF16);
    }

    private static boolean isTaken(final SafeTensors.Entry entry) {
        return isMatrix(entry)
                && entry.bytes() > 0
                && entry.shape().getFirst() % 8 == 0
                && entry.shape().getLast() % BLOCK == 0;
    }

    private HostTensor tensor(final String name) {
        try {
            return file.tensor(name);
        } catch (final IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Activations in BF16: the first rows of the embedding, or seeded normal numbers. */
    private HostTensor activations(final Arena host, final int wanted, final long k, final SplitMix64 random) {
        if (embedding.isPresent() && embedding.get().shape().size(1) == k) {
            final HostTensor table = embedding.get();
            final long rows = Math.min(wanted, table.shape().size(0));
            final HostTensor x = HostTensor.allocate(host, DType.BF16, rows, k);
            x.setFloats(table.slice(0, 0, rows).toFloats());
            return x;
        }
        final HostTensor x = HostTensor.allocate(host, DType.BF16, wanted, k);
        HostData.fillWithNormal(x, random);
        return x;
    }

    private boolean areFromEmbedding(final long k) {
        return embedding.isPresent() && embedding.get().shape().size(1) == k;
    }

    private String shape(final String name, final long m, final HostTensor weight) {
        final long k = weight.shape().size(1);
        return "%s m=%d n=%d k=%d%s"
                .formatted(shortened(name), m, weight.shape().size(0), k, areFromEmbedding(k) ? " emb" : "");
    }

    /** The end of a name says more than its beginning. */
    private static String shortened(final String name) {
        return name.replace("encoder.", "").replace("model.", "").replace(".weight", "");
    }

    // ---- on the GPU ----

    /** Quantises and multiplies one weight on the device. */
    Row onGpu(final Gpu gpu, final String name) {
        final SplitMix64 random = new SplitMix64(seed);
        final HostTensor weight = tensor(name);
        final long n = weight.shape().size(0);
        final long k = weight.shape().size(1);
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final HostTensor x = activations(host, GPU_ROWS, k, random);
            final long m = x.shape().size(0);
            final Scaled<DeviceTensor> a = quantized(gpu, arena, x, Scaling.ACTIVATION_1X128);
            final Scaled<DeviceTensor> b = quantized(gpu, arena, weight, Scaling.WEIGHT_128X128);
            final DeviceTensor out = arena.allocate(DType.BF16, m, n);
            try (GemmPlan<DeviceTensor> plan = gpu.kernels().plan(GemmSpec.of(m, n, k));
                    GemmLaunch<DeviceTensor> launch = plan.bind(a, b, out, gpu.workspace(arena, plan))) {
                launch.launch(gpu.stream());
                final HostTensor result = HostTensor.allocate(host, DType.BF16, m, n);
                gpu.download(out, result);
                final long[] columns = HostData.sample(random, n, 512);
                final long[] rows = HostData.sample(random, m, Math.max(4, BUDGET / k / columns.length));
                final ProductSample exact = BlockScaledProduct.sample(
                        downloaded(gpu, host, a), downloaded(gpu, host, b), null, rows, columns);
                final GemmTolerance.Result kernelError = GemmCase.compare(exact, result);
                final GemmTolerance unquantized = GemmTolerance.of(DType.BF16);
                final double[][] before = product(x, rows, weight, columns);
                for (int i = 0; i < rows.length; i++) {
                    for (int j = 0; j < columns.length; j++) {
                        unquantized.add(result.getFloat(rows[i], columns[j]), before[i][j], 0);
                    }
                }
                return Row.measured(
                        "gemm",
                        shape(name, m, weight),
                        plan.kernel(),
                        gpu.microseconds(launch, m),
                        new Row.Measure("error/bound", kernelError.worstRatio(), 1),
                        new Row.Measure("1-cos", kernelError.cosineDistance(), kernelError.maxCosineDistance()),
                        quantizationError(unquantized));
            }
        }
    }

    private static Row.Measure quantizationError(final GemmTolerance unquantized) {
        return new Row.Measure(
                "unquantized 1-cos",
                unquantized.result().cosineDistance(),
                GemmTolerance.MAX_UNQUANTIZED_COSINE_DISTANCE);
    }

    private static Scaled<DeviceTensor> quantized(
            final Gpu gpu, final DeviceArena arena, final HostTensor source, final Scaling scaling) {
        final long rows = source.shape().size(0);
        final long cols = source.shape().size(1);
        final DeviceTensor in = arena.allocate(source.dtype(), rows, cols);
        in.copyFrom(source, gpu.stream());
        final Scaled<DeviceTensor> result = new Scaled<>(
                arena.allocate(DType.F8_E4M3, rows, cols),
                arena.allocate(HostData.scaleSpec(scaling, rows, cols)),
                scaling);
        gpu.kernels().quantize(in, ScaleKind.F32, result, gpu.stream());
        return result;
    }

    private static Scaled<HostTensor> downloaded(final Gpu gpu, final Arena host, final Scaled<DeviceTensor> matrix) {
        final Scaled<HostTensor> result = HostData.quantized(host, matrix.scaling(), matrix.rows(), matrix.cols());
        gpu.download(matrix.values(), result.values());
        gpu.download(matrix.scales(), result.scales());
        return result;
    }

    // ---- with the reference ----

    /** Quantises and multiplies a sample of one weight in plain Java: a few blocks of 128 of its rows. */
    Row withReference(final String name) {
        final SplitMix64 random = new SplitMix64(seed);
        final HostTensor weight = tensor(name);
        final long n = weight.shape().size(0);
        final long k = weight.shape().size(1);
        final GemmTolerance unquantized = GemmTolerance.of(DType.BF16);
        try (Arena host = Arena.ofConfined()) {
            final HostTensor x = activations(host, REFERENCE_ROWS, k, random);
            final int m = Math.toIntExact(x.shape().size(0));
            final Scaled<HostTensor> a = HostData.quantized(host, Scaling.ACTIVATION_1X128, m, k);
            BlockQuantization.quantize(x, a, ScaleKind.F32);
            final long[] rows = HostData.sample(random, m, m);
            for (final long block : HostData.sample(random, Math.ceilDiv(n, BLOCK), REFERENCE_BLOCKS)) {
                final HostTensor part = weight.slice(0, block * BLOCK, Math.min(n, (block + 1) * BLOCK));
                final long width = part.shape().size(0);
                final Scaled<HostTensor> b = HostData.quantized(host, Scaling.WEIGHT_128X128, width, k);
                BlockQuantization.quantize(part, b, ScaleKind.F32);
                final long[] columns = HostData.sample(random, width, width);
                final ProductSample quantized = BlockScaledProduct.sample(a, b, null, rows, columns);
                final double[][] before = product(x, rows, part, columns);
                for (int i = 0; i < rows.length; i++) {
                    for (int j = 0; j < columns.length; j++) {
                        unquantized.add(quantized.value(i, j), before[i][j], 0);
                    }
                }
            }
            return Row.measured(
                    "gemm", shape(name, m, weight), "reference", Double.NaN, quantizationError(unquantized));
        }
    }

    /** Rows and columns of the product before quantisation. */
    private static double[][] product(
            final HostTensor x, final long[] rows, final HostTensor weight, final long[] columns) {
        final float[][] left = lines(x, rows);
        final float[][] right = lines(weight, columns);
        final double[][] result = new double[rows.length][columns.length];
        IntStream.range(0, rows.length).parallel().forEach(i -> {
            for (int j = 0; j < columns.length; j++) {
                double sum = 0;
                for (int k = 0; k < left[i].length; k++) {
                    sum += (double) left[i][k] * right[j][k];
                }
                result[i][j] = sum;
            }
        });
        return result;
    }

    private static float[][] lines(final HostTensor matrix, final long[] rows) {
        final List<float[]> lines = new ArrayList<>();
        for (final long row : rows) {
            lines.add(matrix.select(0, row).toFloats());
        }
        return lines.toArray(float[][]::new);
    }
}
