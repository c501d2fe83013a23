// Geometry of the gate, read by host and device.
#pragma once

#include <cstdint>

namespace h4j::gate {

// A warp a token; small CTAs, so that a few tokens spread over many SMs.
inline constexpr int kWarpsPerCta = 4;
inline constexpr int kThreads = 32 * kWarpsPerCta;
inline constexpr int kCtasPerSm = 16;
inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxGroups = 32;
inline constexpr int kMaxTopK = 32;

// Lanes that share a group's experts: lanes g * n .. g * n + n - 1 hold group g, so the shuffles inside it have power-of-two distances.
constexpr int lanes_per_group(int groups) {
  int lanes = 32;
  while (lanes * groups > 32) lanes /= 2;
  return lanes;
}

// Experts that a lane holds.
constexpr int experts_per_lane(int experts, int groups) {
  const int lanes = lanes_per_group(groups);
  return (experts / groups + lanes - 1) / lanes;
}

struct Params {
  const void* logits;  // [tokens, experts]
  int64_t logits_ld;
  const float* bias;        // [experts] or null
  const uint8_t* disabled;  // [experts] or null
  int32_t* ids;             // [tokens, top_k]
  float* weights;           // [tokens, top_k]
  int32_t* counts;          // [experts] or null
  int32_t tokens;
  int32_t experts;
  int32_t groups;
  int32_t kept_groups;
  int32_t top_k;
  int32_t lanes_per_group;
  int32_t softmax;
  int32_t normalize;
  float scale;
};

}  // namespace h4j::gate
