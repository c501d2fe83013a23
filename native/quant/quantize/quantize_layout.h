// Geometry of the quantize kernels, read by host and device.
#pragma once

#include <cstdint>

namespace h4j::quantize {

inline constexpr int kThreads = 256;
// 1x128: a warp takes 8 rows of one column block: 4 loads in flight a lane, and the 8 scales it writes fill one 32-byte sector.
inline constexpr int kRowsPerWarp = 8;
inline constexpr int kWarpsPerCta = kThreads / 32;
// CTAs that are resident at once. Those of 1x128 blocks stay, so that none waits for the first to end: 5 of them keep an H200 busier than 4, in 48 registers a
// thread, which numbers of 4 bytes do not fit.
constexpr int ctas_per_sm(int block_rows, int64_t element_bytes) { return block_rows == 1 && element_bytes == 2 ? 5 : 4; }

struct Params {
  const void* in;
  int64_t in_ld;
  uint8_t* out;
  int64_t out_ld;
  float* scales;
  int64_t scales_ld;
  int32_t rows;
  int32_t cols;
  int32_t col_blocks;
  int32_t power_of_two;
};

}  // namespace h4j::quantize
