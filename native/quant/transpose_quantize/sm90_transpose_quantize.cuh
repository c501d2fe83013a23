// E4M3 of the transposed matrix, a scale for each column and 128 rows of the source, one pass over memory.
#pragma once

#include "quant/transpose_quantize/transpose_quantize_layout.h"
#include "tile/fp8.cuh"
#include "tile/tile_walk.cuh"

namespace h4j::transpose_quantize {

using Vector = tile::Vector8<__nv_bfloat16>;

struct Shared {
  // [column][unit of 8 rows]: the unit u of a column lies at u ^ (column / 8), so that neither the lanes that write one unit of 16 columns 8 apart nor
  // those that read all units of a column meet in a bank.
  alignas(16) uint2 columns[kTile][kTile / 8];
  float warp_amax[kThreads / 32][kTile];
  tile::Divider by[kTile];
};

// The largest magnitude of each of 8 columns over the thread's rows, NaN left out.
__device__ inline void column_amax(const Vector (&rows)[kRowsPerThread], float (&amax)[8]) {
  __nv_bfloat162 largest[4] = {};
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const uint32_t words[4] = {rows[r].bits.x, rows[r].bits.y, rows[r].bits.z, rows[r].bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_bfloat162 pair;
      memcpy(&pair, &words[i], sizeof pair);
      largest[i] = __hmax2(largest[i], __habs2(pair));
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(largest[i]);
    amax[2 * i] = pair.x, amax[2 * i + 1] = pair.y;
  }
}

// Element c of a row as F32.
__device__ inline float element(const Vector& row, int c) {
  const uint32_t words[4] = {row.bits.x, row.bits.y, row.bits.z, row.bits.w};
  return __uint_as_float(c % 2 == 0 ? words[c / 2] << 16 : words[c / 2] & 0xffff0000u);
}

// 16 bytes of a row of the output, of which `count` are inside.
__device__ inline void store_rows(uint8_t* target, uint4 bytes, int count) {
  if (count >= 16) {
    *reinterpret_cast<uint4*>(target) = bytes;
    return;
  }
  const uint32_t words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if (i < count) target[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
}

__global__ void __launch_bounds__(kThreads, kCtasPerSm) transpose_quantize_kernel(const __grid_constant__ Params params) {
  __shared__ Shared shared;
  const int chunk = threadIdx.x % 16;  // 8 columns
  const int unit = threadIdx.x / 16;   // 8 rows
  const int row_tiles = (params.rows + kTile - 1) / kTile;

  for (tile::TileWalk item(blockIdx.x, gridDim.x, params.col_tiles); item.row < row_tiles; item.next()) {
    const int row0 = item.row * kTile;
    const int col0 = item.col * kTile;
    Vector rows[kRowsPerThread];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int row = row0 + unit * kRowsPerThread + r;
      const int col = col0 + chunk * 8;
      rows[r] = row < params.rows && col < params.cols ? Vector::load(params.in + row * params.in_ld + col) : Vector::zero();
    }

    float amax[8];
    column_amax(rows, amax);
#pragma unroll
    for (int c = 0; c < 8; ++c) amax[c] = fmaxf(amax[c], __shfl_xor_sync(0xffffffffu, amax[c], 16));
    if (threadIdx.x % 32 < 16) {
#pragma unroll
      for (int c = 0; c < 8; ++c) shared.warp_amax[threadIdx.x / 32][c * 16 + chunk] = amax[c];  // column c of all chunks side by side: no bank twice
    }
    __syncthreads();  // also keeps this tile's columns from overwriting what a slow warp still stores of the last
    if (threadIdx.x < kTile) {
      const int c = threadIdx.x / 16;
      const int column = threadIdx.x % 16 * 8 + c;
      float largest = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kThreads / 32; ++warp) largest = fmaxf(largest, shared.warp_amax[warp][threadIdx.x]);
      const float scale = tile::block_scale(largest, params.power_of_two != 0);
      shared.by[threadIdx.x] = tile::Divider::of(scale);
      if (col0 + column < params.cols) params.scales[item.row * params.scales_ld + col0 + column] = scale;
    }
    __syncthreads();

#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const tile::Divider by = shared.by[c * 16 + chunk];
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) pairs[i] = tile::to_e4m3(by(element(rows[2 * i], c)), by(element(rows[2 * i + 1], c)));
      shared.columns[chunk * 8 + c][unit ^ chunk] = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
    }
    __syncthreads();

    // 8 lanes write the 128 bytes of a column.
#pragma unroll
    for (int pass = 0; pass < kTile * 8 / kThreads; ++pass) {
      const int column = pass * (kThreads / 8) + threadIdx.x / 8;
      const int first = threadIdx.x % 8 * 16;
      const int place = (first / 8) ^ (column / 8);  // of the unit with the lower rows; the other is its neighbour, before it where column / 8 is odd
      const uint4 pair = *reinterpret_cast<const uint4*>(&shared.columns[column][place & ~1]);
      const uint4 bytes = place % 2 == 0 ? pair : make_uint4(pair.z, pair.w, pair.x, pair.y);
      const int count = params.rows - row0 - first;
      if (col0 + column < params.cols && count > 0) {
        store_rows(params.out + (col0 + column) * params.out_ld + row0 + first, bytes, count);
      }
    }
  }
}

}  // namespace h4j::transpose_quantize
