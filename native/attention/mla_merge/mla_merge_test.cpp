#include "attention/mla_merge/mla_merge_layout.h"
#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_mla_merge_spec spec_of(h4j_dtype out, int heads, int s_q, int64_t batch) {
  h4j_mla_merge_spec spec{};
  spec.struct_size = sizeof spec;
  spec.out_dtype = out;
  spec.heads = heads;
  spec.s_q = s_q;
  spec.max_batch = batch;
  return spec;
}

std::string refusal(const h4j_mla_merge_spec& spec) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  EXPECT_NE(H4J_OK, h4j_mla_merge_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MlaMergePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("mla_merge: out_dtype: got F16 (code 2), need BF16 or F32", refusal(spec_of(H4J_F16, 16, 1, 4)));
  EXPECT_EQ("mla_merge: heads: got 129, need 1..128", refusal(spec_of(H4J_BF16, 129, 1, 4)));
  EXPECT_EQ("mla_merge: s_q: got 0, need 1..1024", refusal(spec_of(H4J_BF16, 16, 0, 4)));
}

class MlaMergeGpu : public testing::GpuTest {
 protected:
  void run(h4j_dtype type, bool in_place) {
    SCOPED_TRACE(::testing::Message() << "type " << type << ", in place " << in_place);
    constexpr int kHeads = 5;
    constexpr int kTokens = 3;
    constexpr int64_t kBatch = 300;
    constexpr int64_t kUsed = 299;
    constexpr size_t kRows = kBatch * kTokens * kHeads;
    std::mt19937_64 random(11);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> values[2];
    std::vector<float> lses[2];
    for (int part = 0; part < 2; ++part) {
      for (size_t i = 0; i < kRows * mla_merge::kValueDim; ++i) {
        const float value = normal(random);
        values[part].push_back(type == H4J_BF16 ? testing::bf16_to_float(testing::float_to_bf16(value)) : value);
      }
      for (size_t i = 0; i < kRows; ++i) lses[part].push_back(i % 7 == static_cast<size_t>(part) || i % 7 == 5 ? INFINITY : 4.0f * normal(random));
    }
    values[0][0] = NAN;  // row 0 of part 0 has no keys: what it holds does not matter

    const auto put = [&](const std::vector<float>& floats) {
      if (type == H4J_F32) return upload(floats);
      std::vector<uint16_t> halves;
      for (const float value : floats) halves.push_back(testing::float_to_bf16(value));
      return upload(halves);
    };
    h4j_mla_merge_args args{};
    args.struct_size = sizeof args;
    args.out_a = put(values[0]), args.lse_a = upload(lses[0]);
    args.out_b = put(values[1]), args.lse_b = upload(lses[1]);
    args.out = in_place ? args.out_b : put(std::vector<float>(values[0].size(), -77.0f));
    args.lse = in_place ? args.lse_b : upload(std::vector<float>(kRows, -77.0f));
    const h4j_mla_merge_spec spec = spec_of(type, kHeads, kTokens, kBatch);
    h4j_plan* plan = nullptr;
    h4j_launch* launch = nullptr;
    H4J_ASSERT_OK(h4j_mla_merge_plan(&info_, &spec, &plan, &error));
    H4J_ASSERT_OK(h4j_mla_merge_bind(plan, device_, &args, &launch, &error));
    H4J_ASSERT_OK(h4j_launch_run(launch, stream_, kUsed, &error));
    synchronize();
    std::vector<float> out;
    if (type == H4J_F32) {
      out = download<float>(args.out, values[0].size());
    } else {
      for (const uint16_t bits : download<uint16_t>(args.out, values[0].size())) out.push_back(testing::bf16_to_float(bits));
    }
    const auto lse = download<float>(args.lse, kRows);

    for (size_t row = 0; row < kRows; ++row) {
      const size_t request = row / (kHeads * kTokens);
      const size_t at = (request * kHeads + row % kHeads) * kTokens + row / kHeads % kTokens;
      if (static_cast<int64_t>(request) >= kUsed) {
        ASSERT_EQ(in_place ? lses[1][at] : -77.0f, lse[at]) << "written though not in use: row " << row;
        continue;
      }
      const double a = std::isinf(lses[0][at]) ? 0.0 : std::exp(double(lses[0][at]));
      const double b = std::isinf(lses[1][at]) ? 0.0 : std::exp(double(lses[1][at]));
      if (a + b == 0.0) {
        ASSERT_EQ(INFINITY, lse[at]) << "row " << row;
      } else {
        ASSERT_NEAR(std::log(a + b), double(lse[at]), 4e-6) << "row " << row;
      }
      for (size_t d = 0; d < mla_merge::kValueDim; ++d) {
        const size_t i = row * mla_merge::kValueDim + d;
        const double expected = a + b == 0.0 ? 0.0 : ((a > 0 ? a * double(values[0][i]) : 0.0) + (b > 0 ? b * double(values[1][i]) : 0.0)) / (a + b);
        // One rounding to BF16, or F32 arithmetic.
        const double bound = type == H4J_BF16 ? std::fabs(expected) / 256 + 1e-6 : 2e-6;
        ASSERT_LE(std::fabs(double(out[i]) - expected), bound) << "row " << row << ", dim " << d << ": got " << out[i] << ", want " << expected;
      }
    }
    H4J_ASSERT_OK(h4j_launch_close(launch, &error));
    H4J_ASSERT_OK(h4j_plan_close(plan, &error));
  }
};

TEST_F(MlaMergeGpu, WeighsBothPartsByTheirSums) {
  for (const h4j_dtype type : {H4J_BF16, H4J_F32}) {
    run(type, false);
    run(type, true);
  }
}

}  // namespace
}  // namespace h4j
