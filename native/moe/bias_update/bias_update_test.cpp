#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_moe_bias_update_spec spec_of(int experts, float step, int clear) {
  h4j_moe_bias_update_spec spec{};
  spec.struct_size = sizeof spec;
  spec.experts = experts, spec.step = step, spec.clear_counts = clear;
  return spec;
}

TEST(MoeBiasUpdatePlan, NamesTheArgumentItRefuses) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  ASSERT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  h4j_moe_bias_update_spec spec = spec_of(0, 0.001f, 0);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_moe_bias_update_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("moe_bias_update: experts: got 0, need 1..1024", error.message);
  spec = spec_of(8, -1.0f, 0);
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_moe_bias_update_plan(&device, &spec, &plan, &error));
  EXPECT_STREQ("moe_bias_update: step: got -1, need a finite number >= 0", error.message);
}

class MoeBiasUpdateGpu : public testing::GpuTest {};

TEST_F(MoeBiasUpdateGpu, StepsAgainstTheLoad) {
  for (const int experts : {1, 7, 256, 1024}) {
    for (const int clear : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << experts << " experts, clear " << clear);
      std::mt19937_64 random(static_cast<uint64_t>(experts));
      std::vector<int32_t> counts(static_cast<size_t>(experts));
      for (int32_t& count : counts) count = static_cast<int32_t>(random() % 5 == 0 ? 2000000000 : random() % 3);
      const auto bias = testing::random_floats(counts.size(), -1.0f, 1.0f, random);
      int64_t total = 0;
      for (const int32_t count : counts) total += count;
      h4j_moe_bias_update_args args{};
      args.struct_size = sizeof args;
      args.counts = upload(counts), args.bias = upload(bias);
      const h4j_moe_bias_update_spec spec = spec_of(experts, 0.001f, clear);
      H4J_ASSERT_OK(h4j_moe_bias_update(stream_, &spec, &args, &error));
      const auto got = download<float>(args.bias, counts.size());
      const auto left = download<int32_t>(args.counts, counts.size());
      for (size_t e = 0; e < counts.size(); ++e) {
        const int64_t load = int64_t{counts[e]} * experts;
        const float wanted = load == total ? bias[e] : bias[e] + (load > total ? -0.001f : 0.001f);
        ASSERT_EQ(wanted, got[e]) << "expert " << e;
        ASSERT_EQ(clear ? 0 : counts[e], left[e]) << "expert " << e;
      }
    }
  }
}

}  // namespace
}  // namespace h4j
