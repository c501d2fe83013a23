package io.hopper4j.reference;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.moe.PermuteOperands;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteOperands;
import io.hopper4j.moe.UnpermuteSpec;
import java.lang.foreign.Arena;
import org.jspecify.annotations.Nullable;

/** Rows of tokens to their experts and back; see {@link PermuteSpec} and {@link UnpermuteSpec}. */
final class ExpertRows {
    private ExpertRows() {}

    static void permute(final PermuteSpec spec, final PermuteOperands<HostTensor> x, final long tokens) {
        if (spec.inDType() == spec.outDType()) {
            place(spec, x, x.in(), x.inScales(), tokens);
            return;
        }
        try (Arena arena = Arena.ofConfined()) {
            final Scaled<HostTensor> rows = Scaled.activation(
                    HostTensor.allocate(arena, DType.F8_E4M3, tokens, spec.hidden()),
                    HostTensor.allocate(arena, Scaled.activationScaleSpec(tokens, spec.hidden())));
            BlockQuantization.quantize(x.in().slice(0, 0, tokens), rows, spec.scaleKind());
            place(spec, x, rows.values(), rows.scales(), tokens);
        }
    }

    private static void place(
            final PermuteSpec spec,
            final PermuteOperands<HostTensor> x,
            final HostTensor rows,
            final @Nullable HostTensor scales,
            final long tokens) {
        final int k = spec.topK();
        final int count = Math.toIntExact(tokens * k);
        int end = 0;
        for (int e = 0; e < spec.experts(); e++) {
            for (int i = 0; i < count; i++) {
                if (Integers.get(x.ids(), i) == e) {
                    copy(rows.select(0, i / k), x.out().select(0, end));
                    if (scales != null && x.outScales() != null) {
                        copy(scales.select(0, i / k), x.outScales().select(0, end));
                    }
                    Integers.set(x.places(), i, end);
                    setSource(x, end++, i);
                }
            }
            while (end % spec.alignment() != 0) {
                clear(x.out().select(0, end));
                if (x.outScales() != null) {
                    clear(x.outScales().select(0, end));
                }
                setSource(x, end++, -1);
            }
            Integers.set(x.groupEnds(), e, end);
        }
        int bad = -1;
        for (int i = count - 1; i >= 0; i--) {
            final int id = Integers.get(x.ids(), i);
            if (id < 0 || id >= spec.experts()) {
                Integers.set(x.places(), i, -1);
                bad = id == -1 ? bad : i;
            }
        }
        if (bad >= 0) {
            throw new BadData("moe_permute: ids[" + bad + "]: got " + Integers.get(x.ids(), bad) + ", need -1.."
                    + (spec.experts() - 1));
        }
    }

    private static void setSource(final PermuteOperands<HostTensor> x, final int row, final int source) {
        if (x.sources() != null) {
            Integers.set(x.sources(), row, source);
        }
    }

    /** Bits of a row; floats would change the code of a NaN. */
    private static void copy(final HostTensor from, final HostTensor to) {
        if (from.spec().isContiguous() && to.spec().isContiguous()) {
            to.segment().copyFrom(from.segment());
            return;
        }
        for (long c = 0; c < from.shape().size(0); c++) {
            final int size = from.dtype().size();
            to.segment()
                    .asSlice(to.spec().offsetOf(c) * size, size)
                    .copyFrom(from.segment().asSlice(from.spec().offsetOf(c) * size, size));
        }
    }

    private static void clear(final HostTensor row) {
        row.setFloats(new float[Math.toIntExact(row.spec().elements())]);
    }

    static void unpermute(final UnpermuteSpec spec, final UnpermuteOperands<HostTensor> x, final long tokens) {
        final int k = spec.topK();
        final int hidden = Math.toIntExact(spec.hidden());
        final HostTensor weights = x.weights();
        final HostTensor residual = x.residual();
        for (long t = 0; t < tokens; t++) {
            final float[] sum = new float[hidden];
            for (int j = 0; j < k; j++) {
                final int place = Integers.get(x.places(), t * k + j);
                if (place >= 0 && place < spec.rows()) {
                    final float weight = weights == null ? 1 : weights.getFloat(t, j);
                    final float[] row = x.x().select(0, place).toFloats();
                    for (int c = 0; c < hidden; c++) {
                        sum[c] = Math.fma(weight, row[c], sum[c]);
                    }
                }
            }
            if (residual != null) {
                final float[] row = residual.select(0, t).toFloats();
                for (int c = 0; c < hidden; c++) {
                    sum[c] += row[c];
                }
            }
            x.out().select(0, t).setFloats(sum);
        }
        for (long i = 0; i < tokens * k; i++) {
            final int place = Integers.get(x.places(), i);
            if (place < -1 || place >= spec.rows()) {
                throw new BadData("moe_unpermute: places[" + i + "]: got " + place + ", need -1.." + (spec.rows() - 1));
            }
        }
    }
}
