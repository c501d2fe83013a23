// D = A B^T (+ C) for one row of A, at the speed at which B can be read. Sums are F32 throughout: no tensor core.
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

template <int kParts, class Out>
__global__ void __launch_bounds__(32 * kGemvWarps, 4) gemv_kernel(const __grid_constant__ GemvParams params) {
  constexpr int kGroups = kGemvWarps / kParts;  // of kGemvBRows rows of B
  __shared__ float sums[kGemvWarps][kGemvBRows];

  cudaTriggerProgrammaticLaunchCompletion();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  // As many CTAs as there is work for, or as the SM budget allows: then each goes on to further rows.
  for (int base = static_cast<int>(blockIdx.x) * kGroups * kGemvBRows; base < params.n; base += static_cast<int>(gridDim.x) * kGroups * kGemvBRows) {
    const int first = base + warp / kParts * kGemvBRows;  // row of B; N is a multiple of 8, so four are there or none
    float sum[kGemvBRows] = {};
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
        const uint4 a_words = *reinterpret_cast<const uint4*>(params.a + k);
        const float scale = params.a_scales[k / 128 * params.a_scales_ld] * b_scales[k / 128];
        float part[kGemvBRows] = {};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          const float4 a = to_floats((&a_words.x)[word]);
#pragma unroll
          for (int i = 0; i < kGemvBRows; ++i) {
            const float4 values = to_floats((&b_words[i].x)[word]);
            part[i] = fmaf(a.x, values.x, part[i]);
            part[i] = fmaf(a.y, values.y, part[i]);
            part[i] = fmaf(a.z, values.z, part[i]);
            part[i] = fmaf(a.w, values.w, part[i]);
          }
        }
#pragma unroll
        for (int i = 0; i < kGemvBRows; ++i) sum[i] = fmaf(part[i], scale, sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kGemvBRows; ++i) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
      if (lane == i) sums[warp][i] = sum[i];
    }
    __syncthreads();
    cudaGridDependencySynchronize();  // warps without work have not waited, and the kernel ahead may still read what D replaces

    const int i = threadIdx.x;
    if (i < kGroups * kGemvBRows && base + i < params.n) {
      float total = 0.0f;
#pragma unroll
      for (int part = 0; part < kParts; ++part) total += sums[i / kGemvBRows * kParts + part][i % kGemvBRows];
      if (params.c != nullptr) total += static_cast<float>(static_cast<const Out*>(params.c)[base + i]);
      static_cast<Out*>(params.d)[base + i] = static_cast<Out>(total);
    }
    __syncthreads();  // the next rows' sums take the place of these
  }
}

}  // namespace h4j::gemm
