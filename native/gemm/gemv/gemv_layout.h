// The product for one row of A: what the host's choice and the kernel both read.
#pragma once

#include <cstdint>

#include "runtime/plan.h"

namespace h4j::gemm {

inline constexpr int kGemvWarps = 8;        // of a CTA
inline constexpr int kGemvBRows = 4;        // rows of B that a warp works on at once
inline constexpr int kGemvWarpK = 32 * 16;  // elements of K that a warp reads of each row at once

struct GemvParams {
  const uint8_t* a;       // [k]
  const float* a_scales;  // [k / 128], an element every a_scales_ld
  const uint8_t* b;       // [n, k]
  const float* b_scales;  // [n / 128, k / 128]
  const void* c;          // [n] of D's type, or null
  void* d;                // [n]
  int64_t a_scales_ld;
  int64_t b_ld;
  int64_t b_scales_ld;
  int32_t n;
  int32_t k;
};

// How a CTA's warps are divided: `k_parts` of them share the K of the same rows of B.
struct GemvChoice {
  int k_parts;
  int grid;
};

// Enough warps to fill the SMs, no more parts than reads of K: a part that reads nothing only waits. Where not all SMs may be used, a CTA each: more could
// land on others.
constexpr GemvChoice choose_gemv(int64_t n, int64_t k, int sms, bool all_sms) {
  constexpr int kWarpsPerSm = 32;
  const int64_t groups = ceil_div(n, kGemvBRows);
  int parts = 1;
  while (parts < kGemvWarps && 2 * parts <= ceil_div(k, kGemvWarpK) && groups * parts < int64_t{kWarpsPerSm} * sms) parts *= 2;
  const int64_t ctas = ceil_div(groups * parts, kGemvWarps);
  return {parts, static_cast<int>(all_sms || ctas < sms ? ctas : sms)};
}

// The kernel of a choice; `f32`: writes F32 instead of BF16.
const void* gemv_stub(const GemvChoice& choice, bool f32);

}  // namespace h4j::gemm
