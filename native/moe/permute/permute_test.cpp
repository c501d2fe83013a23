#include <algorithm>
#include <array>

#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_moe_permute_spec spec_of(h4j_dtype in, h4j_dtype out, int64_t tokens, int64_t hidden, int experts, int top_k, int alignment) {
  h4j_moe_permute_spec spec{};
  spec.struct_size = sizeof spec;
  spec.in_dtype = in, spec.out_dtype = out;
  spec.experts = experts, spec.top_k = top_k, spec.alignment = alignment;
  spec.max_tokens = tokens, spec.hidden = hidden;
  return spec;
}

int64_t rows_of(const h4j_moe_permute_spec& spec) {
  const int64_t ids = spec.max_tokens * spec.top_k;
  return ids + std::min<int64_t>(spec.experts, ids) * (spec.alignment - 1);
}

std::string refusal(const h4j_moe_permute_spec& spec) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  EXPECT_NE(H4J_OK, h4j_moe_permute_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MoePermutePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("moe_permute: in_dtype: got F32 (code 1), need BF16 or F8_E4M3", refusal(spec_of(H4J_F32, H4J_BF16, 4, 128, 8, 2, 1)));
  EXPECT_EQ("moe_permute: out_dtype: got BF16 (code 3), need F8_E4M3", refusal(spec_of(H4J_F8_E4M3, H4J_BF16, 4, 128, 8, 2, 1)));
  EXPECT_EQ("moe_permute: alignment: got 96, need a power of two", refusal(spec_of(H4J_BF16, H4J_BF16, 4, 128, 8, 2, 96)));
  EXPECT_EQ("moe_permute: hidden: got 136, need a multiple of 16", refusal(spec_of(H4J_BF16, H4J_F8_E4M3, 4, 136, 8, 2, 1)));
  EXPECT_EQ("moe_permute: top_k: got 33, need 1..32", refusal(spec_of(H4J_BF16, H4J_BF16, 4, 128, 64, 33, 1)));
  EXPECT_EQ("moe_permute: max_tokens: got 1000000000, need at most 2147483392 rows of out",
            refusal(spec_of(H4J_BF16, H4J_BF16, 1000000000, 128, 64, 8, 1)));
}

class MoePermuteGpu : public testing::GpuTest {
 protected:
  enum class Routing { kUniform, kOneExpert, kNowhere, kHoles };

  std::vector<int32_t> ids_of(const h4j_moe_permute_spec& spec, Routing routing, std::mt19937_64& random) {
    std::vector<int32_t> ids(static_cast<size_t>(spec.max_tokens * spec.top_k));
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random() % static_cast<unsigned>(spec.experts));
      if (routing == Routing::kOneExpert) id = spec.experts - 1;
      if (routing == Routing::kNowhere || (routing == Routing::kHoles && random() % 3 == 0)) id = -1;
    }
    return ids;
  }

  // `rows` tokens in use of spec.max_tokens.
  void check(const h4j_moe_permute_spec& spec, int64_t tokens, Routing routing, uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "dtypes " << spec.in_dtype << " to " << spec.out_dtype << ", " << tokens << " of " << spec.max_tokens
                                      << " tokens, hidden " << spec.hidden << ", " << spec.experts << " experts, top " << spec.top_k << ", alignment "
                                      << spec.alignment << ", SMs " << spec.sm_budget << ", routing " << static_cast<int>(routing) << ", seed "
                                      << seed);
    std::mt19937_64 random(seed);
    const bool quantizes = spec.in_dtype != spec.out_dtype;
    const size_t in_size = spec.in_dtype == H4J_BF16 ? 2 : 1;
    const size_t out_size = spec.out_dtype == H4J_BF16 ? 2 : 1;
    const int64_t in_ld = spec.hidden + 16;
    const int64_t out_ld = spec.hidden + 32;
    const int64_t blocks = (spec.hidden + 127) / 128;
    const int64_t in_scales_ld = (spec.max_tokens + 3) / 4 * 4 + 4;
    const int64_t rows = rows_of(spec);
    const int64_t out_scales_ld = (rows + 3) / 4 * 4 + 8;
    const auto ids = ids_of(spec, routing, random);
    std::vector<uint8_t> in(static_cast<size_t>(spec.max_tokens * in_ld) * in_size);
    for (uint8_t& byte : in) byte = static_cast<uint8_t>(random());
    if (quantizes) {
      for (size_t i = 0; i < in.size(); i += 2) {
        const uint16_t half = testing::float_to_bf16(std::normal_distribution<float>()(random));
        std::memcpy(&in[i], &half, 2);
      }
    }
    const auto in_scales = testing::random_floats(static_cast<size_t>(blocks * in_scales_ld), 0.1f, 2.0f, random);
    h4j_moe_permute_args args{};
    args.struct_size = sizeof args;
    args.ids = upload(ids), args.in = upload(in), args.in_ld = in_ld;
    args.in_scales = in_size == 1 ? upload(in_scales) : 0, args.in_scales_ld = in_scales_ld;
    const size_t out_bytes = static_cast<size_t>(rows * out_ld) * out_size;
    const auto scale_count = static_cast<size_t>(blocks * out_scales_ld);
    args.out = upload(std::vector<uint8_t>(out_bytes, 0xee)), args.out_ld = out_ld;
    args.out_scales = out_size == 1 ? upload(std::vector<float>(scale_count, -9.0f)) : 0, args.out_scales_ld = out_scales_ld;
    args.group_ends = upload(std::vector<int32_t>(static_cast<size_t>(spec.experts), -7));
    args.places = upload(std::vector<int32_t>(ids.size(), -7));
    args.sources = upload(std::vector<int32_t>(static_cast<size_t>(rows), -7));
    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    H4J_ASSERT_OK(h4j_moe_permute_plan(&info_, &spec, &plan, &error));
    H4J_ASSERT_OK(h4j_moe_permute_bind(plan, device_, &args, &launch, &error));
    H4J_ASSERT_OK(h4j_launch_run(launch, stream_, tokens, &error));
    H4J_ASSERT_OK(h4j_stream_synchronize(stream_, &error));

    // Rows of in, quantised by the library's own `quantize`, are what must arrive.
    std::vector<uint8_t> wanted_rows = in;
    std::vector<float> wanted_scales = in_scales;
    int64_t wanted_ld = in_ld;
    if (quantizes && tokens > 0) {
      wanted_ld = (in_ld + 15) / 16 * 16;
      h4j_quantize_spec quantize{};
      quantize.struct_size = sizeof quantize;
      quantize.in_dtype = H4J_BF16, quantize.block_rows = 1, quantize.block_cols = 128, quantize.scale_kind = spec.scale_kind;
      quantize.max_rows = tokens, quantize.cols = spec.hidden;
      h4j_quantize_args values{};
      values.struct_size = sizeof values;
      values.in = args.in, values.in_ld = in_ld;
      values.out = upload(std::vector<uint8_t>(static_cast<size_t>(spec.max_tokens * wanted_ld))), values.out_ld = wanted_ld;
      values.scales = upload(std::vector<float>(in_scales.size())), values.scales_ld = in_scales_ld;
      H4J_ASSERT_OK(h4j_quantize(stream_, &quantize, &values, &error));
      wanted_rows = download<uint8_t>(values.out, static_cast<size_t>(spec.max_tokens * wanted_ld));
      wanted_scales = download<float>(values.scales, in_scales.size());
    }
    const auto ends = download<int32_t>(args.group_ends, static_cast<size_t>(spec.experts));
    const auto places = download<int32_t>(args.places, ids.size());
    const auto sources = download<int32_t>(args.sources, static_cast<size_t>(rows));
    const auto out = download<uint8_t>(args.out, out_bytes);
    const auto scales = out_size == 1 ? download<float>(args.out_scales, scale_count) : std::vector<float>();

    std::vector<int32_t> wanted_sources;
    std::vector<int32_t> wanted_places(ids.size(), -1);
    const auto used_ids = static_cast<int32_t>(tokens * spec.top_k);
    for (int e = 0; e < spec.experts; ++e) {
      for (int32_t i = 0; i < used_ids; ++i) {
        if (ids[size_t(i)] != e) continue;
        wanted_places[size_t(i)] = static_cast<int32_t>(wanted_sources.size());
        wanted_sources.push_back(i);
      }
      while (wanted_sources.size() % size_t(spec.alignment) != 0) wanted_sources.push_back(-1);
      ASSERT_EQ(static_cast<int32_t>(wanted_sources.size()), ends[size_t(e)]) << "expert " << e;
    }
    for (size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(i < size_t(used_ids) ? wanted_places[i] : -7, places[i]) << "id " << i;
    const size_t row_bytes = static_cast<size_t>(spec.hidden) * out_size;
    for (size_t r = 0; r < size_t(rows); ++r) {
      const bool used = r < wanted_sources.size();
      const int32_t source = used ? wanted_sources[r] : -7;
      ASSERT_EQ(source, sources[r]) << "row " << r;
      const size_t token = source >= 0 ? size_t(source / spec.top_k) : 0;
      for (size_t b = 0; b < size_t(out_ld) * out_size; ++b) {
        const uint8_t untouched = 0xee;
        const uint8_t wanted = !used || b >= row_bytes ? untouched : source < 0 ? uint8_t{0} : wanted_rows[token * size_t(wanted_ld) * out_size + b];
        ASSERT_EQ(wanted, out[r * size_t(out_ld) * out_size + b]) << "row " << r << ", byte " << b;
      }
      for (size_t block = 0; block < size_t(blocks) && out_size == 1; ++block) {
        const float wanted = !used ? -9.0f : source < 0 ? 0.0f : wanted_scales[block * size_t(in_scales_ld) + token];
        ASSERT_EQ(wanted, scales[block * size_t(out_scales_ld) + r]) << "row " << r << ", block " << block;
      }
    }
    H4J_ASSERT_OK(h4j_launch_close(launch, &error));
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
};

constexpr std::array<std::array<h4j_dtype, 2>, 3> kTypes = {{{H4J_BF16, H4J_BF16}, {H4J_F8_E4M3, H4J_F8_E4M3}, {H4J_BF16, H4J_F8_E4M3}}};

TEST_F(MoePermuteGpu, MovesOneToken) { check(spec_of(H4J_BF16, H4J_BF16, 1, 128, 4, 2, 1), 1, Routing::kUniform, 1); }

TEST_F(MoePermuteGpu, MovesRowsOfEveryTypeInEveryAlignment) {
  uint64_t seed = 10;
  for (const auto& [in, out] : kTypes) {
    for (const int alignment : {1, 8, 128}) {
      check(spec_of(in, out, 3, 16, 4, 2, alignment), 3, Routing::kUniform, seed++);
      check(spec_of(in, out, 70, 272, 16, 4, alignment), 70, Routing::kUniform, seed++);
      check(spec_of(in, out, 300, 1040, 256, 8, alignment), 300, Routing::kHoles, seed++);
      check(spec_of(in, out, 70, 144, 1024, 8, alignment), 70, Routing::kUniform, seed++);
    }
  }
}

TEST_F(MoePermuteGpu, MovesManyTokens) {
  h4j_moe_permute_spec spec = spec_of(H4J_F8_E4M3, H4J_F8_E4M3, 900, 128, 40, 32, 16);
  spec.sm_budget = 2;  // 14,400 ids a CTA
  check(spec, 900, Routing::kUniform, 40);
  check(spec_of(H4J_BF16, H4J_BF16, 5000, 32, 256, 8, 1), 5000, Routing::kUniform, 41);
  check(spec_of(H4J_BF16, H4J_BF16, 5000, 8, 3, 3, 1), 4999, Routing::kHoles, 42);
  uint64_t seed = 60;
  for (const auto& [in, out] : kTypes) {
    for (const int alignment : {1, 128}) {
      check(spec_of(in, out, 3000, 144, 256, 8, alignment), 3000, Routing::kHoles, seed++);
      check(spec_of(in, out, 3000, 272, 9, 5, alignment), 2500, Routing::kUniform, seed++);
    }
  }
  check(spec_of(H4J_F8_E4M3, H4J_F8_E4M3, 3000, 128, 1024, 8, 4), 3000, Routing::kOneExpert, seed++);
  check(spec_of(H4J_F8_E4M3, H4J_F8_E4M3, 3000, 128, 8, 8, 4), 3000, Routing::kNowhere, seed++);
}

TEST_F(MoePermuteGpu, ServesAnyRouting) {
  for (const int alignment : {1, 64}) {
    check(spec_of(H4J_BF16, H4J_F8_E4M3, 200, 128, 8, 6, alignment), 200, Routing::kOneExpert, 50);
    check(spec_of(H4J_BF16, H4J_F8_E4M3, 200, 128, 8, 6, alignment), 200, Routing::kNowhere, 51);
    check(spec_of(H4J_F8_E4M3, H4J_F8_E4M3, 200, 128, 1, 1, alignment), 133, Routing::kUniform, 52);
    check(spec_of(H4J_F8_E4M3, H4J_F8_E4M3, 20, 128, 8, 2, alignment), 0, Routing::kUniform, 53);
  }
}

// Few tokens are counted by every CTA that moves, many by a kernel ahead of them.
TEST_F(MoePermuteGpu, NamesTheFirstBadIdOfManyTokens) {
  constexpr int kTokens = 5000;
  const h4j_moe_permute_spec spec = spec_of(H4J_F8_E4M3, H4J_F8_E4M3, kTokens, 128, 8, 8, 1);
  std::vector<int32_t> ids(kTokens * 8, 3);
  ids[39999] = -5, ids[20001] = 8, ids[20002] = 9;
  h4j_moe_permute_args args{};
  args.struct_size = sizeof args;
  args.ids = upload(ids), args.in = upload(std::vector<uint8_t>(kTokens * 128)), args.in_ld = 128;
  args.in_scales = upload(std::vector<float>(kTokens, 1.0f)), args.in_scales_ld = kTokens;
  args.out = allocate(kTokens * 8 * 128), args.out_ld = 128, args.out_scales = allocate(kTokens * 8 * 4), args.out_scales_ld = kTokens * 8;
  args.group_ends = allocate(32), args.places = allocate(kTokens * 8 * 4);
  Error error;
  ASSERT_EQ(H4J_OK, h4j_moe_permute(stream_, &spec, &args, &error)) << error.message;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
  EXPECT_STREQ("moe_permute: ids[20001]: got 8, need -1..7", error.message);
  EXPECT_EQ(kTokens * 8 - 3, download<int32_t>(args.group_ends, 8)[3]);
  const auto scales = download<float>(args.out_scales, kTokens * 8 - 3);
  EXPECT_EQ(scales.size(), static_cast<size_t>(std::count(scales.begin(), scales.end(), 1.0f)));
}

TEST_F(MoePermuteGpu, DropsAndNamesTheFirstIdThatIsNoExpert) {
  const h4j_moe_permute_spec spec = spec_of(H4J_BF16, H4J_BF16, 50, 128, 8, 2, 1);
  std::vector<int32_t> ids(100, 3);
  ids[41] = 8, ids[77] = -2, ids[99] = INT32_MIN;
  h4j_moe_permute_args args{};
  args.struct_size = sizeof args;
  args.ids = upload(ids), args.in = upload(std::vector<uint8_t>(50 * 256)), args.in_ld = 128, args.out = allocate(100 * 256), args.out_ld = 128;
  args.group_ends = allocate(32), args.places = allocate(400);
  Error error;
  ASSERT_EQ(H4J_OK, h4j_moe_permute(stream_, &spec, &args, &error)) << error.message;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
  EXPECT_STREQ("moe_permute: ids[41]: got 8, need -1..7", error.message);
  const auto places = download<int32_t>(args.places, 100);
  EXPECT_EQ(40, places[40]);
  EXPECT_EQ(-1, places[41]);
  EXPECT_EQ(41, places[42]);
  EXPECT_EQ(96, places[98]);
  EXPECT_EQ(-1, places[99]);
  EXPECT_EQ((std::vector<int32_t>{0, 0, 0, 97, 97, 97, 97, 97}), download<int32_t>(args.group_ends, 8));
}

}  // namespace
}  // namespace h4j
