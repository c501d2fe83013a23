// Geometry of unpermute, read by host and device.
#pragma once

#include <cstdint>

#include "runtime/fault.h"

namespace h4j::unpermute {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kCtasPerSm = 3;
inline constexpr int kMaxTopK = 32;
// 8 elements a lane at a time, of so many rows before they are summed: 8 loads in flight a lane.
inline constexpr int kPieceElements = 256;
inline constexpr int kRowsAhead = 8;
// Pieces of a token that a warp sums, so that places and weights are fetched once for several.
inline constexpr int kPiecesPerItem = 4;

struct Params {
  const void* x;  // BF16 [rows, hidden]
  int64_t x_ld;
  const int32_t* places;  // [tokens, top_k]
  const float* weights;   // [tokens, top_k] or null
  const void* residual;   // BF16 [tokens, hidden] or null
  int64_t residual_ld;
  void* out;  // BF16 [tokens, hidden]
  int64_t out_ld;
  FaultSite bad_places;
  int32_t tokens;
  int32_t rows;
  int32_t hidden;
  int32_t top_k;
};

}  // namespace h4j::unpermute
