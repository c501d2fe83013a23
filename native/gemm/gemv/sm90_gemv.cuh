// D = A B^T (+ C) for up to four rows of A, at the speed at which B can be read. Sums are F32 throughout: no tensor core.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "gemm/gemv/gemv_layout.h"

namespace h4j::gemm {

// 16 bytes of each of a warp's rows of B. They are read once, so they leave the L1 to A and the scales.
__device__ inline void load_b(const uint8_t* b, int64_t ld, int k, uint4 (&words)[kGemvBRows]) {
#pragma unroll
  for (int i = 0; i < kGemvBRows; ++i) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                 : "l"(b + i * ld + k));
  }
}

__device__ inline float4 to_floats(uint32_t four) {
  const float2 low = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(four), __NV_E4M3)));
  const float2 high = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(four >> 16), __NV_E4M3)));
  return make_float4(low.x, low.y, high.x, high.y);
}

template <int kRows, int kParts, class Out>
__global__ void __launch_bounds__(32 * kGemvWarps, kRows == 1   ? 4
                                                   : kRows == 2 ? 3
                                                                : 2)  // bytes in flight: more rows of A need more registers
    gemv_kernel(const __grid_constant__ GemvParams params) {
  constexpr int kGroups = kGemvWarps / kParts;  // of kGemvBRows rows of B
  constexpr int kSums = kGemvBRows * kRows;     // of a warp
  __shared__ float sums[kGemvWarps][kSums];

  cudaTriggerProgrammaticLaunchCompletion();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  // As many CTAs as there is work for, or as the SM budget allows: then each goes on to further rows.
  for (int base = static_cast<int>(blockIdx.x) * kGroups * kGemvBRows; base < params.n; base += static_cast<int>(gridDim.x) * kGroups * kGemvBRows) {
    const int first = base + warp / kParts * kGemvBRows;  // row of B; N is a multiple of 8, so four are there or none
    float sum[kSums] = {};
    if (first < params.n) {
      const uint8_t* b = params.b + first * params.b_ld;
      const float* b_scales = params.b_scales + first / 128 * params.b_scales_ld;
      int k = warp % kParts * kGemvWarpK + lane * 16;
      uint4 next[kGemvBRows];
      if (k < params.k) load_b(b, params.b_ld, k, next);
      cudaGridDependencySynchronize();  // A may be what the kernel ahead writes; B is not, where this one was allowed to start before the other's end
#pragma unroll 1
      for (; k < params.k; k += kParts * kGemvWarpK) {
        uint4 b_words[kGemvBRows];
#pragma unroll
        for (int i = 0; i < kGemvBRows; ++i) b_words[i] = next[i];
        if (k + kParts * kGemvWarpK < params.k) load_b(b, params.b_ld, k + kParts * kGemvWarpK, next);
        uint4 a_words[kRows];
        float scale[kRows];
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const int there = min(row, params.m - 1);  // rows past the last are computed as the last and not stored
          a_words[row] = *reinterpret_cast<const uint4*>(params.a + there * params.a_ld + k);
          scale[row] = params.a_scales[k / 128 * params.a_scales_ld + there] * b_scales[k / 128];
        }
        float part[kSums] = {};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          float4 a[kRows];
#pragma unroll
          for (int row = 0; row < kRows; ++row) a[row] = to_floats((&a_words[row].x)[word]);
#pragma unroll
          for (int i = 0; i < kGemvBRows; ++i) {
            const float4 values = to_floats((&b_words[i].x)[word]);
#pragma unroll
            for (int row = 0; row < kRows; ++row) {
              float& total = part[i * kRows + row];
              total = fmaf(a[row].x, values.x, total);
              total = fmaf(a[row].y, values.y, total);
              total = fmaf(a[row].z, values.z, total);
              total = fmaf(a[row].w, values.w, total);
            }
          }
        }
#pragma unroll
        for (int i = 0; i < kSums; ++i) sum[i] = fmaf(part[i], scale[i % kRows], sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
      if (lane == i) sums[warp][i] = sum[i];
    }
    __syncthreads();
    cudaGridDependencySynchronize();  // warps without work have not waited, and the kernel ahead may still read what D replaces

    for (int i = threadIdx.x; i < kGroups * kSums; i += blockDim.x) {
      const int group = i / kSums;
      const int row = i % kRows;
      const int col = base + group * kGemvBRows + i % kSums / kRows;
      if (row >= params.m || col >= params.n) continue;
      float total = 0.0f;
#pragma unroll
      for (int part = 0; part < kParts; ++part) total += sums[group * kParts + part][i % kSums];
      if (params.c != nullptr) total += static_cast<float>(static_cast<const Out*>(params.c)[row * params.c_ld + col]);
      static_cast<Out*>(params.d)[row * params.d_ld + col] = static_cast<Out>(total);
    }
    __syncthreads();  // the next rows' sums take the place of these
  }
}

}  // namespace h4j::gemm
