// What the tests of expert groups share.
#pragma once

#include "testing/gpu.h"

namespace h4j::testing {

inline h4j_device_info h100() {
  h4j_device_info info{};
  info.struct_size = sizeof info;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &info, &error));
  return info;
}

inline h4j_group_spec group_of(int ranks) {
  h4j_group_spec spec{};
  spec.struct_size = sizeof spec;
  spec.ranks = ranks;
  spec.experts = 256;
  spec.top_k = 8;
  spec.hidden = 7168;
  spec.max_tokens = 4096;
  spec.channels = 1;
  spec.row_dtype = H4J_F8_E4M3;
  return spec;
}

// The group for which launches are planned under fuzz: it allows every mode, and three channels.
inline h4j_group_spec fuzzed_group() {
  h4j_group_spec spec = group_of(8);
  spec.latency_tokens = 64;
  spec.channels = 3;
  return spec;
}

}  // namespace h4j::testing
