package io.hopper4j.contract;

import static io.hopper4j.attention.MlaDecodeSpec.TOKEN_DIM;
import static io.hopper4j.attention.MlaDecodeSpec.VALUE_DIM;
import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.TensorSpec;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.attention.MlaTolerance;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * Seeded inputs of a decode and what must come of them. Pages lie in random order; slots that no request uses hold NaN, and the block table holds
 * wild page numbers behind each length.
 */
final class MlaData {
    private static final float[] WILD = {2147480000f, -7f, -2147480000f};

    final MlaDecodeSpec spec;
    final int[] lengths;
    final int @Nullable [] tokens;
    final float @Nullable [] sinks;
    final HostTensor q;
    final HostTensor cache;
    final HostTensor blockTable;
    private final int[][] pages;
    private final float[][][] values;

    /**
     * Makes inputs.
     *
     * @param spec the operation; its batch, longest length and pages are replaced by what the lengths need
     * @param lengths of the requests
     * @param tokens query tokens of the requests; null: all
     * @param withSink whether there is a sink
     */
    MlaData(
            final Arena arena,
            final MlaDecodeSpec spec,
            final int[] lengths,
            final int @Nullable [] tokens,
            final boolean withSink,
            final long seed) {
        final SplittableRandom random = new SplittableRandom(seed);
        final int size = spec.pageSize();
        final int spare = 2;
        final int count = IntStream.of(lengths).map(n -> Math.ceilDiv(n, size)).sum() + spare;
        final int longest = IntStream.of(lengths).max().orElse(0);
        this.spec = spec.withRoom(lengths.length, longest, count);
        this.lengths = lengths.clone();
        this.tokens = tokens == null ? null : tokens.clone();
        this.q = HostTensor.allocate(arena, DType.BF16, lengths.length, spec.sQ(), spec.heads(), TOKEN_DIM);
        final MlaCacheFormat format = spec.cacheFormat();
        this.cache = HostTensor.allocate(arena, format.dtype(), count, size, format.tokenSize());
        this.blockTable =
                HostTensor.allocate(arena, DType.I32, lengths.length, Math.max(1, Math.ceilDiv(longest, size)));
        this.pages = new int[lengths.length][];
        this.values = new float[lengths.length][][];
        q.setFloats(normal(random, 1, q.spec().elements()));
        cache.segment().fill((byte) 0xFF); // NaN in every format
        final float[] wild = new float[Math.toIntExact(blockTable.spec().elements())];
        for (int i = 0; i < wild.length; i++) {
            wild[i] = WILD[i % WILD.length];
        }
        blockTable.setFloats(wild);
        final int[] order = shuffled(count, random);
        int next = 0;
        for (int r = 0; r < lengths.length; r++) {
            pages[r] = Arrays.copyOfRange(order, next, next + Math.ceilDiv(lengths[r], size));
            next += pages[r].length;
            for (int i = 0; i < pages[r].length; i++) {
                blockTable.setFloat(pages[r][i], r, i);
            }
            values[r] = new float[lengths[r]][];
            for (int j = 0; j < lengths[r]; j++) {
                values[r][j] = write(format, slot(r, j), random);
            }
        }
        this.sinks = withSink ? normal(random, 1, spec.heads()) : null;
    }

    private static float[] normal(final SplittableRandom random, final double size, final long count) {
        final float[] values = new float[Math.toIntExact(count)];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) (size * random.nextGaussian());
        }
        return values;
    }

    /** Writes a token of normal values of standard deviation 0.1; gives its values. */
    private static float[] write(final MlaCacheFormat format, final HostTensor slot, final SplittableRandom random) {
        final float[] wanted = normal(random, 0.1, TOKEN_DIM);
        if (format == MlaCacheFormat.BF16) {
            slot.setFloats(wanted);
            return slot.toFloats();
        }
        final HostTensor latent = part(slot, 0, DType.F8_E4M3, VALUE_DIM);
        final HostTensor scales = part(slot, VALUE_DIM, DType.F32, 4);
        final HostTensor rope = part(slot, VALUE_DIM + 16, DType.BF16, TOKEN_DIM - VALUE_DIM);
        final int count = format == MlaCacheFormat.FP8_BLOCKS ? 4 : 1;
        final float[] given = new float[4];
        for (int i = 0; i < count; i++) {
            given[i] = (float) (random.nextDouble(0.5, 2) * 0.4 / 448);
        }
        scales.setFloats(given);
        final float[] codes = new float[VALUE_DIM];
        for (int i = 0; i < VALUE_DIM; i++) {
            codes[i] = wanted[i] / given[i * count / VALUE_DIM];
        }
        latent.setFloats(codes);
        rope.setFloats(Arrays.copyOfRange(wanted, VALUE_DIM, TOKEN_DIM));
        final float[] products = latent.toFloats();
        for (int i = 0; i < VALUE_DIM; i++) {
            products[i] *= given[i * count / VALUE_DIM];
        }
        final float[] result = Arrays.copyOf(products, TOKEN_DIM);
        System.arraycopy(rope.toFloats(), 0, result, VALUE_DIM, TOKEN_DIM - VALUE_DIM);
        return result;
    }

    private static HostTensor part(final HostTensor slot, final long at, final DType dtype, final long count) {
        return HostTensor.wrap(slot.segment().asSlice(at, count * dtype.size()), TensorSpec.packed(dtype, count));
    }

    private static int[] shuffled(final int count, final SplittableRandom random) {
        final int[] order = IntStream.range(0, count).toArray();
        for (int i = count - 1; i > 0; i--) {
            final int j = random.nextInt(i + 1);
            final int swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        return order;
    }

    /** A cached token of a request. */
    HostTensor slot(final int request, final int token) {
        return cache.select(0, pages[request][token / spec.pageSize()]).select(0, token % spec.pageSize());
    }

    static HostTensor integers(final Arena arena, final int... values) {
        final HostTensor tensor = HostTensor.allocate(arena, DType.I32, values.length);
        for (int i = 0; i < values.length; i++) {
            tensor.setFloat(values[i], i);
        }
        return tensor;
    }

    HostTensor lengthTensor(final Arena arena) {
        return integers(arena, lengths);
    }

    @Nullable
    HostTensor tokenTensor(final Arena arena) {
        return tokens == null ? null : integers(arena, tokens);
    }

    @Nullable
    HostTensor sinkTensor(final Arena arena) {
        if (sinks == null) {
            return null;
        }
        final HostTensor tensor = HostTensor.allocate(arena, DType.F32, sinks.length);
        tensor.setFloats(sinks);
        return tensor;
    }

    /** Checks every row of an output that held NaN before, with the lengths given and the first {@code batch} requests in use. */
    void assertDecoded(final HostTensor out, final HostTensor lse, final int[] lengthsThen, final int batch) {
        final MlaTolerance tolerance = new MlaTolerance();
        for (int r = 0; r < lengths.length; r++) {
            final float[][] cached = new float[lengthsThen[r]][];
            Arrays.setAll(cached, j -> null);
            final int used = r >= batch ? 0 : tokens == null ? spec.sQ() : tokens[r];
            for (int j = 0; used > 0 && j < cached.length; j++) {
                cached[j] = values[r][j];
            }
            // Heads behave alike: some of many.
            for (int h = 0; h < spec.heads(); h += spec.heads() > 20 ? 9 : 1) {
                for (int t = 0; t < spec.sQ(); t++) {
                    final HostTensor row = out.select(0, r).select(0, t).select(0, h);
                    if (t >= used) {
                        assertThat(row.toFloats())
                                .as("output of request %s, token %s, head %s, not in use", r, t, h)
                                .containsOnly(Float.NaN);
                        assertThat(lse.getFloat(r, h, t)).isNaN();
                    } else {
                        final int limit = spec.causal() ? lengthsThen[r] - used + 1 + t : lengthsThen[r];
                        compare(
                                q.select(0, r).select(0, t).select(0, h).toFloats(),
                                cached,
                                limit,
                                h,
                                row.toFloats(),
                                lse.getFloat(r, h, t),
                                tolerance);
                    }
                }
            }
        }
        final MlaTolerance.Result error = tolerance.result();
        assertThat(error.withinBounds()).as("%s", error).isTrue();
    }

    void assertDecoded(final HostTensor out, final HostTensor lse) {
        assertDecoded(out, lse, lengths, lengths.length);
    }

    private void compare(
            final float[] query,
            final float[][] cached,
            final int limit,
            final int head,
            final float[] out,
            final float lse,
            final MlaTolerance tolerance) {
        final int start = spec.window() == 0 ? 0 : Math.max(0, limit - spec.window());
        double denominator = sinks == null ? 0 : Math.exp(sinks[head]);
        double sum = 0;
        final double[] expected = new double[VALUE_DIM];
        for (int j = start; j < limit; j++) {
            double score = 0;
            for (int d = 0; d < TOKEN_DIM; d++) {
                score += (double) query[d] * cached[j][d];
            }
            // Scores of this data are far from overflow.
            final double weight = Math.exp(score * spec.softmaxScale());
            sum += weight;
            for (int d = 0; d < VALUE_DIM; d++) {
                expected[d] += weight * cached[j][d];
            }
        }
        denominator += sum;
        for (int d = 0; d < VALUE_DIM; d++) {
            tolerance.add(out[d], sum == 0 ? 0 : expected[d] / denominator);
        }
        tolerance.addLogSumExp(lse, sum == 0 ? Double.POSITIVE_INFINITY : Math.log(sum));
    }
}
