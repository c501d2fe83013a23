// RMSNorm (arXiv 1910.07467) of a row that one or several warps hold in vectors of eight BF16, in F32.
#pragma once

#include "tile/fp8.cuh"

namespace h4j::tile {

using Bf16x8 = Vector8<__nv_bfloat16>;

// 1 / sqrt(mean of squares + eps) of the row, in every lane of its warps. `scratch` holds kWarps floats; with more than one warp, all warps of the CTA belong
// to the row and two rows in turn need two scratches: the barrier is passed once, so a fast warp may write its next sum while a slow one still reads.
template <int kWarps, int kVectors>
__device__ float inverse_rms(const Bf16x8 (&row)[kVectors], int cols, float eps, float* scratch) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    float values[8];
    row[v].to_floats(values);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(values[i], values[i], sum);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if constexpr (kWarps > 1) {
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += scratch[warp];
  }
  return rsqrtf(sum / static_cast<float>(cols) + eps);
}

// Eight elements of the row: x * weight * factor.
template <class Weight>
__device__ void normalize8(const Bf16x8& x, const Vector8<Weight>& weight, float factor, float (&values)[8]) {
  float weights[8];
  x.to_floats(values);
  weight.to_floats(weights);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = values[i] * weights[i] * factor;
}

}  // namespace h4j::tile
