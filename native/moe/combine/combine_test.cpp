#include "moe/testing.h"

namespace h4j {
namespace {

using testing::Error;

std::string refusal(const h4j_group_spec& group, const h4j_moe_combine_spec& spec) {
  const h4j_device_info device = testing::h100();
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_moe_combine_plan(&device, &group, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MoeCombinePlan, NamesTheArgumentItRefuses) {
  h4j_moe_combine_spec spec{};
  spec.struct_size = sizeof spec;
  spec.residual = 2;
  EXPECT_EQ("moe_combine: residual: got 2, need 0..1", refusal(testing::group_of(2), spec));
  spec.residual = 0;
  spec.half = 3;
  EXPECT_EQ("moe_combine: half: got 3, need 0..2", refusal(testing::group_of(2), spec));
  spec.half = 0;
  h4j_group_spec group = testing::group_of(2);
  group.latency_tokens = 8;
  spec.mode = H4J_MODE_LATENCY;
  EXPECT_EQ("moe_combine: layout: got 0, need 1..1", refusal(group, spec));
}

}  // namespace
}  // namespace h4j
