// Geometry of the rmsnorm_quantize kernels, read by host and device.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace h4j::rmsnorm_quantize {

inline constexpr int kMaxCols = 32768;

// A row's threads are a CTA; rows of one warp share CTAs of 4, which keeps the number of CTAs an SM within its limit of 32.
constexpr int threads_of(int row_threads) { return row_threads < 64 ? 4 * row_threads : row_threads; }
// 16 registers hold the row's part of a thread; with 56 all in all, up to 1152 threads an SM keep 70 KiB of loads in flight.
constexpr int ctas_per_sm(int row_threads) { return 1152 / threads_of(row_threads); }

struct Params {
  const __nv_bfloat16* in;  // [rows, cols]
  int64_t in_ld;
  __nv_bfloat16* residual;  // [rows, cols] or null
  int64_t residual_ld;
  const void* weight;  // [cols]
  uint8_t* out;        // [rows, cols]
  int64_t out_ld;
  float* scales;  // (row, block) at block * scales_ld + row
  int64_t scales_ld;
  __nv_bfloat16* normalized;  // [rows, cols] or null
  int64_t normalized_ld;
  float eps;
  int32_t rows;
  int32_t cols;
  int32_t power_of_two;
};

}  // namespace h4j::rmsnorm_quantize
