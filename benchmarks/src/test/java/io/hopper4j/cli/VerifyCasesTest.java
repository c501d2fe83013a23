package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.DType;
import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.Scaling;
import io.hopper4j.attention.MlaCacheFormat;
import io.hopper4j.attention.MlaDecodeSpec;
import io.hopper4j.gemm.GemmSpec;
import io.hopper4j.quant.QuantizeTolerance;
import io.hopper4j.quant.ScaleKind;
import io.hopper4j.reference.BlockScaledProduct;
import io.hopper4j.reference.LatentCacheWriting;
import io.hopper4j.reference.PagedLatentAttention;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;

final class VerifyCasesTest {
    private final List<VerifyCase> cases = VerifyCases.all(3, 1);

    private Set<List<Long>> gemm(final Function<GemmCase, List<Long>> what) {
        return cases.stream()
                .filter(GemmCase.class::isInstance)
                .map(GemmCase.class::cast)
                .map(what)
                .collect(Collectors.toSet());
    }

    @Test
    void meetsAllPairsOfEdgeSizes() {
        final Set<List<Long>> mn = gemm(c -> List.of(c.m(), c.spec().n()));
        final Set<List<Long>> mk = gemm(c -> List.of(c.m(), c.spec().k()));
        final Set<List<Long>> nk = gemm(c -> List.of(c.spec().n(), c.spec().k()));
        for (final long m : new long[] {0, 1, 63, 64, 65, 129, 4097}) {
            for (final long n : new long[] {8, 576, 2112}) {
                assertThat(mn).contains(List.of(m, n));
                for (final long k : new long[] {16, 112, 128, 512, 7168}) {
                    assertThat(mk).contains(List.of(m, k));
                    assertThat(nk).contains(List.of(n, k));
                }
            }
        }
    }

    @Test
    void areThoseOfTheirSeedAndAllServed() {
        assertThat(VerifyCases.all(3, 1)).isEqualTo(cases);
        assertThat(VerifyCases.all(4, 1)).isNotEqualTo(cases);
        try (Kernels<HostTensor> kernels = Kernels.reference()) {
            for (int seed = 0; seed < 50; seed++) {
                for (final VerifyCase c : VerifyCases.all(seed, seed % 2 == 0 ? 1 : 8)) {
                    final boolean served = switch (c) {
                        case GemmCase gemm -> kernels.support(gemm.spec()).isSupported();
                        case QuantizedGemmCase gemm ->
                            kernels.support(gemm.spec()).isSupported();
                        case GroupedGemmCase grouped ->
                            kernels.support(grouped.product().spec()).isSupported();
                        case Bf16GemmCase gemm -> kernels.support(gemm.spec()).isSupported();
                        case Bf16GroupedGemmCase gemm ->
                            kernels.support(gemm.spec()).isSupported();
                        case QuantizeCase quantize ->
                            kernels.support(quantize.spec()).isSupported();
                        case DequantizeCase dequantize ->
                            kernels.support(dequantize.spec()).isSupported();
                        case MlaDecodeCase decode ->
                            kernels.support(decode.spec()).isSupported();
                        case MlaMergeCase merge -> kernels.support(merge.spec()).isSupported();
                        case SwigluQuantizeCase swiglu ->
                            kernels.support(swiglu.spec()).isSupported();
                        case RmsNormQuantizeCase norm ->
                            kernels.support(norm.spec()).isSupported();
                        case TransposeQuantizeCase transpose ->
                            kernels.support(transpose.spec()).isSupported();
                        case MlaCacheWriteCase write ->
                            kernels.support(write.spec()).isSupported();
                        case ExpertGroupCase groups ->
                            kernels.support(groups.call()).isSupported();
                        case GateCase gate -> kernels.support(gate.spec()).isSupported();
                        case BiasUpdateCase update ->
                            kernels.support(update.spec()).isSupported();
                        case ExpertRowsCase rows ->
                            kernels.support(rows.spec()).isSupported()
                                    && (rows.back() == null
                                            || kernels.support(rows.back()).isSupported());
                        default -> false;
                    };
                    assertThat(served).as(c.shape()).isTrue();
                }
            }
        }
    }

    @Test
    void meetsAllPairsOfHeadsAndPages() {
        final Set<List<Integer>> pairs = cases.stream()
                .filter(MlaDecodeCase.class::isInstance)
                .map(c -> ((MlaDecodeCase) c).spec())
                .map(spec -> List.of(spec.heads(), spec.pageSize()))
                .collect(Collectors.toSet());
        for (final int heads : new int[] {1, 3, 8, 16, 64, 128}) {
            for (final int pageSize : new int[] {1, 16, 32, 64, 128, 256}) {
                assertThat(pairs).contains(List.of(heads, pageSize));
            }
        }
    }

    /** The reference's output must pass and a row in another's place must not. */
    @Test
    void seesAWrongAttentionRow() {
        final MlaDecodeCase decode =
                MlaDecodeCase.of(MlaDecodeSpec.of(3, 16, 1, 1, 1).withSQ(2), List.of(40, 0, 65), 1, true, true, 5);
        try (Arena arena = Arena.ofConfined()) {
            final var x = decode.operands(arena, new SplitMix64(5));
            PagedLatentAttention.decode(decode.spec(), x, 3);
            assertThat(decode.compare(x, new SplitMix64(6)).withinBounds()).isTrue();
            final float[] first = x.out().select(0, 0).select(0, 0).select(0, 0).toFloats();
            x.out().select(0, 0).select(0, 0).select(0, 1).setFloats(first);
            assertThat(decode.compare(x, new SplitMix64(6)).withinBounds()).isFalse();
        }
    }

    /** The reference's tokens must pass, and one in another's slot must not. */
    @Test
    void seesAWrongToken() {
        for (final MlaCacheFormat format : MlaCacheFormat.values()) {
            final MlaCacheWriteCase write = MlaCacheWriteCase.of(format, ScaleKind.F32, false, 16, 3, 40, 50, 5);
            try (Arena arena = Arena.ofConfined()) {
                final var x = write.operands(arena);
                LatentCacheWriting.write(write.spec(), x, write.tokens());
                assertThat(write.compare(x, x.cache()).worst()).isLessThanOrEqualTo(1);
                final var place = LatentCacheWriting.place(write.spec(), x, 0);
                final var other = LatentCacheWriting.place(write.spec(), x, 1);
                HostData.copy(
                        x.cache().select(0, other.page()).select(0, other.slot()),
                        x.cache().select(0, place.page()).select(0, place.slot()));
                assertThat(write.compare(x, x.cache()).worst()).isGreaterThan(1);
            }
        }
    }

    @Test
    void samplesTheEdges() {
        final SplitMix64 random = new SplitMix64(1);
        assertThat(HostData.sample(random, 5, 9)).containsExactly(0, 1, 2, 3, 4);
        assertThat(HostData.sample(random, 0, 9)).isEmpty();
        assertThat(HostData.sample(random, 1000, 7))
                .hasSize(7)
                .contains(0, 1, 998, 999)
                .isSorted();
        final List<HostData.Rows> parts = HostData.parts(random, 4097, 7168);
        assertThat(parts).contains(new HostData.Rows(0, 128), new HostData.Rows(4096, 1));
        assertThat(HostData.parts(random, 300, 8))
                .containsExactly(new HostData.Rows(0, 128), new HostData.Rows(128, 128), new HostData.Rows(256, 44));
    }

    @Test
    void countsDifferingBits() {
        try (Arena arena = Arena.ofConfined()) {
            final HostTensor x = HostTensor.allocate(arena, DType.F32, 4);
            final HostTensor y = HostTensor.allocate(arena, DType.F32, 4);
            x.setFloats(0f, 1f, Float.NaN, 2f);
            y.setFloats(-0f, 1f, Float.NaN, Math.nextUp(2f));
            assertThat(HostData.differing(x, y)).isEqualTo(2);
            final HostTensor p = HostTensor.allocate(arena, DType.F8_E4M3, 2);
            final HostTensor q = HostTensor.allocate(arena, DType.F8_E4M3, 2);
            p.segment().fill((byte) 0x7F);
            q.segment().fill((byte) 0xFF);
            assertThat(HostData.differing(p, q))
                    .as("both NaN, but FP8 NaN has one code")
                    .isEqualTo(2);
        }
    }

    /** An error of one part in a hundred in one element must not pass, nor a row of another's. */
    @Test
    void seesAWrongElement() {
        final GemmSpec spec = GemmSpec.of(5, 24, 272).withOut(DType.F32);
        try (Arena arena = Arena.ofConfined()) {
            final SplitMix64 random = new SplitMix64(2);
            final var a = HostData.randomQuantized(arena, random, spec.aScaling(), 5, 272);
            final var b = HostData.randomQuantized(arena, random, spec.bScaling(), 24, 272);
            final HostTensor out = HostData.matrix(arena, DType.F32, 5, 24);
            final long[] rows = LongStream.range(0, 5).toArray();
            final long[] columns = LongStream.range(0, 24).toArray();
            final var exact = BlockScaledProduct.sample(a, b, null, rows, columns);
            BlockScaledProduct.multiply(a, b, null, out);
            assertThat(GemmCase.compare(exact, out).withinBounds()).isTrue();
            out.setFloat(out.getFloat(3, 7) + 0.01f * (float) exact.magnitude(3, 7), 3, 7);
            assertThat(GemmCase.compare(exact, out).withinBounds()).isFalse();
        }
    }

    @Test
    void seesAWrongQuantizedElementAndAWrongScale() {
        final GemmSpec spec = GemmSpec.of(5, 144, 272).withQuantizedOut(ScaleKind.F32);
        try (Arena arena = Arena.ofConfined()) {
            final SplitMix64 random = new SplitMix64(3);
            final var a = HostData.randomQuantized(arena, random, spec.aScaling(), 5, 272);
            final var b = HostData.randomQuantized(arena, random, spec.bScaling(), 144, 272);
            final var out = HostData.quantized(arena, Scaling.ACTIVATION_1X128, 5, 144);
            final var exact = BlockScaledProduct.sample(
                    a,
                    b,
                    null,
                    LongStream.range(0, 5).toArray(),
                    LongStream.range(0, 144).toArray());
            BlockScaledProduct.multiply(a, b, out, ScaleKind.F32);
            final QuantizeTolerance right = new QuantizeTolerance(ScaleKind.F32);
            QuantizedGemmCase.add(right, exact, out);
            assertThat(right.withinBounds()).isTrue();
            assertThat(right.count()).isEqualTo(5 * 144);

            int largest = 128; // of the last block: it is 448 or -448
            while (Math.abs(out.values().getFloat(3, largest)) != 448) {
                largest++;
            }
            final float value = out.values().getFloat(3, largest);
            out.values().setFloat(value / 448 * 416, 3, largest);
            final QuantizeTolerance wrongValue = new QuantizeTolerance(ScaleKind.F32);
            QuantizedGemmCase.add(wrongValue, exact, out);
            assertThat(wrongValue.worstValueRatio()).isGreaterThan(1);

            out.values().setFloat(value, 3, largest);
            out.scales().setFloat(out.scales().getFloat(2, 1) * 1.01f, 2, 1);
            final QuantizeTolerance wrongScale = new QuantizeTolerance(ScaleKind.F32);
            QuantizedGemmCase.add(wrongScale, exact, out);
            assertThat(wrongScale.worstScaleRatio()).isGreaterThan(1);
        }
    }
}
