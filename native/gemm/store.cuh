// How accumulators leave the registers. Value i of a thread's part of a [64, N] accumulator lies at row + 8 * (i / 2 % 2), col + 8 * (i / 4) + i % 2, where
// row and col are first_row() and first_col().
#pragma once

#include <cute/arch/copy_sm90.hpp>

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

namespace h4j::gemm {

__device__ inline int first_row() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }
__device__ inline int first_col() { return threadIdx.x % 4 * 2; }

__device__ inline float2 load_pair(const float* source) { return *reinterpret_cast<const float2*>(source); }
__device__ inline float2 load_pair(const __nv_bfloat16* source) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(source)); }
__device__ inline void write_pair(float* target, float2 value) { *reinterpret_cast<float2*>(target) = value; }
__device__ inline void write_pair(__nv_bfloat16* target, float2 value) { *reinterpret_cast<__nv_bfloat162*>(target) = __float22bfloat162_rn(value); }

// A [64, N] accumulator rounded to BF16 in shared memory: boxes of kStoreCols columns, swizzled by their row width, as TMA stores them.
template <int kStoreCols>
struct StagedRows {
  static constexpr int kRowBytes = kStoreCols * 2;
  static constexpr int kBoxBytes = 64 * kRowBytes;

  // The swizzles of 128, 64 and 32 bytes: 3, 2 and 1 bits from bit 7 up are folded onto bit 4 up.
  __device__ static uint32_t swizzled(uint32_t inside) {
    constexpr uint32_t kSwizzleMask = kRowBytes / 16 - 1;
    return inside ^ ((inside >> 7 & kSwizzleMask) << 4);
  }

  // By the 128 threads of a warp group.
  template <int kValues>
  __device__ static void stage(const float (&sum)[kValues], uint8_t* area) {
    const int lane = threadIdx.x % 32;
    // stmatrix: lane l gives the row address of matrix l / 8: two matrices down, then two across.
    const int stage_row = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < kValues; i += 8) {  // 16 columns
      const int column = i * 2;
      const uint32_t inside = stage_row * kRowBytes + (column % kStoreCols + lane / 16 * 8) * 2;
      uint8_t* target = area + column / kStoreCols * kBoxBytes + swizzled(inside);
      uint32_t words[4];
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const __nv_bfloat162 values = __floats2bfloat162_rn(sum[i + 2 * pair], sum[i + 2 * pair + 1]);
        memcpy(&words[pair], &values, sizeof values);
      }
      cute::SM90_U32x4_STSM_N::copy(words[0], words[1], words[2], words[3], *reinterpret_cast<cute::uint128_t*>(target));
    }
  }

  // The first `rows` rows and `cols` columns, a multiple of 8, to a matrix of 16-byte aligned rows: where rows follow that are not to be written.
  // By the 128 threads of a warp group, after a barrier.
  template <int kTileN>
  __device__ static void copy_rows(const uint8_t* area, int rows, int cols, __nv_bfloat16* target, int64_t ld) {
    constexpr int kChunks = kTileN / 8;  // of 16 bytes in a row
    for (int i = threadIdx.x % 128; i < rows * kChunks; i += 128) {
      const int row = i / kChunks;
      const int col = i % kChunks * 8;
      if (col >= cols) continue;
      const uint32_t inside = row * kRowBytes + col % kStoreCols * 2;
      const uint4 values = *reinterpret_cast<const uint4*>(area + col / kStoreCols * kBoxBytes + swizzled(inside));
      *reinterpret_cast<uint4*>(target + row * ld + col) = values;
    }
  }
};

}  // namespace h4j::gemm
