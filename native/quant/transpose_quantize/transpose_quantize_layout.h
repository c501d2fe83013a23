// Geometry of the transpose_quantize kernel, read by host and device.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace h4j::transpose_quantize {

inline constexpr int kTile = 128;  // columns and rows of a tile: a scale block high, and a full line of 128 bytes in the output
inline constexpr int kThreads = 256;
inline constexpr int kRowsPerThread = 8;  // one behind the other, so that the bytes of a column are packed by the conversion itself
// A thread holds 8 x 8 elements in 32 registers; with 64 registers 4 CTAs an SM keep 128 KiB of loads in flight.
inline constexpr int kCtasPerSm = 4;

struct Params {
  const __nv_bfloat16* in;  // [rows, cols]
  int64_t in_ld;
  uint8_t* out;  // [cols, rows]
  int64_t out_ld;
  float* scales;  // (col, row block) at row block * scales_ld + col
  int64_t scales_ld;
  int32_t rows;
  int32_t cols;
  int32_t col_tiles;
  int32_t power_of_two;
};

}  // namespace h4j::transpose_quantize
