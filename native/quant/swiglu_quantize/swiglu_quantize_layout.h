// Geometry of the swiglu_quantize kernels, read by host and device.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::swiglu_quantize {

inline constexpr int kThreads = 256;
inline constexpr int kWarpsPerCta = kThreads / 32;
// As in quantize: the 8 scales that a warp writes fill one 32-byte sector. 8 loads of 16 bytes are in flight a lane, for which 64 registers suffice.
inline constexpr int kRowsPerWarp = 8;
inline constexpr int kCtasPerSm = 4;
inline constexpr int kMaxGroups = 1024;

struct Params {
  const __nv_bfloat16* in;  // [groups, max_rows, 2 * cols]
  int64_t in_ld;
  int64_t in_group_ld;
  const float* weights;       // [groups, max_rows] or null
  const int32_t* row_counts;  // [groups], masked form
  uint8_t* out;               // [groups, max_rows, cols]
  int64_t out_ld;
  int64_t out_group_ld;
  float* scales;  // (group, row, block) at group * scales_group_ld + block * scales_ld + row
  int64_t scales_ld;
  int64_t scales_group_ld;
  FaultSite row_counts_site;
  int32_t groups;
  int32_t rows;      // in use, or, masked, what a count may be at most
  int32_t max_rows;  // that a group has room for
  int32_t cols;
  int32_t col_blocks;
  int32_t power_of_two;
};

}  // namespace h4j::swiglu_quantize
