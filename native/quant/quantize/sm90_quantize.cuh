// E4M3 values and F32 scales from F32, F16 or BF16, one pass over memory.
#pragma once

#include "quant/quantize/quantize_layout.h"
#include "tile/fp8.cuh"
#include "tile/tile_walk.cuh"

namespace h4j::quantize {

// 16 lanes share a 1x128 block, 8 elements each, so a load instruction of the warp covers two rows.
template <class In>
__device__ void quantize_rows(const Params& params) {
  using Vector = tile::Vector8<In>;
  constexpr int kPairs = kRowsPerWarp / 2;
  const int lane = threadIdx.x % 32;
  const int half = lane / 16;
  const int chunk = lane % 16;
  const int row_groups = (params.rows + kRowsPerWarp - 1) / kRowsPerWarp;
  const In* in = static_cast<const In*>(params.in);

  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarpsPerCta + threadIdx.x / 32;
  for (tile::TileWalk item(warp, static_cast<int64_t>(gridDim.x) * kWarpsPerCta, params.col_blocks); item.row < row_groups; item.next()) {
    const int64_t row0 = static_cast<int64_t>(item.row) * kRowsPerWarp + half;
    const int64_t col = static_cast<int64_t>(item.col) * tile::kScaleBlock + chunk * 8;
    // Rows 2 * i < left of this half of the warp, from row0 on, are there.
    const int left = col < params.cols ? params.rows - static_cast<int>(row0) : 0;
    const In* source = in + row0 * params.in_ld + col;
    Vector loaded[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; ++i, source += 2 * params.in_ld) loaded[i] = 2 * i < left ? Vector::load(source) : Vector::zero();
    float own_scale = 0.0f;  // of row 2 * chunk + half, kept by the first lanes of each half
    uint8_t* target = params.out + row0 * params.out_ld + col;
#pragma unroll
    for (int i = 0; i < kPairs; ++i, target += 2 * params.out_ld) {
      const float scale = tile::block_scale(tile::half_warp_largest(loaded[i].largest_magnitude()), params.power_of_two != 0);
      if (chunk == i) own_scale = scale;
      float values[8];
      loaded[i].to_floats(values);
      if (2 * i < left) *reinterpret_cast<uint2*>(target) = tile::quantize8(values, scale);
    }
    if (chunk < kPairs && row0 + 2 * chunk < params.rows) params.scales[item.col * params.scales_ld + row0 + 2 * chunk] = own_scale;
  }
}

// A CTA a 128x128 block: 16 threads a row, 16 rows at a time, the whole block in registers.
template <class In>
__device__ void quantize_squares(const Params& params) {
  using Vector = tile::Vector8<In>;
  constexpr int kPasses = tile::kScaleBlock * tile::kScaleBlock / 8 / kThreads;
  constexpr int kRowsPerPass = tile::kScaleBlock / kPasses;
  __shared__ float warp_amax[kWarpsPerCta];
  const int chunk = threadIdx.x % 16;
  const int64_t row_blocks = (params.rows + tile::kScaleBlock - 1) / tile::kScaleBlock;
  const In* in = static_cast<const In*>(params.in);

  for (int64_t item = blockIdx.x; item < row_blocks * params.col_blocks; item += gridDim.x) {
    const int64_t row_block = item / params.col_blocks;
    const int64_t col_block = item % params.col_blocks;
    const int64_t row0 = row_block * tile::kScaleBlock + threadIdx.x / 16;
    const int64_t col = col_block * tile::kScaleBlock + chunk * 8;
    Vector loaded[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int64_t row = row0 + i * kRowsPerPass;
      loaded[i] = row < params.rows && col < params.cols ? Vector::load(in + row * params.in_ld + col) : Vector::zero();
    }
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) amax = fmaxf(amax, loaded[i].largest_magnitude());
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, distance));
    if (threadIdx.x % 32 == 0) warp_amax[threadIdx.x / 32] = amax;
    __syncthreads();
    amax = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarpsPerCta; ++warp) amax = fmaxf(amax, warp_amax[warp]);
    __syncthreads();  // without it a fast warp's next block would overwrite a maximum that a slow warp still reads

    const float scale = tile::block_scale(amax, params.power_of_two != 0);
    if (threadIdx.x == 0) params.scales[row_block * params.scales_ld + col_block] = scale;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int64_t row = row0 + i * kRowsPerPass;
      float values[8];
      loaded[i].to_floats(values);
      if (row < params.rows && col < params.cols) {
        *reinterpret_cast<uint2*>(params.out + row * params.out_ld + col) = tile::quantize8(values, scale);
      }
    }
  }
}

template <class In, int kBlockRows>
__global__ void __launch_bounds__(kThreads, ctas_per_sm(kBlockRows, sizeof(In))) quantize_kernel(const __grid_constant__ Params params) {
  static_assert(kBlockRows == 1 || kBlockRows == tile::kScaleBlock, "blocks are 1x128 or 128x128");
  if constexpr (kBlockRows == 1) {
    quantize_rows<In>(params);
  } else {
    quantize_squares<In>(params);
  }
}

}  // namespace h4j::quantize
