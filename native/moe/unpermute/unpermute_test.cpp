#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_moe_unpermute_spec spec_of(int64_t tokens, int64_t rows, int64_t hidden, int top_k, int weighted, int residual) {
  h4j_moe_unpermute_spec spec{};
  spec.struct_size = sizeof spec;
  spec.top_k = top_k, spec.weighted = weighted, spec.residual = residual;
  spec.max_tokens = tokens, spec.rows = rows, spec.hidden = hidden;
  return spec;
}

TEST(MoeUnpermutePlan, NamesTheArgumentItRefuses) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  h4j_moe_unpermute_spec spec = spec_of(4, 8, 12, 2, 1, 0);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_moe_unpermute_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("moe_unpermute: hidden: got 12, need a multiple of 8", error.message);
  spec = spec_of(4, 8, 16, 0, 1, 0);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_moe_unpermute_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("moe_unpermute: top_k: got 0, need 1..32", error.message);
}

class MoeUnpermuteGpu : public testing::GpuTest {
 protected:
  void check(const h4j_moe_unpermute_spec& spec, bool holes, uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << spec.max_tokens << " tokens, " << spec.rows << " rows, hidden " << spec.hidden << ", top " << spec.top_k
                                      << ", weighted " << spec.weighted << ", residual " << spec.residual << ", seed " << seed);
    std::mt19937_64 random(seed);
    const auto tokens = static_cast<size_t>(spec.max_tokens);
    const auto hidden = static_cast<size_t>(spec.hidden);
    const auto top_k = static_cast<size_t>(spec.top_k);
    const size_t x_ld = hidden + 8;
    const size_t residual_ld = hidden + 16;
    const size_t out_ld = hidden + 24;
    const auto halves = [&](size_t count) {
      std::vector<uint16_t> values(count);
      for (uint16_t& value : values) value = testing::float_to_bf16(std::normal_distribution<float>()(random));
      return values;
    };
    const auto x = halves(static_cast<size_t>(spec.rows) * x_ld);
    const auto residual = halves(tokens * residual_ld);
    const auto weights = testing::random_floats(tokens * top_k, 0.0f, 2.0f, random);
    std::vector<int32_t> places(tokens * top_k);
    for (int32_t& place : places) place = holes && random() % 3 == 0 ? -1 : static_cast<int32_t>(random() % static_cast<uint64_t>(spec.rows));
    h4j_moe_unpermute_args args{};
    args.struct_size = sizeof args;
    args.x = upload(x), args.x_ld = static_cast<int64_t>(x_ld), args.places = upload(places);
    args.weights = spec.weighted ? upload(weights) : 0;
    args.residual = spec.residual ? upload(residual) : 0, args.residual_ld = static_cast<int64_t>(residual_ld);
    args.out = upload(std::vector<uint16_t>(tokens * out_ld, 0x1234)), args.out_ld = static_cast<int64_t>(out_ld);
    H4J_ASSERT_OK(h4j_moe_unpermute(stream_, &spec, &args, &error));
    const auto out = download<uint16_t>(args.out, tokens * out_ld);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t c = 0; c < out_ld; ++c) {
        if (c >= hidden) {
          ASSERT_EQ(0x1234, out[t * out_ld + c]) << "token " << t << ", column " << c;
          continue;
        }
        float sum = 0;
        for (size_t j = 0; j < top_k; ++j) {
          const int32_t row = places[t * top_k + j];
          if (row >= 0) sum = std::fma(spec.weighted ? weights[t * top_k + j] : 1.0f, testing::bf16_to_float(x[size_t(row) * x_ld + c]), sum);
        }
        if (spec.residual) sum += testing::bf16_to_float(residual[t * residual_ld + c]);
        ASSERT_EQ(testing::float_to_bf16(sum), out[t * out_ld + c]) << "token " << t << ", column " << c;
      }
    }
  }
};

TEST_F(MoeUnpermuteGpu, SumsInOrder) {
  uint64_t seed = 1;
  for (const int weighted : {0, 1}) {
    for (const int residual : {0, 1}) {
      check(spec_of(1, 1, 8, 1, weighted, residual), false, seed++);
      check(spec_of(5, 40, 264, 8, weighted, residual), true, seed++);
      check(spec_of(33, 100, 2056, 9, weighted, residual), true, seed++);
      check(spec_of(300, 2000, 1024, 32, weighted, residual), false, seed++);
    }
  }
}

TEST_F(MoeUnpermuteGpu, LeavesOutAndNamesAPlaceThatIsNoRow) {
  const h4j_moe_unpermute_spec spec = spec_of(3, 4, 8, 2, 0, 0);
  h4j_moe_unpermute_args args{};
  args.struct_size = sizeof args;
  args.x = upload(std::vector<uint16_t>(4 * 8, testing::float_to_bf16(1.0f))), args.x_ld = 8;
  args.places = upload(std::vector<int32_t>{0, 1, 4, 2, -1, -1});
  args.out = allocate(3 * 8 * 2), args.out_ld = 8;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_moe_unpermute(stream_, &spec, &args, &error)) << error.message;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_stream_synchronize(stream_, &error));
  EXPECT_STREQ("moe_unpermute: places[2]: got 4, need -1..3", error.message);
  const auto out = download<uint16_t>(args.out, 24);
  EXPECT_EQ(testing::float_to_bf16(2.0f), out[0]);
  EXPECT_EQ(testing::float_to_bf16(1.0f), out[8]);
  EXPECT_EQ(0, out[16]);
}

}  // namespace
}  // namespace h4j
