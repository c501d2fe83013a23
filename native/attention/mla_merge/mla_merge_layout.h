// Geometry of the merge, read by host and device.
#pragma once

#include <cstdint>

namespace h4j::mla_merge {

inline constexpr int kValueDim = 512;
inline constexpr int kThreads = 256;
inline constexpr int kRowsPerCta = kThreads / 32;
// Two thousand threads an SM keep enough loads in flight.
inline constexpr int kCtasPerSm = 8;

struct Params {
  const void* out_a;   // [batch, s_q, heads, 512]
  const float* lse_a;  // [batch, heads, s_q]
  const void* out_b;
  const float* lse_b;
  void* out;
  float* lse;
  int32_t rows;  // batch * s_q * heads
  int32_t heads;
  int32_t s_q;
};

}  // namespace h4j::mla_merge
