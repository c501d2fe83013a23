package io.hopper4j.internal;

import io.hopper4j.OpSpec;
import io.hopper4j.Support.Reason;
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
import io.hopper4j.moe.GateSpec;
import io.hopper4j.moe.PermuteSpec;
import io.hopper4j.moe.UnpermuteSpec;
import io.hopper4j.quant.DequantizeSpec;
import io.hopper4j.quant.QuantizeSpec;
import io.hopper4j.quant.RmsNormQuantizeSpec;
import io.hopper4j.quant.SwigluQuantizeSpec;
import io.hopper4j.quant.TransposeQuantizeSpec;
import java.util.List;

/** What the tensors of an operation need, whatever computes it. */
public final class Needs {
    private Needs() {}

    /**
     * {@return what a spec asks that nothing here can do; empty if nothing}
     *
     * @param operation the spec
     */
    public static List<Reason> unmet(final OpSpec operation) {
        return switch (operation) {
            case GemmSpec gemm -> Operands.unmetNeeds(gemm);
            case Bf16GemmSpec gemm -> Bf16Operands.unmetNeeds(gemm);
            case Bf16GroupedGemmSpec gemm -> Bf16Operands.unmetNeeds(gemm);
            case GroupedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case MaskedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case KGroupedGemmSpec gemm -> GroupedOperands.unmetNeeds(gemm);
            case QuantizeSpec quantize -> Operands.unmetNeeds(quantize);
            case DequantizeSpec dequantize -> Operands.unmetNeeds(dequantize);
            case MlaDecodeSpec decode -> AttentionOperands.unmetNeeds(decode);
            case MlaCacheWriteSpec write -> AttentionOperands.unmetNeeds(write);
            case TransposeQuantizeSpec transpose -> Operands.unmetNeeds(transpose);
            case RmsNormQuantizeSpec norm -> Operands.unmetNeeds(norm);
            case SwigluQuantizeSpec swiglu -> Operands.unmetNeeds(swiglu);
            case MlaMergeSpec merge -> AttentionOperands.unmetNeeds(merge);
            case DispatchSpec dispatch -> List.of();
            case CombineSpec combine -> List.of();
            case GateSpec gate -> RoutingOperands.unmetNeeds(gate);
            case BiasUpdateSpec update -> RoutingOperands.unmetNeeds(update);
            case PermuteSpec permute -> RoutingOperands.unmetNeeds(permute);
            case UnpermuteSpec unpermute -> RoutingOperands.unmetNeeds(unpermute);
        };
    }
}
