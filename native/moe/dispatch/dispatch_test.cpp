#include <array>
#include <random>

#include "moe/group/group.h"
#include "moe/testing.h"

namespace h4j {
namespace {

using testing::Error;

h4j_moe_dispatch_spec throughput() {
  h4j_moe_dispatch_spec spec{};
  spec.struct_size = sizeof spec;
  spec.in_dtype = H4J_F8_E4M3;
  spec.alignment = 128;
  return spec;
}

std::string refusal(const h4j_group_spec& group, const h4j_moe_dispatch_spec& spec) {
  const h4j_device_info device = testing::h100();
  h4j_plan* plan = nullptr;
  Error error;
  EXPECT_NE(H4J_OK, h4j_moe_dispatch_plan(&device, &group, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MoeDispatchPlan, NamesTheArgumentItRefuses) {
  const h4j_group_spec group = testing::group_of(2);
  h4j_moe_dispatch_spec spec = throughput();
  spec.alignment = 48;
  spec.layout = H4J_LAYOUT_EXPERT;
  EXPECT_EQ("moe_dispatch: alignment: got 48, need a power of two, 1..256", refusal(group, spec));
  spec = throughput();
  spec.mode = H4J_MODE_LATENCY;
  EXPECT_EQ("moe_dispatch: mode: got latency, need a group with latency_tokens > 0", refusal(group, spec));
  spec = throughput();
  spec.in_dtype = H4J_F32;
  EXPECT_EQ("moe_dispatch: in_dtype: got F32 (code 1), need BF16", refusal(group, spec));
  spec = throughput();
  spec.channel = 1;
  EXPECT_EQ("moe_dispatch: channel: got 1, need 0..0", refusal(group, spec));
  h4j_group_spec other = group;
  other.hidden = 100;
  EXPECT_EQ("moe_dispatch: hidden: got 100, need a multiple of 8", refusal(other, throughput()));
  other = group;
  other.ranks = 64;
  other.max_tokens = 100000;
  EXPECT_NE(std::string::npos, refusal(other, throughput()).find("moe_dispatch: max_tokens: got 100000 for 64 ranks"));
}

TEST(MoeDispatchPlan, PlansOnADescribedDevice) {
  const h4j_device_info device = testing::h100();
  h4j_group_spec group = testing::group_of(2);
  h4j_moe_dispatch_spec spec = throughput();
  h4j_plan* plan = nullptr;
  H4J_ASSERT_OK(h4j_moe_dispatch_plan(&device, &group, &spec, &plan, &error));
  h4j_plan_info info{};
  info.struct_size = sizeof info;
  H4J_ASSERT_OK(h4j_plan_describe(plan, &info, &error));
  EXPECT_STREQ("moe_dispatch_rank", info.kernel);
  EXPECT_EQ(24, info.grid);
  EXPECT_EQ(2 * 4096, info.rows);
  EXPECT_EQ(0, info.handle_bytes % 256);
  H4J_ASSERT_OK(h4j_plan_close(plan, &error));
}

// A slower link is filled by fewer SMs; what the spec says comes first, and copies to experts' rows want more whatever the link.
TEST(MoeDispatchPlan, TakesSmsByTheLink) {
  const auto grid_of = [](float nvlink_gbs, int32_t layout, int32_t sm_budget) {
    h4j_device_info device = testing::h100();
    device.nvlink_gbs = nvlink_gbs;
    h4j_group_spec group = testing::group_of(2);
    group.sm_budget = sm_budget;
    h4j_moe_dispatch_spec spec = throughput();
    spec.layout = layout;
    h4j_plan* plan = nullptr;
    Error error;
    EXPECT_EQ(H4J_OK, h4j_moe_dispatch_plan(&device, &group, &spec, &plan, &error)) << error.message;
    h4j_plan_info info{};
    info.struct_size = sizeof info;
    EXPECT_EQ(H4J_OK, h4j_plan_describe(plan, &info, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error)) << error.message;
    return info.grid;
  };
  EXPECT_EQ(24, grid_of(450, H4J_LAYOUT_RANK, 0));  // nominal
  EXPECT_EQ(24, grid_of(351, H4J_LAYOUT_RANK, 0));  // as measured
  EXPECT_EQ(14, grid_of(200, H4J_LAYOUT_RANK, 0));
  EXPECT_EQ(12, grid_of(160, H4J_LAYOUT_RANK, 0));
  EXPECT_EQ(8, grid_of(25, H4J_LAYOUT_RANK, 0));
  EXPECT_EQ(24, grid_of(0, H4J_LAYOUT_RANK, 0));  // unknown
  EXPECT_EQ(40, grid_of(160, H4J_LAYOUT_RANK, 40));
  EXPECT_EQ(grid_of(450, H4J_LAYOUT_EXPERT, 0), grid_of(160, H4J_LAYOUT_EXPERT, 0));
}

// Whatever a group's spec holds, planning ends with a plan or with the field that it cannot take.
TEST(MoeGroupSpec, AnyValuesArePlannedOrNamed) {
  constexpr std::array kFields = {&h4j_group_spec::rank,      &h4j_group_spec::ranks,      &h4j_group_spec::experts,        &h4j_group_spec::top_k,
                                  &h4j_group_spec::hidden,    &h4j_group_spec::max_tokens, &h4j_group_spec::latency_tokens, &h4j_group_spec::channels,
                                  &h4j_group_spec::sm_budget, &h4j_group_spec::scale_kind};
  constexpr std::array kNames = {"rank",     "ranks",     "experts",    "top_k",     "hidden",      "max_tokens", "latency_tokens",
                                 "channels", "sm_budget", "scale_kind", "row_dtype", "deadline_us", "mode"};
  constexpr std::array kTelling = {0, -1, 1, 2, 3, 8, 64, 65, 128, 512, 513, 1024, 1025, 16384, 1 << 20, INT32_MAX, INT32_MIN};
  constexpr unsigned kSeed = 20261125;
  std::mt19937 random(kSeed);
  const h4j_device_info device = testing::h100();
  int planned = 0;
  for (int call = 0; call < 20000; ++call) {
    h4j_group_spec group = testing::group_of(2);
    group.latency_tokens = static_cast<int32_t>(random() % 65);
    for (unsigned changes = random() % 4; changes > 0; --changes) group.*kFields[random() % kFields.size()] = kTelling[random() % kTelling.size()];
    if (random() % 8 == 0) group.row_dtype = kTelling[random() % kTelling.size()];
    if (random() % 8 == 0) group.deadline_us = kTelling[random() % kTelling.size()];
    h4j_moe_dispatch_spec there = throughput();
    h4j_moe_combine_spec back{};
    back.struct_size = sizeof back;
    there.in_dtype = H4J_BF16;
    there.mode = back.mode = static_cast<int32_t>(random() % 2);
    there.layout = back.layout = there.mode == H4J_MODE_LATENCY ? H4J_LAYOUT_EXPERT : static_cast<int32_t>(random() % 2);
    for (const bool returns : {false, true}) {
      h4j_plan* plan = nullptr;
      Error error;
      const h4j_status status =
          returns ? h4j_moe_combine_plan(&device, &group, &back, &plan, &error) : h4j_moe_dispatch_plan(&device, &group, &there, &plan, &error);
      ASSERT_EQ(status == H4J_OK, plan != nullptr);
      if (status != H4J_OK) {
        ASSERT_EQ(H4J_INVALID_ARGUMENT, status) << error.message;
        ASSERT_NE(kNames.end(), std::find(kNames.begin(), kNames.end(), std::string(error.argument)))
            << "seed " << kSeed << " call " << call << ": " << error.message;
      }
      planned += status == H4J_OK;
      ASSERT_EQ(H4J_OK, h4j_plan_close(plan, nullptr));
    }
  }
  EXPECT_GT(planned, 4000);  // else hardly anything but refusals was tried
}

// The window's parts lie one behind the other, each aligned, for every shape.
TEST(MoeWindow, PartsDoNotOverlap) {
  for (const int ranks : {1, 3, 64}) {
    for (const int tokens : {0, 1, 100}) {
      moe::Shape shape{};
      shape.ranks = ranks, shape.experts = 2 * ranks + 1, shape.experts_per_rank = 3, shape.top_k = 5, shape.hidden = 136;
      shape.max_tokens = tokens, shape.latency_tokens = tokens, shape.fp8 = true;
      const moe::Offsets o = moe::offsets_of(shape);
      const int64_t starts[] = {o.counts,  o.expert_counts, o.done,   o.ready,    o.read,    o.arrived, o.reduced, o.rows,    o.scales,
                                o.experts, o.weights,       o.places, o.partials, o.routing, o.lines,   o.hello,   o.returns, o.channel_bytes};
      for (size_t i = 1; i < std::size(starts); ++i) {
        EXPECT_LE(starts[i - 1], starts[i]) << i;
        EXPECT_EQ(0, starts[i] % 256) << i;
      }
      EXPECT_GE(o.scales - o.rows, shape.max_rows() * shape.row_pitch());
      EXPECT_GE(o.experts - o.scales, shape.blocks() * shape.scales_ld() * 4);
      EXPECT_GE(o.channel_bytes - o.returns, 2 * shape.latency_rows() * shape.return_lines() * moe::kLineBytes);
    }
  }
}

// What the kernels take for a division.
TEST(MoeWindow, RankOfAnExpertIsExact) {
  for (int per = 1; per <= moe::kMaxExperts; ++per) {
    const auto divisor = static_cast<uint32_t>(ceil_div(1 << 20, per));
    for (int expert = 0; expert < moe::kMaxExperts; ++expert) {
      ASSERT_EQ(static_cast<uint32_t>(expert / per), static_cast<uint32_t>(expert) * divisor >> 20) << expert << " / " << per;
    }
  }
}

}  // namespace
}  // namespace h4j
