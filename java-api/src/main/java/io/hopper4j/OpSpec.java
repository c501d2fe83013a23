package io.hopper4j;

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

/** What an operation is to compute and how large it may be: all that is needed to choose a kernel, and no addresses. */
public sealed interface OpSpec
        permits Bf16GemmSpec,
                Bf16GroupedGemmSpec,
                BiasUpdateSpec,
                CombineSpec,
                DequantizeSpec,
                DispatchSpec,
                GateSpec,
                GemmSpec,
                GroupedGemmSpec,
                KGroupedGemmSpec,
                MaskedGemmSpec,
                MlaCacheWriteSpec,
                MlaDecodeSpec,
                MlaMergeSpec,
                PermuteSpec,
                QuantizeSpec,
                RmsNormQuantizeSpec,
                SwigluQuantizeSpec,
                TransposeQuantizeSpec,
                UnpermuteSpec {
    /** {@return the name of the operation in messages and reports, such as {@code gemm}} */
    String operation();

    /** {@return at most how many SMs the operation may use; 0: all} */
    int smBudget();
}
