#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

constexpr int kPageSize = 16;
constexpr int kBatch = 3;
constexpr int kLength = 50;
constexpr int kPages = 20;
constexpr int kWidth = 4;

h4j_mla_cache_write_spec spec_of(int format, int64_t tokens) {
  h4j_mla_cache_write_spec spec{};
  spec.struct_size = sizeof spec;
  spec.format = format;
  spec.weight_dtype = H4J_BF16;
  spec.position_dtype = H4J_I32;
  spec.page_size = kPageSize;
  spec.request_tokens = 1;
  spec.eps = 1e-6f;
  spec.max_tokens = tokens;
  spec.max_batch = kBatch;
  spec.max_length = kLength;
  spec.pages = kPages;
  return spec;
}

TEST(MlaCacheWritePlan, NamesTheArgumentItRefuses) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  const auto refusal = [&](const h4j_mla_cache_write_spec& spec) {
    h4j_plan* plan = nullptr;
    EXPECT_NE(H4J_OK, h4j_mla_cache_write_plan(&device, &spec, &plan, &error));
    return std::string(error.message);
  };
  EXPECT_EQ("mla_cache_write: format: got 3, need 0..2", refusal(spec_of(3, 4)));
  h4j_mla_cache_write_spec spec = spec_of(0, 4);
  spec.page_size = 48;
  EXPECT_EQ("mla_cache_write: page_size: got 48, need a power of two", refusal(spec));
  spec = spec_of(0, 4);
  spec.position_dtype = H4J_F32;
  EXPECT_EQ("mla_cache_write: position_dtype: got F32 (code 1), need I32 or I64", refusal(spec));
}

class MlaCacheWriteGpu : public testing::GpuTest {
 protected:
  struct Inputs {
    std::vector<uint16_t> in;      // [tokens, 584]
    std::vector<uint16_t> weight;  // [512]
    std::vector<float> rope;       // [kLength, 64]
    std::vector<int32_t> table;    // [kBatch, kWidth]
    h4j_mla_cache_write_args args{};
  };

  Inputs inputs(const h4j_mla_cache_write_spec& spec) {
    std::mt19937_64 random(3);
    Inputs x;
    const auto bf16 = [&](size_t count, float low, float high) {
      std::vector<uint16_t> bits(count);
      const std::vector<float> values = testing::random_floats(count, low, high, random);
      std::transform(values.begin(), values.end(), bits.begin(), testing::float_to_bf16);
      return bits;
    };
    x.in = bf16(static_cast<size_t>(spec.max_tokens * 584), -2.0f, 2.0f);
    x.weight = bf16(512, 0.3f, 2.0f);
    for (int position = 0; position < kLength; ++position) {
      for (int i = 0; i < 64; ++i) {
        const double angle = position * std::pow(10000.0, -(i % 32) / 32.0);
        x.rope.push_back(static_cast<float>(i < 32 ? std::cos(angle) : std::sin(angle)));
      }
    }
    for (int i = 0; i < kBatch * kWidth; ++i) x.table.push_back(i * 7 % kPages);
    const bool is_bf16 = spec.format == H4J_MLA_CACHE_BF16;
    x.args.struct_size = sizeof x.args;
    x.args.in = upload(x.in), x.args.in_ld = 584;
    std::vector<float> wide(512);
    std::transform(x.weight.begin(), x.weight.end(), wide.begin(), testing::bf16_to_float);
    x.args.weight = spec.weight_dtype == H4J_BF16 ? upload(x.weight) : upload(wide);
    x.args.rope = upload(x.rope);
    x.args.block_table = upload(x.table), x.args.block_table_ld = kWidth;
    x.args.cache_ld = is_bf16 ? 576 : 656, x.args.cache_page_ld = kPageSize * x.args.cache_ld;
    x.args.cache = upload(std::vector<uint8_t>(cache_bytes(spec), 0xff));
    return x;
  }

  static size_t cache_bytes(const h4j_mla_cache_write_spec& spec) {
    return static_cast<size_t>(kPages * kPageSize) * (spec.format == H4J_MLA_CACHE_BF16 ? 1152 : 656);
  }

  // Writes each token and compares it with what the formulas give in float64; slots that no token is for must stay as they were.
  void run(int format, h4j_dtype weight_dtype, int scale_kind, const std::vector<int64_t>& positions, const std::vector<int32_t>& requests) {
    SCOPED_TRACE(::testing::Message() << "format " << format << ", weight dtype " << weight_dtype << ", scale kind " << scale_kind);
    h4j_mla_cache_write_spec spec = spec_of(format, static_cast<int64_t>(positions.size()));
    spec.weight_dtype = weight_dtype, spec.scale_kind = scale_kind, spec.position_dtype = requests.empty() ? H4J_I32 : H4J_I64;
    spec.request_tokens = requests.empty() ? 2 : 1;
    Inputs x = inputs(spec);
    x.args.positions = requests.empty() ? upload(std::vector<int32_t>(positions.begin(), positions.end())) : upload(positions);
    if (!requests.empty()) x.args.requests = upload(requests);
    H4J_ASSERT_OK(h4j_mla_cache_write(stream_, &spec, &x.args, &error));
    const auto cache = download<uint8_t>(x.args.cache, cache_bytes(spec));
    const size_t token_bytes = format == H4J_MLA_CACHE_BF16 ? 1152 : 656;
    std::vector<bool> written(cache.size() / token_bytes);
    const auto bf16_at = [&](const uint8_t* bytes) {
      uint16_t bits = 0;
      std::memcpy(&bits, bytes, 2);
      return static_cast<double>(testing::bf16_to_float(bits));
    };
    for (size_t t = 0; t < positions.size(); ++t) {
      SCOPED_TRACE(::testing::Message() << "token " << t);
      const int64_t position = positions[t];
      if (position < 0) continue;
      const size_t request = requests.empty() ? t / 2 : static_cast<size_t>(requests[t]);
      const auto slot = static_cast<size_t>(x.table[request * kWidth + static_cast<size_t>(position) / kPageSize] * kPageSize + position % kPageSize);
      written[slot] = true;
      const uint8_t* token = cache.data() + slot * token_bytes;
      std::vector<double> exact(512);
      double squares = 0;
      for (size_t c = 0; c < 512; ++c) {
        exact[c] = testing::bf16_to_float(x.in[t * 584 + c]);
        squares += exact[c] * exact[c];
      }
      for (size_t c = 0; c < 512; ++c) exact[c] *= static_cast<double>(testing::bf16_to_float(x.weight[c])) / std::sqrt(squares / 512 + 1e-6);
      for (size_t c = 0; c < 512; ++c) {
        if (format == H4J_MLA_CACHE_BF16) {
          ASSERT_NEAR(exact[c], bf16_at(token + 2 * c), std::fabs(exact[c]) * 0x1.01p-8) << "value " << c;
          continue;
        }
        const size_t first = format == H4J_MLA_CACHE_FP8_TOKEN ? 0 : c / 128 * 128;
        double amax = 1e-4;
        for (size_t i = first; i < (format == H4J_MLA_CACHE_FP8_TOKEN ? 512 : first + 128); ++i) amax = std::fmax(amax, std::fabs(exact[i]));
        float scale = 0;
        std::memcpy(&scale, token + 512 + first / 32, 4);
        if (scale_kind == H4J_SCALE_F32) {
          ASSERT_NEAR(amax / 448, static_cast<double>(scale), amax / 448 * 0x1p-18);
        } else {
          ASSERT_EQ(std::exp2(std::ceil(std::log2(amax / 448))), static_cast<double>(scale));
        }
        const double value = exact[c] / static_cast<double>(scale);
        ASSERT_NEAR(value, static_cast<double>(testing::e4m3_to_float(token[c])), testing::e4m3_half_step(value) + std::fabs(value) * 0x1p-18)
            << "value " << c;
      }
      if (format == H4J_MLA_CACHE_FP8_TOKEN) {
        for (size_t i = 516; i < 528; ++i) ASSERT_EQ(0, token[i]) << "byte " << i;
      }
      const uint8_t* rope = token + (format == H4J_MLA_CACHE_BF16 ? 1024 : 528);
      for (size_t i = 0; i < 32; ++i) {
        const double even = testing::bf16_to_float(x.in[t * 584 + 512 + 2 * i]);
        const double odd = testing::bf16_to_float(x.in[t * 584 + 513 + 2 * i]);
        const double cosine = x.rope[static_cast<size_t>(position) * 64 + i];
        const double sine = x.rope[static_cast<size_t>(position) * 64 + 32 + i];
        ASSERT_NEAR(even * cosine - odd * sine, bf16_at(rope + 4 * i), std::fabs(even * cosine - odd * sine) * 0x1p-8 + 0x1p-20) << "pair " << i;
        ASSERT_NEAR(even * sine + odd * cosine, bf16_at(rope + 4 * i + 2), std::fabs(even * sine + odd * cosine) * 0x1p-8 + 0x1p-20) << "pair " << i;
      }
    }
    for (size_t slot = 0; slot < written.size(); ++slot) {
      for (size_t i = 0; !written[slot] && i < token_bytes; ++i) ASSERT_EQ(0xff, cache[slot * token_bytes + i]) << "slot " << slot << ", byte " << i;
    }
  }
};

TEST_F(MlaCacheWriteGpu, WritesEveryLayout) {
  for (const int format : {H4J_MLA_CACHE_BF16, H4J_MLA_CACHE_FP8_BLOCKS, H4J_MLA_CACHE_FP8_TOKEN}) {
    for (const h4j_dtype weight : {H4J_BF16, H4J_F32}) {
      for (const int kind : {H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO}) {
        run(format, weight, kind, {0, 1, 48, 49, 15, -1}, {});
        run(format, weight, kind, {16, 17, 3, -1, 49, 0, 31, 32, 40}, {2, 2, 0, 99, 1, 1, 0, 0, 2});
      }
    }
  }
}

TEST_F(MlaCacheWriteGpu, NamesTheFirstBadToken) {
  const auto message = [&](const std::vector<int32_t>& positions, const std::vector<int32_t>& requests, int32_t page) {
    const h4j_mla_cache_write_spec spec = spec_of(H4J_MLA_CACHE_FP8_BLOCKS, static_cast<int64_t>(positions.size()));
    Inputs x = inputs(spec);
    x.table[5] = page;
    x.args.block_table = upload(x.table);
    x.args.positions = upload(positions);
    x.args.requests = upload(requests);
    Error error;
    EXPECT_EQ(H4J_OK, h4j_mla_cache_write(stream_, &spec, &x.args, &error)) << error.message;
    EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
    EXPECT_EQ(H4J_OK, h4j_stream_synchronize(stream_, &error));
    return std::string(error.message);
  };
  std::vector<int32_t> positions(100, 20);
  std::vector<int32_t> requests(100, 0);
  positions[90] = kLength, positions[70] = -2, positions[71] = 1 << 30;
  EXPECT_EQ("mla_cache_write: positions[70]: got -2, need 0..49", message(positions, requests, 0));
  requests[60] = kBatch;
  EXPECT_EQ("mla_cache_write: requests[60]: got 3, need 0..2", message(positions, requests, 0));
  requests[33] = 1;
  EXPECT_EQ("mla_cache_write: block_table[5]: got 2147480000, need 0..19", message(positions, requests, 2147480000));
}

}  // namespace
}  // namespace h4j
