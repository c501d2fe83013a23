// Geometry of the bias update, read by host and device.
#pragma once

#include <cstdint>

namespace h4j::bias_update {

inline constexpr int kThreads = 1024;  // an expert each
inline constexpr int kMaxExperts = kThreads;

struct Params {
  int32_t* counts;  // [experts]
  float* bias;      // [experts]
  int32_t experts;
  int32_t clear_counts;
  float step;
};

}  // namespace h4j::bias_update
