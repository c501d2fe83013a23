// Two results of attention over disjoint sets of keys into one, by their log-sum-exp.
#pragma once

#include "attention/mla_merge/mla_merge_layout.h"
#include "tile/fp8.cuh"

namespace h4j::mla_merge {

template <class Out>
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ Params params) {
  using Vector = tile::Vector8<Out>;
  const int lane = threadIdx.x % 32;
  for (int row = static_cast<int>(blockIdx.x * kRowsPerCta + threadIdx.x / 32); row < params.rows; row += static_cast<int>(gridDim.x) * kRowsPerCta) {
    const int head = row % params.heads;
    const int token = row / params.heads % params.s_q;
    const int64_t request = row / params.heads / params.s_q;
    const int64_t at = (request * params.heads + head) * params.s_q + token;
    // +infinity marks a part without keys: its weight is exp(-infinity).
    const float given_a = params.lse_a[at];
    const float given_b = params.lse_b[at];
    const float lse_a = given_a == INFINITY ? -INFINITY : given_a;
    const float lse_b = given_b == INFINITY ? -INFINITY : given_b;
    const float largest = fmaxf(lse_a, lse_b);
    const bool empty = largest == -INFINITY;
    const float exp_a = empty ? 0.0f : expf(lse_a - largest);
    const float exp_b = empty ? 0.0f : expf(lse_b - largest);
    const float factor = empty ? 0.0f : 1.0f / (exp_a + exp_b);
    const float weight_a = exp_a * factor;
    const float weight_b = exp_b * factor;
#pragma unroll
    for (int i = 0; i < kValueDim; i += 256) {
      const int64_t element = int64_t{row} * kValueDim + i + lane * 8;
      float a[8];
      float b[8];
      Vector::load(static_cast<const Out*>(params.out_a) + element).to_floats(a);
      Vector::load(static_cast<const Out*>(params.out_b) + element).to_floats(b);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        // What a part without weight holds, NaN perhaps, does not matter.
        a[j] = (exp_a > 0.0f ? weight_a * a[j] : 0.0f) + (exp_b > 0.0f ? weight_b * b[j] : 0.0f);
      }
      Vector::store(static_cast<Out*>(params.out) + element, a);
    }
    __syncwarp();  // the log-sum-exp may be written over one that other lanes read
    if (lane == 0) params.lse[at] = empty ? INFINITY : largest + logf(exp_a + exp_b);
  }
}

}  // namespace h4j::mla_merge
