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

// The group for which launches are planned and bound under fuzz: one rank, which allows every mode, and three channels.
inline h4j_group_spec fuzzed_group() {
  h4j_group_spec spec = group_of(1);
  spec.max_tokens = 96;
  spec.latency_tokens = 64;
  spec.channels = 3;
  return spec;
}

// Opens that group on a device when it is first asked for.
class FuzzedGroup {
 public:
  h4j_group* on(h4j_device* device) {
    if (group_ != nullptr || device == nullptr) return device == nullptr ? nullptr : group_;
    Error error;
    const h4j_group_spec spec = fuzzed_group();
    std::vector<uint8_t> blob(H4J_GROUP_BLOB_BYTES);
    EXPECT_EQ(H4J_OK, h4j_group_open(device, &spec, &group_, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_group_export(group_, blob.data(), H4J_GROUP_BLOB_BYTES, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_group_connect(group_, blob.data(), H4J_GROUP_BLOB_BYTES, &error)) << error.message;
    return group_;
  }

  void close() {
    Error error;
    EXPECT_EQ(H4J_OK, h4j_group_close(group_, &error)) << error.message;
    group_ = nullptr;
  }

 private:
  h4j_group* group_ = nullptr;
};

inline FuzzedGroup& fuzzed_group_open() {
  static FuzzedGroup group;
  return group;
}

}  // namespace h4j::testing
