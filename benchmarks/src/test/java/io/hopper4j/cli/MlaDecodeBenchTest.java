package io.hopper4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.hopper4j.HostTensor;
import io.hopper4j.Kernels;
import io.hopper4j.cli.BenchOperation.CaseList;
import org.assertj.core.data.Percentage;
import org.junit.jupiter.api.Test;

final class MlaDecodeBenchTest {
    private final MlaDecodeBench decode = new MlaDecodeBench(MlaDecodeBench.Part.DECODE);
    private final MlaDecodeBench schedule = new MlaDecodeBench(MlaDecodeBench.Part.SCHEDULE);

    /** FlashMLA's benchmark printed these rates for these times: batch 128, 16 heads, 4096 tokens, and 128 heads, 2 query tokens, 8192. */
    @Test
    void countsWorkAsThePeersDo() {
        final BenchOperation.Work few = BenchOperations.parse("mla_decode b=128 h=16 sq=1 sk=4096 page=64")
                .work();
        assertThat(few.bytes() / 231.2 / 1e3).isCloseTo(2632, Percentage.withPercentage(0.5));
        assertThat(few.flops() / 231.2 / 1e6).isCloseTo(79, Percentage.withPercentage(0.5));
        final BenchOperation.Work many = BenchOperations.parse("mla_decode b=128 h=128 sq=2 sk=8192 page=64")
                .work();
        assertThat(many.bytes() / 838.8 / 1e3).isCloseTo(1525, Percentage.withPercentage(0.5));
        assertThat(many.flops() / 838.8 / 1e6).isCloseTo(696, Percentage.withPercentage(0.5));
    }

    @Test
    void isBoundByMemoryOrByTheRateOfItsType() {
        final BenchOperation.Work many = BenchOperations.parse("mla_decode b=128 h=128 sq=2 sk=8192 page=64")
                .work();
        assertThat(many.isBf16()).isTrue();
        assertThat(many.floorMicroseconds(3000, 800)).isCloseTo(many.flops() / 800e6, Percentage.withPercentage(0.01));
        assertThat(many.floorMicroseconds(1000, 800)).isCloseTo(many.bytes() / 1000e3, Percentage.withPercentage(0.01));
    }

    /** Merging is launched while the decode runs: its own time counts what it waits. */
    @Test
    void timesWholeStepsWherePeersDo() {
        assertThat(decode.peersUseEvents()).isTrue();
        assertThat(schedule.peersUseEvents()).isFalse();
    }

    @Test
    void listsCasesThatAreServed() {
        try (Kernels<HostTensor> kernels = Kernels.reference()) {
            for (final CaseList list : CaseList.values()) {
                assertThat(decode.cases(list)).isNotEmpty().doesNotHaveDuplicates();
                for (final BenchShape shape : decode.cases(list)) {
                    final MlaDecodeCase made = decode.decodeCase(shape, 1);
                    assertThat(kernels.support(made.spec()).isSupported())
                            .as(shape.toString())
                            .isTrue();
                    assertThat(made.spec().maxBatch()).isEqualTo(shape.get("b"));
                    assertThat(made.spec().maxLength()).isEqualTo(shape.get("sk"));
                }
            }
        }
        final MlaDecodeBench fp8 = new MlaDecodeBench(MlaDecodeBench.Part.FP8_DECODE);
        assertThat(decode.cases(CaseList.PEERS))
                .as("FP8 rows have one of BF16 to be held against")
                .containsAll(fp8.cases(CaseList.DEEPSEEK_V3));
        final MlaDecodeBench mixed = new MlaDecodeBench(MlaDecodeBench.Part.MIXED_DECODE);
        assertThat(mixed.cases(CaseList.PEERS)).singleElement().satisfies(shape -> {
            final MlaDecodeCase made = mixed.decodeCase(shape, 1);
            assertThat(made.spec().maxBatch()).isEqualTo(4);
            assertThat(made.spec().maxLength()).isEqualTo(45118);
        });
        assertThat(schedule.cases(CaseList.DEEPSEEK_V3)).hasSize(3);
        assertThat(schedule.cases(CaseList.PEERS)).isEmpty();
        assertThat(BenchOperations.families()).contains("attention");
    }
}
