// The latency form: what its handle holds, and the parameters of its kernels.
#pragma once

#include "moe/combine/combine_layout.h"

namespace h4j::moe {

// In memory of the caller.
struct LatencyHandle {
  int64_t tokens;   // I32 [ranks]: tokens of each rank
  int64_t ranks;    // u64 [latency_tokens]: ranks that have this rank's tokens, as bits
  int64_t rows;     // I32 [ranks][latency_tokens][top_k]: row in `out`, -1: not an expert of this rank
  int64_t weights;  // F32 [ranks][latency_tokens][top_k]
  int64_t bytes;
};

constexpr LatencyHandle latency_handle(const Shape& s) {
  LatencyHandle o{};
  o.tokens = 0;
  o.ranks = up(int64_t{4} * s.ranks, 256);
  o.rows = up(o.ranks + int64_t{8} * s.latency_tokens, 256);
  o.weights = up(o.rows + s.latency_rows() * s.top_k * 4, 256);
  o.bytes = up(o.weights + s.latency_rows() * s.top_k * 4, 256);
  return o;
}

// Shared memory of dispatch: every entry's local expert, and how many entries of the same warp's range come before; how many of an expert come before each
// warp's range, [kWarps][experts_per_rank]; and a piece of a row for each warp.
constexpr int64_t latency_entry_bytes(const Shape& s) { return up(s.latency_rows() * s.top_k * 2, 16); }
constexpr int64_t latency_count_bytes(const Shape& s) { return up(int64_t{kWarps} * s.experts_per_rank * 2, 16); }
constexpr int64_t latency_piece_bytes(const Shape& s) { return up(int64_t{s.segment_lines()} * kLinePayload + 16, 16); }
constexpr int64_t latency_shared_bytes(const Shape& s) {
  return 2 * latency_entry_bytes(s) + latency_count_bytes(s) + kWarps * latency_piece_bytes(s);
}

inline constexpr uint16_t kNoExpert = 0xffff;

struct LatencyDispatchParams {
  Group group;
  const uint8_t* x;
  int64_t x_pitch;  // bytes
  const float* x_scales;
  int64_t x_scales_ld;
  const int32_t* experts;
  const float* weights;
  uint8_t* handle;
  LatencyHandle handle_at;
  int32_t* received;
  uint8_t* out;  // [local experts][ranks * latency_tokens] rows of out_pitch bytes
  int64_t out_pitch;
  float* out_scales;
  int64_t out_scales_ld;
  int32_t* expert_rows;
  FaultSite fault;
  int32_t tokens;
  int32_t cast;
  int32_t power_of_two;
  int32_t start, finish;  // which halves this kernel does
};

struct LatencyCombineParams {
  Group group;
  const uint8_t* handle;
  LatencyHandle handle_at;
  const uint8_t* x;
  int64_t x_pitch;
  const uint8_t* residual;
  int64_t residual_pitch;
  uint8_t* out;
  int64_t out_pitch;
  int32_t tokens;
  int32_t start, finish;
};

}  // namespace h4j::moe
