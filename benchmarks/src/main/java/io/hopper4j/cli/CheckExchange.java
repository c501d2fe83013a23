package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import io.hopper4j.cli.CheckOperation.Judgement;
import io.hopper4j.reference.BlockQuantization;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What {@code check} can judge of the all-to-all: what one rank must have received, or must have summed, from the tokens of all ranks. Where each row
 * stands is worked out here from what {@link io.hopper4j.moe.DispatchSpec} says.
 */
final class CheckExchange {
    /** Half a unit of BF16: what a rank's part, and the sum, may be off by being rounded. */
    private static final double BF16_ROUNDING = 0x1p-8;

    /** A few units of F32 of what was added up. */
    private static final double F32_ROUNDING = 0x1p-20;

    private static final String IDS = "ids          [ranks, tokens, top_k] I32: experts over all ranks; -1: none";
    private static final String COUNTS = "counts       [ranks] I32: tokens in use of each rank; may be missing: all";
    private static final String EXPERTS = "experts      how many there are on all ranks; must be given";
    private static final String ALIGNMENT = "alignment    1 if not given: each expert's first row is a multiple of it";

    private CheckExchange() {}

    static List<CheckOperation> all() {
        return List.of(
                new CheckOperation(
                        List.of("moe_dispatch"),
                        "the rows that come to one rank of an expert-parallel group, bit for bit",
                        List.of(
                                "x            [ranks, tokens, hidden] BF16 or F8_E4M3: what all ranks send",
                                "x_scales     [ranks, tokens, ceil(hidden/128)] F32, of F8_E4M3 rows",
                                IDS,
                                COUNTS,
                                EXPERTS,
                                "rank         whose rows they are, 0 if not given",
                                "layout       expert (if not given): rows by expert, rank and token; rank: one for each token, by rank and token; latency: as expert, with ranks x tokens places for each",
                                ALIGNMENT,
                                CheckQuantized.SCALE_KIND + ", where BF16 rows arrive as F8_E4M3"),
                        List.of(
                                "out          [rows, hidden] BF16 or F8_E4M3; latency: [experts of the rank, ranks tokens, hidden]; rows that no token came to are not compared",
                                "out_scales   F32, [rows, ceil(hidden/128)] or [experts of the rank, ranks tokens, ceil(hidden/128)], of F8_E4M3 rows",
                                "expert_rows  I32: expert: [experts of the rank, 2], first row and end; latency: [experts of the rank], rows",
                                "received     [ranks] I32, of the layout rank: rows from each rank"),
                        CheckExchange::dispatch),
                new CheckOperation(
                        List.of("moe_combine"),
                        "the weighted sum of each token's rows from all ranks (+ residual), each rank's part rounded to BF16 or not",
                        List.of(
                                "x            [ranks, rows, hidden] BF16: rows of each rank where moe_dispatch placed them in the layout expert or latency",
                                IDS,
                                "weights      [ranks, tokens, top_k] F32",
                                COUNTS,
                                EXPERTS,
                                "rank         whose tokens they are, 0 if not given",
                                "layout       expert (if not given) or latency",
                                ALIGNMENT,
                                "residual     [tokens, hidden] BF16; may be missing"),
                        List.of("out          [tokens, hidden] BF16; tokens not in use are not compared"),
                        CheckExchange::combine));
    }

    /** A row that came to a rank. */
    private record Arrival(int source, int token, int entry, long row) {}

    /** Where the tokens of all ranks go. */
    private static final class Routing {
        private final HostTensor ids;
        private final int ranks;
        private final int tokens;
        private final int topK;
        private final int experts;
        private final int perRank;
        private final int rank;
        private final int alignment;
        private final String layout;
        private final int[] counts;

        Routing(final CheckTensors inputs, final List<String> layouts) throws IOException {
            this.ids = inputs.tensor("ids", 3, DType.I32);
            this.ranks = Math.toIntExact(ids.shape().size(0));
            this.tokens = Math.toIntExact(ids.shape().size(1));
            this.topK = Math.toIntExact(ids.shape().size(2));
            this.experts = within("experts", inputs.integer("experts", 0), 1, Integer.MAX_VALUE);
            this.perRank = Math.ceilDiv(experts, Math.max(1, ranks));
            this.rank = within("rank", inputs.integer("rank", 0), 0, ranks - 1);
            this.alignment = within("alignment", inputs.integer("alignment", 1), 1, 1 << 20);
            this.layout = inputs.attribute("layout").orElse("expert");
            if (!layouts.contains(layout)) {
                throw new CheckTensors.Misfit("layout: got " + layout + ", need one of " + layouts);
            }
            final @Nullable HostTensor given = inputs.optional("counts", new long[] {ranks}, DType.I32);
            this.counts = new int[ranks];
            for (int r = 0; r < ranks; r++) {
                counts[r] = given == null ? tokens : within("counts", (int) given.getFloat(r), 0, tokens);
            }
        }

        private static int within(final String name, final int value, final int least, final int most) {
            if (value < least || value > most) {
                throw new CheckTensors.Misfit(name + ": got " + value + ", need " + least + ".." + most);
            }
            return value;
        }

        boolean isLatency() {
            return layout.equals("latency");
        }

        /** Experts that a rank has; the last may have fewer, or none. */
        int localExperts(final int of) {
            return Math.clamp((long) experts - (long) of * perRank, 0, perRank);
        }

        /** The expert of an entry, counted on the rank; -1 if it is elsewhere, or does not count. */
        private int localExpert(final int of, final int source, final int token, final int entry) {
            final int expert = (int) ids.getFloat(source, token, entry);
            if (expert < 0 || expert >= experts || expert / perRank != of) {
                return -1;
            }
            for (int earlier = 0; isLatency() && earlier < entry; earlier++) {
                if ((int) ids.getFloat(source, token, earlier) == expert) {
                    return -1; // an expert has one place for each token
                }
            }
            return expert % perRank;
        }

        /** Rows of each expert of a rank, from the first to behind the last. */
        long[][] ranges(final int of) {
            final long[][] ranges = new long[localExperts(of)][2];
            for (final int expert : arrivals(of)) {
                ranges[expert][1]++;
            }
            long begin = 0;
            for (int expert = 0; expert < ranges.length; expert++) {
                final long rows = ranges[expert][1];
                begin = isLatency() ? (long) expert * ranks * tokens : begin;
                ranges[expert][0] = begin;
                ranges[expert][1] = begin + rows;
                begin += Math.ceilDiv(rows, alignment) * alignment;
            }
            return ranges;
        }

        /** Experts of a rank in the order in which tokens ask for them. */
        private List<Integer> arrivals(final int of) {
            final List<Integer> all = new ArrayList<>();
            for (int source = 0; source < ranks; source++) {
                for (int token = 0; token < counts[source]; token++) {
                    for (int entry = 0; entry < topK; entry++) {
                        final int expert = localExpert(of, source, token, entry);
                        if (expert >= 0) {
                            all.add(expert);
                        }
                    }
                }
            }
            return all;
        }

        /** Every row that comes to a rank, in the layout that was asked for. */
        List<Arrival> rows(final int of) {
            final long[][] ranges = ranges(of);
            final long[] used = new long[ranges.length];
            final List<Arrival> all = new ArrayList<>();
            for (int source = 0; source < ranks; source++) {
                for (int token = 0; token < counts[source]; token++) {
                    boolean came = false;
                    for (int entry = 0; entry < topK; entry++) {
                        final int expert = localExpert(of, source, token, entry);
                        if (expert < 0 || (layout.equals("rank") && came)) {
                            continue;
                        }
                        came = true;
                        final long row = layout.equals("rank") ? all.size() : ranges[expert][0] + used[expert]++;
                        all.add(new Arrival(source, token, entry, row));
                    }
                }
            }
            return all;
        }
    }

    // ---- dispatch ----

    private static Judgement dispatch(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final Routing routing = new Routing(inputs, List.of("expert", "rank", "latency"));
        final HostTensor x = inputs.tensor("x", 3, DType.BF16, DType.F8_E4M3);
        final long hidden = x.shape().size(2);
        final long[] shape = {routing.ranks, routing.tokens, hidden};
        inputs.tensor("x", shape, x.dtype());
        final long blocks = Math.ceilDiv(hidden, 128);
        try (Arena arena = Arena.ofShared()) {
            final Rows out = Rows.of(theirs, routing, hidden, x.dtype());
            final @Nullable HostTensor given = x.dtype() == DType.BF16
                    ? null
                    : inputs.tensor("x_scales", new long[] {routing.ranks, routing.tokens, blocks}, DType.F32);
            final boolean isCast = x.dtype() == DType.BF16 && out.scales() != null;
            final CheckMeasure ofRows = new CheckMeasure("out");
            final CheckMeasure ofScales = new CheckMeasure("out_scales");
            final Scaled<HostTensor> one = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 1, hidden);
            for (final Arrival arrival : routing.rows(routing.rank)) {
                final HostTensor sent = x.select(0, arrival.source()).select(0, arrival.token());
                if (isCast) {
                    BlockQuantization.quantize(sent.reshape(1, hidden), one, CheckQuantized.scaleKind(inputs));
                }
                addRow(
                        ofRows,
                        out,
                        arrival.row(),
                        out.values(),
                        isCast ? one.values().select(0, 0) : sent);
                if (out.scales() != null) {
                    final HostTensor need = given == null
                            ? one.scales().select(0, 0)
                            : given.select(0, arrival.source()).select(0, arrival.token());
                    addRow(ofScales, out, arrival.row(), out.scales(), need);
                }
            }
            final List<CheckMeasure> measures = new ArrayList<>(List.of(counts(routing, theirs), ofRows));
            if (out.scales() != null) {
                measures.add(ofScales);
            }
            return new Judgement(measures, List.of());
        }
    }

    /** Rows as the layout has them: latency calls have one dimension more in front. */
    private record Rows(HostTensor values, @Nullable HostTensor scales, long places) {
        static Rows of(final CheckTensors theirs, final Routing routing, final long hidden, final DType sent)
                throws IOException {
            final int rank = routing.isLatency() ? 3 : 2;
            final HostTensor out = theirs.tensor("out", rank, DType.BF16, DType.F8_E4M3);
            if (sent == DType.F8_E4M3 && out.dtype() == DType.BF16) {
                throw theirs.misfit("out", out.dtype(), "F8_E4M3, as what was sent");
            }
            final long places = routing.isLatency() ? (long) routing.ranks * routing.tokens : 0;
            final long least = routing.rows(routing.rank).stream()
                    .mapToLong(arrival -> arrival.row() + 1)
                    .max()
                    .orElse(0);
            final long rows = Math.max(out.shape().size(0), least);
            final long[] shape = routing.isLatency()
                    ? new long[] {routing.localExperts(routing.rank), places, hidden}
                    : new long[] {rows, hidden};
            theirs.tensor("out", shape, out.dtype());
            shape[rank - 1] = Math.ceilDiv(hidden, 128);
            return new Rows(
                    out, out.dtype() == DType.BF16 ? null : theirs.tensor("out_scales", shape, DType.F32), places);
        }

        long[] index(final long row, final long column) {
            return places == 0 ? new long[] {row, column} : new long[] {row / places, row % places, column};
        }
    }

    private static void addRow(
            final CheckMeasure measure, final Rows out, final long row, final HostTensor got, final HostTensor need) {
        final float[] exact = need.toFloats();
        for (int column = 0; column < exact.length; column++) {
            final long[] index = out.index(row, column);
            measure.add(got.getFloat(index), exact[column], 0, index);
        }
    }

    /** How many rows came: for each expert, or from each rank. */
    private static CheckMeasure counts(final Routing routing, final CheckTensors theirs) throws IOException {
        if (routing.layout.equals("rank")) {
            final CheckMeasure measure = new CheckMeasure("received");
            final HostTensor received = theirs.tensor("received", new long[] {routing.ranks}, DType.I32);
            final List<Arrival> rows = routing.rows(routing.rank);
            for (int source = 0; source < routing.ranks; source++) {
                final int from = source;
                final long need =
                        rows.stream().filter(row -> row.source() == from).count();
                measure.add(received.getFloat(source), (double) need, 0, source);
            }
            return measure;
        }
        final CheckMeasure measure = new CheckMeasure("expert_rows");
        final long[][] ranges = routing.ranges(routing.rank);
        final long[] shape = routing.isLatency() ? new long[] {ranges.length} : new long[] {ranges.length, 2};
        final HostTensor got = theirs.tensor("expert_rows", shape, DType.I32);
        for (int expert = 0; expert < ranges.length; expert++) {
            if (routing.isLatency()) {
                measure.add(got.getFloat(expert), (double) (ranges[expert][1] - ranges[expert][0]), 0, expert);
            } else {
                measure.add(got.getFloat(expert, 0), (double) ranges[expert][0], 0, expert, 0);
                measure.add(got.getFloat(expert, 1), (double) ranges[expert][1], 0, expert, 1);
            }
        }
        return measure;
    }

    // ---- combine ----

    private static Judgement combine(final CheckTensors inputs, final CheckTensors theirs, final long budget)
            throws IOException {
        final Routing routing = new Routing(inputs, List.of("expert", "latency"));
        final HostTensor x = inputs.tensor("x", 3, DType.BF16);
        final int hidden = Math.toIntExact(x.shape().size(2));
        inputs.tensor("x", new long[] {routing.ranks, x.shape().size(1), hidden}, DType.BF16);
        final long[] choices = {routing.ranks, routing.tokens, routing.topK};
        final HostTensor weights = inputs.tensor("weights", choices, DType.F32);
        final long[] shape = {routing.tokens, hidden};
        final @Nullable HostTensor residual = inputs.optional("residual", shape, DType.BF16);
        final HostTensor out = theirs.tensor("out", shape, DType.BF16);
        final Sum[] sums = new Sum[routing.counts[routing.rank]];
        Arrays.setAll(sums, _ -> new Sum(hidden));
        for (int rank = 0; rank < routing.ranks; rank++) {
            for (final Arrival row : routing.rows(rank)) {
                if (row.source() != routing.rank) {
                    continue;
                }
                if (row.row() >= x.shape().size(1)) {
                    throw inputs.misfit("x", "shape " + x.shape(), "at least " + (row.row() + 1) + " rows");
                }
                sums[row.token()].add(
                        x.select(0, rank).select(0, row.row()).toFloats(),
                        weights.getFloat(row.source(), row.token(), row.entry()));
            }
            for (final Sum sum : sums) {
                sum.endPart();
            }
        }
        final CheckMeasure measure = new CheckMeasure("out");
        for (int token = 0; token < sums.length; token++) {
            if (residual != null) {
                sums[token].addResidual(residual.select(0, token).toFloats());
            }
            sums[token].compare(measure, out.select(0, token).toFloats(), token);
        }
        return Judgement.of(measure);
    }

    /** The sum of a token, by ranks: each rank's part may have been rounded before it travelled. */
    private static final class Sum {
        private final double[] part;
        private final double[] all;
        private final double[] rounded;
        private final double[] magnitude;

        Sum(final int hidden) {
            this.part = new double[hidden];
            this.all = new double[hidden];
            this.rounded = new double[hidden];
            this.magnitude = new double[hidden];
        }

        void add(final float[] row, final float weight) {
            for (int i = 0; i < row.length; i++) {
                part[i] += (double) weight * row[i];
                magnitude[i] += Math.abs((double) weight * row[i]);
            }
        }

        void endPart() {
            for (int i = 0; i < part.length; i++) {
                all[i] += part[i];
                rounded[i] += BF16_ROUNDING * Math.abs(part[i]);
                part[i] = 0;
            }
        }

        /** Adds what never travels. */
        void addResidual(final float[] row) {
            for (int i = 0; i < row.length; i++) {
                all[i] += row[i];
                magnitude[i] += Math.abs(row[i]);
            }
        }

        void compare(final CheckMeasure measure, final float[] got, final long token) {
            for (int i = 0; i < got.length; i++) {
                final double bound =
                        rounded[i] + BF16_ROUNDING * (Math.abs(all[i]) + rounded[i]) + F32_ROUNDING * magnitude[i];
                measure.add(got[i], all[i], bound, token, i);
            }
        }
    }
}
