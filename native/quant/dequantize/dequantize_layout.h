// Geometry of the dequantize kernels, read by host and device.
#pragma once

#include <cstdint>

namespace h4j::dequantize {

inline constexpr int kThreads = 256;
inline constexpr int kElementsPerThread = 8;
// Two thousand threads an SM keep enough 8-byte loads in flight.
inline constexpr int kCtasPerSm = 8;

struct Params {
  const uint8_t* in;
  int64_t in_ld;
  const float* scales;
  int64_t scales_row_stride;  // between scales of neighbouring row blocks
  int64_t scales_col_stride;  // between scales of neighbouring column blocks
  void* out;
  int64_t out_ld;
  int32_t rows;
  int32_t cols;
  int32_t block_rows;
};

}  // namespace h4j::dequantize
