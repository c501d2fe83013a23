// The weighted sum of a token's rows, a warp a stretch of columns.
#pragma once

#include <cuda_bf16.h>

#include "moe/unpermute/unpermute_layout.h"
#include "tile/fault.cuh"
#include "tile/fp8.cuh"

namespace h4j::unpermute {

inline constexpr unsigned kWarp = 0xffffffffu;
using Vector = tile::Vector8<__nv_bfloat16>;

// place and weight: those of lane j are of the token's j-th row; col: this lane's first of 8 columns.
__device__ inline void sum_columns(const Params& params, int64_t token, int place, float weight, int col) {
  const bool inside = col < params.hidden;
  const auto* x = static_cast<const __nv_bfloat16*>(params.x) + col;
  float sum[8] = {};
  for (int first = 0; first < params.top_k; first += kRowsAhead) {
    Vector loaded[kRowsAhead];
#pragma unroll
    for (int j = 0; j < kRowsAhead; ++j) {
      const int row = __shfl_sync(kWarp, place, first + j);  // -1 behind top_k
      loaded[j] = row >= 0 && inside ? Vector::load(x + row * params.x_ld) : Vector::zero();
    }
#pragma unroll
    for (int j = 0; j < kRowsAhead; ++j) {
      const float factor = __shfl_sync(kWarp, weight, first + j);
      if (__shfl_sync(kWarp, place, first + j) < 0) continue;
      float values[8];
      loaded[j].to_floats(values);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = fmaf(factor, values[i], sum[i]);
    }
  }
  if (!inside) return;
  if (params.residual != nullptr) {
    float values[8];
    Vector::load(static_cast<const __nv_bfloat16*>(params.residual) + token * params.residual_ld + col).to_floats(values);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += values[i];
  }
  Vector::store(static_cast<__nv_bfloat16*>(params.out) + token * params.out_ld + col, sum);
}

__global__ void __launch_bounds__(kThreads, kCtasPerSm) unpermute_kernel(const __grid_constant__ Params params) {
  const int lane = threadIdx.x % 32;
  constexpr int kItemElements = kPieceElements * kPiecesPerItem;
  const int parts = (params.hidden + kItemElements - 1) / kItemElements;
  const int64_t items = int64_t{params.tokens} * parts;
  for (int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; item < items; item += int64_t{gridDim.x} * kWarps) {
    const int64_t token = item / parts;
    const int begin = static_cast<int>(item % parts) * kItemElements;
    const int end = min(begin + kItemElements, params.hidden);
    int place = -1;
    float weight = 1.0f;
    if (lane < params.top_k) {
      place = __ldg(params.places + token * params.top_k + lane);
      if (params.weights != nullptr) weight = __ldg(params.weights + token * params.top_k + lane);
    }
    const bool bad = place < -1 || place >= params.rows;
    const unsigned all_bad = __ballot_sync(kWarp, bad);
    if (bad) {
      if (begin == 0 && lane == __ffs(all_bad) - 1) tile::report_fault(params.bad_places, token * params.top_k + lane, place, -1, params.rows - 1);
      place = -1;
    }
    __syncwarp();
    for (int col = begin; col < end; col += kPieceElements) sum_columns(params, token, place, weight, col + lane * 8);
  }
}

}  // namespace h4j::unpermute
