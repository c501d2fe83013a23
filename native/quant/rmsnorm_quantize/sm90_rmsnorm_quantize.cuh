// RMSNorm and E4M3 with 1x128 scales, one pass over memory; a residual joins before.
#pragma once

#include "quant/rmsnorm_quantize/rmsnorm_quantize_layout.h"
#include "tile/fp8.cuh"
#include "tile/rms_norm.cuh"

namespace h4j::rmsnorm_quantize {

using Vector = tile::Bf16x8;

// x + residual, rounded to BF16, which is what is stored and normalised.
__device__ inline Vector add_residual(const Vector& x, __nv_bfloat16* residual) {
  float sum[8];
  float addend[8];
  x.to_floats(sum);
  Vector(Vector::load_changing(residual)).to_floats(addend);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] += addend[i];
  const Vector rounded(Vector::of(sum));
  *reinterpret_cast<uint4*>(residual) = rounded.bits;
  return rounded;
}

// Vector v of a thread lies at 8 * (v * kRowThreads + its place in the row): 16 neighbours hold one 1x128 block.
template <class Weight, int kRowThreads, int kVectors>
__global__ void __launch_bounds__(threads_of(kRowThreads), ctas_per_sm(kRowThreads)) rmsnorm_quantize_kernel(const __grid_constant__ Params params) {
  constexpr int kWarps = kRowThreads / 32;
  constexpr int kRowsPerCta = threads_of(kRowThreads) / kRowThreads;
  static_assert(kRowsPerCta == 1 || kWarps == 1, "the barrier of several warps is the CTA's");
  __shared__ float scratch[2][kWarps];
  const int place = static_cast<int>(threadIdx.x % kRowThreads);
  const Weight* weight = static_cast<const Weight*>(params.weight);

  int turn = 0;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerCta + threadIdx.x / kRowThreads; row < params.rows;
       row += static_cast<int64_t>(gridDim.x) * kRowsPerCta) {
    const __nv_bfloat16* in = params.in + row * params.in_ld + place * 8;
    uint8_t* out = params.out + row * params.out_ld + place * 8;
    Vector x[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int col = (v * kRowThreads + place) * 8;
      x[v] = col < params.cols ? Vector::load(in + v * kRowThreads * 8) : Vector::zero();
    }
    if (params.residual != nullptr) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int col = (v * kRowThreads + place) * 8;
        if (col < params.cols) x[v] = add_residual(x[v], params.residual + row * params.residual_ld + col);
      }
    }
    float inverse_rms = tile::inverse_rms<kWarps>(x, params.cols, params.eps, scratch[turn]);
    asm volatile("" : "+f"(inverse_rms));  // kept: the compiler would make it anew for each vector
    turn ^= 1;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int col = (v * kRowThreads + place) * 8;
      const bool in_cols = col < params.cols;
      float values[8];  // normalised but for the factor of the row, which joins the one of the scale
      tile::normalize8<Weight>(x[v], in_cols ? tile::Vector8<Weight>::load(weight + col) : tile::Vector8<Weight>::zero(), 1.0f, values);
      const float amax = tile::half_warp_largest(tile::largest_magnitude(values)) * inverse_rms;
      const float scale = tile::block_scale(amax, params.power_of_two != 0);
      if (!in_cols) continue;
      *reinterpret_cast<uint2*>(out + v * kRowThreads * 8) = tile::quantize8_times(values, inverse_rms * tile::reciprocal_of(scale));
      if (params.normalized != nullptr) {
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] *= inverse_rms;
        Vector::store(params.normalized + row * params.normalized_ld + col, values);
      }
      if (place % 16 == 0) params.scales[(v * (kRowThreads / 16) + place / 16) * params.scales_ld + row] = scale;
    }
  }
}

}  // namespace h4j::rmsnorm_quantize
