package io.hopper4j.reference;

import io.hopper4j.HostTensor;
import io.hopper4j.moe.BiasUpdateOperands;
import io.hopper4j.moe.BiasUpdateSpec;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.Scores;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.function.IntToDoubleFunction;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/** The gate of a mixture of experts, in doubles; see {@link GateSpec}. */
public final class ExpertGate {
    private ExpertGate() {}

    /** What a token goes to. */
    public static final class Choice {
        private final int[] ids;
        private final double[] weights;
        private final double margin;

        private Choice(final int[] ids, final double[] weights, final double margin) {
            this.ids = ids;
            this.weights = weights;
            this.margin = margin;
        }

        /** {@return the expert in a place, best first; -1 where there are too few} */
        public int id(final int place) {
            return ids[place];
        }

        /** {@return the weight of the expert in a place; 0 where there are too few} */
        public double weight(final int place) {
            return weights[place];
        }

        /** {@return the least distance of two different numbers that the choice compared: rounding below half of it changes no id} */
        public double margin() {
            return margin;
        }
    }

    /**
     * {@return the experts of one token}
     *
     * @param spec the gate
     * @param logits of the token, one an expert
     * @param bias one an expert; null: none
     * @param disabled whether an expert must not be taken; null: all may be
     */
    public static Choice choose(
            final GateSpec spec,
            final float[] logits,
            final float @Nullable [] bias,
            final boolean @Nullable [] disabled) {
        final double[] scores = scores(spec.scores(), logits);
        final IntToDoubleFunction choice = e -> scores[e] + (bias == null ? 0 : bias[e]);
        final Ranking ranking = new Ranking();
        final int inGroup = spec.experts() / spec.groups();
        final double[] groupScores = new double[spec.groups()];
        final List<List<Integer>> members = IntStream.range(0, spec.groups())
                .mapToObj(g -> IntStream.range(g * inGroup, (g + 1) * inGroup)
                        .filter(e -> disabled == null || !disabled[e])
                        .boxed()
                        .toList())
                .toList();
        for (int g = 0; g < groupScores.length; g++) {
            // Which of the two is better does not matter, so its margin does not count.
            for (final int e : new Ranking().best(members.get(g), choice, 2)) {
                groupScores[g] += choice.applyAsDouble(e);
            }
        }
        final List<Integer> groups = IntStream.range(0, spec.groups())
                .filter(g -> !members.get(g).isEmpty())
                .boxed()
                .toList();
        final List<Integer> candidates = ranking.best(groups, g -> groupScores[g], spec.keptGroups()).stream()
                .flatMap(g -> members.get(g).stream())
                .sorted()
                .toList();
        final List<Integer> taken = ranking.best(candidates, choice, spec.topK());

        final double norm =
                spec.normalize() ? taken.stream().mapToDouble(e -> scores[e]).sum() + 1e-20 : 1;
        final int[] ids = new int[spec.topK()];
        final double[] weights = new double[spec.topK()];
        Arrays.fill(ids, -1);
        for (int j = 0; j < taken.size(); j++) {
            ids[j] = taken.get(j);
            weights[j] = scores[ids[j]] / norm * spec.scale();
        }
        return new Choice(ids, weights, ranking.margin);
    }

    private static double[] scores(final Scores kind, final float[] logits) {
        final double[] scores = new double[logits.length];
        double largest = Double.NEGATIVE_INFINITY;
        for (final float logit : logits) {
            largest = Math.max(largest, logit);
        }
        double sum = 0;
        for (int e = 0; e < logits.length; e++) {
            scores[e] = kind == Scores.SIGMOID ? 1 / (1 + Math.exp(-logits[e])) : Math.exp(logits[e] - largest);
            sum += scores[e];
        }
        if (kind == Scores.SOFTMAX) {
            for (int e = 0; e < logits.length; e++) {
                scores[e] /= sum;
            }
        }
        return scores;
    }

    /** Choices of the largest, the lower number first among equals. */
    private static final class Ranking {
        double margin = Double.POSITIVE_INFINITY;

        List<Integer> best(final List<Integer> ascending, final IntToDoubleFunction value, final int count) {
            final List<Integer> sorted = ascending.stream()
                    .sorted(Comparator.comparingDouble((Integer i) -> value.applyAsDouble(i))
                            .reversed())
                    .toList();
            for (int i = 0; i + 1 < sorted.size() && i < count; i++) {
                final double gap = value.applyAsDouble(sorted.get(i)) - value.applyAsDouble(sorted.get(i + 1));
                if (gap > 0) {
                    margin = Math.min(margin, gap);
                }
            }
            return sorted.subList(0, Math.min(count, sorted.size()));
        }
    }

    /** Chooses for the first tokens and counts. */
    static void run(final GateSpec spec, final GateOperands<HostTensor> x, final long tokens) {
        final int k = spec.topK();
        final HostTensor bias = x.bias();
        final HostTensor disabled = x.disabled();
        final float[] biases = bias == null ? null : bias.toFloats();
        final boolean[] off = disabled == null ? null : flags(disabled);
        final int used = Math.toIntExact(tokens);
        final float[] logits = x.logits().slice(0, 0, tokens).toFloats();
        final Choice[] choices = IntStream.range(0, used)
                .parallel()
                .mapToObj(t -> choose(
                        spec, Arrays.copyOfRange(logits, t * spec.experts(), (t + 1) * spec.experts()), biases, off))
                .toArray(Choice[]::new);
        final int[] counts = new int[spec.experts()];
        for (int t = 0; t < used; t++) {
            for (int j = 0; j < k; j++) {
                final int id = choices[t].id(j);
                Integers.set(x.ids(), (long) t * k + j, id);
                x.weights().setFloat((float) choices[t].weight(j), t, j);
                if (id >= 0) {
                    counts[id]++;
                }
            }
        }
        final HostTensor sums = x.counts();
        if (sums != null) {
            for (int e = 0; e < counts.length; e++) {
                Integers.set(sums, e, counts[e] + (spec.addCounts() ? Integers.get(sums, e) : 0));
            }
        }
    }

    private static boolean[] flags(final HostTensor disabled) {
        final float[] bytes = disabled.toFloats();
        final boolean[] flags = new boolean[bytes.length];
        for (int e = 0; e < flags.length; e++) {
            flags[e] = bytes[e] != 0;
        }
        return flags;
    }

    /** One step of the bias; with no rows, none. */
    static void updateBias(final BiasUpdateSpec spec, final BiasUpdateOperands<HostTensor> x, final long rows) {
        if (rows == 0) {
            return;
        }
        long total = 0;
        for (int e = 0; e < spec.experts(); e++) {
            total += Integers.get(x.counts(), e);
        }
        for (int e = 0; e < spec.experts(); e++) {
            final long load = (long) Integers.get(x.counts(), e) * spec.experts();
            final float bias = x.bias().getFloat(e);
            if (load != total) {
                x.bias().setFloat(load > total ? bias - spec.step() : bias + spec.step(), e);
            }
            if (spec.clearCounts()) {
                Integers.set(x.counts(), e, 0);
            }
        }
    }
}
