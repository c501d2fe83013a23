// What the GPU suites of the native tests share: an open device and stream, buffers, E4M3 and BF16 on the host.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "hopper4j.h"

namespace h4j::testing {

// An error struct ready for a call.
struct Error : h4j_error {
  Error() : h4j_error{} { struct_size = sizeof(h4j_error); }
};

// H4J_ASSERT_OK(call(..., &error)) shows the library's message.
#define H4J_ASSERT_OK(call)                   \
  do {                                        \
    ::h4j::testing::Error error;              \
    ASSERT_EQ(H4J_OK, call) << error.message; \
  } while (false)

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int32_t count = 0;
    Error error;
    ASSERT_EQ(H4J_OK, h4j_device_count(&count, &error));
    ASSERT_GT(count, 0) << "this suite needs a CUDA device: " << error.message;
    H4J_ASSERT_OK(h4j_device_open(0, &device_, &error));
    H4J_ASSERT_OK(h4j_stream_create(device_, &stream_, &error));
    info_.struct_size = sizeof info_;
    H4J_ASSERT_OK(h4j_device_properties(0, &info_, &error));
  }

  void TearDown() override {
    Error error;
    for (const uint64_t address : allocated_) EXPECT_EQ(H4J_OK, h4j_memory_free(stream_, address, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_stream_close(stream_, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_device_close(device_, &error)) << error.message;
  }

  uint64_t allocate(size_t bytes) {
    Error error;
    uint64_t address = 0;
    EXPECT_EQ(H4J_OK, h4j_memory_allocate(stream_, static_cast<int64_t>(bytes), &address, &error)) << error.message;
    if (address != 0) allocated_.push_back(address);
    return address;
  }

  template <class T>
  uint64_t upload(const std::vector<T>& values) {
    Error error;
    const size_t bytes = values.size() * sizeof(T);
    const uint64_t address = allocate(bytes);
    EXPECT_EQ(H4J_OK, h4j_copy(stream_, address, reinterpret_cast<uint64_t>(values.data()), static_cast<int64_t>(bytes), &error)) << error.message;
    synchronize();
    return address;
  }

  template <class T>
  std::vector<T> download(uint64_t address, size_t count) {
    Error error;
    std::vector<T> values(count);
    EXPECT_EQ(H4J_OK, h4j_copy(stream_, reinterpret_cast<uint64_t>(values.data()), address, static_cast<int64_t>(count * sizeof(T)), &error))
        << error.message;
    synchronize();
    return values;
  }

  void synchronize() {
    Error error;
    EXPECT_EQ(H4J_OK, h4j_stream_synchronize(stream_, &error)) << error.message;
  }

  h4j_device* device_ = nullptr;
  h4j_stream* stream_ = nullptr;
  h4j_device_info info_{};

 private:
  std::vector<uint64_t> allocated_;
};

inline float e4m3_to_float(uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int fraction = bits & 7;
  if (exponent == 15 && fraction == 7) return std::nanf("");
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9) : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

// By how much a value in E4M3 may be off from the number it stands for, in units of its scale: half the distance of neighbours at x.
inline double e4m3_half_step(double x) { return std::exp2(std::floor(std::log2(std::fmax(std::fabs(x), 0x1p-6))) - 4); }

inline float bf16_to_float(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline uint16_t float_to_bf16(float value) {
  uint32_t word = 0;
  std::memcpy(&word, &value, sizeof word);
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

// Normal values as quantisation leaves them: their largest come near 448. The truncation bound of a product is one for data like these; a few huge
// products among tiny ones would exceed it.
inline std::vector<uint8_t> random_e4m3(size_t count, std::mt19937_64& random) {
  std::vector<float> codes;  // the positive values in order, so that the nearest is found by search
  for (int bits = 0; bits < 0x7f; ++bits) codes.push_back(e4m3_to_float(static_cast<uint8_t>(bits)));
  std::normal_distribution<float> normal(0.0f, 130.0f);
  std::vector<uint8_t> values(count);
  for (uint8_t& value : values) {
    const float wanted = normal(random);
    const auto next = std::lower_bound(codes.begin(), codes.end(), std::fabs(wanted));
    const auto magnitude = next == codes.end() ? codes.size() - 1 : static_cast<size_t>(next - codes.begin());
    value = static_cast<uint8_t>(magnitude | (wanted < 0.0f ? 0x80u : 0u));
  }
  return values;
}

inline std::vector<float> random_floats(size_t count, float low, float high, std::mt19937_64& random) {
  std::uniform_real_distribution<float> distribution(low, high);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random);
  return values;
}

}  // namespace h4j::testing
