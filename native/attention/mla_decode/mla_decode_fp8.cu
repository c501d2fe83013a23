#include "attention/mla_decode/mla_decode_kernels.h"
#include "attention/mla_decode/sm90_mla_decode_fp8.cuh"

namespace h4j::mla {

// A stub and the shared memory of the kernel of so many rows.
#define H4J_MLA_FP8(rows)                                                                                                                \
  static_assert(sizeof(Fp8Storage<rows>) <= 232448, "Q, probabilities and the blocks on their way must fit the shared memory of a CTA"); \
  KernelCode mla_decode_fp8_##rows##_kernel() { return {reinterpret_cast<const void*>(&fp8_decode_kernel<rows>), sizeof(Fp8Storage<rows>)}; }
H4J_MLA_FP8(16)
H4J_MLA_FP8(32)
H4J_MLA_FP8(64)
#undef H4J_MLA_FP8

}  // namespace h4j::mla
