#include <array>

#include "testing/gpu.h"

namespace h4j {
namespace {

using testing::Error;

h4j_moe_gate_spec spec_of(int64_t tokens, int experts, int groups, int kept_groups, int top_k) {
  h4j_moe_gate_spec spec{};
  spec.struct_size = sizeof spec;
  spec.logits_dtype = H4J_F32;
  spec.experts = experts, spec.groups = groups, spec.kept_groups = kept_groups, spec.top_k = top_k;
  spec.normalize = 1, spec.scale = 2.5f, spec.max_tokens = tokens;
  return spec;
}

std::string refusal(const h4j_moe_gate_spec& spec) {
  h4j_device_info device{};
  device.struct_size = sizeof device;
  Error error;
  EXPECT_EQ(H4J_OK, h4j_device_describe("H100-SXM", &device, &error));
  h4j_plan* plan = nullptr;
  EXPECT_NE(H4J_OK, h4j_moe_gate_plan(&device, &spec, &plan, &error));
  EXPECT_EQ(nullptr, plan);
  return error.message;
}

TEST(MoeGatePlan, NamesTheArgumentItRefuses) {
  EXPECT_EQ("moe_gate: experts: got 1025, need 1..1024", refusal(spec_of(4, 1025, 1, 1, 8)));
  EXPECT_EQ("moe_gate: groups: got 7, need a divisor of 256 experts", refusal(spec_of(4, 256, 7, 1, 8)));
  EXPECT_EQ("moe_gate: kept_groups: got 9, need 1..8", refusal(spec_of(4, 256, 8, 9, 8)));
  EXPECT_EQ("moe_gate: top_k: got 9, need 1..8", refusal(spec_of(4, 64, 8, 1, 9)));
  h4j_moe_gate_spec spec = spec_of(4, 64, 8, 2, 8);
  spec.scale = 0.0f;
  EXPECT_EQ("moe_gate: scale: got 0, need a finite number > 0", refusal(spec));
}

class MoeGateGpu : public testing::GpuTest {
 protected:
  struct Choice {
    std::vector<int> ids;
    std::vector<double> weights;
    double margin;  // the least distance of two numbers that were compared
  };

  static Choice expected(const h4j_moe_gate_spec& spec, const float* logits, const std::vector<float>& bias, const std::vector<uint8_t>& disabled) {
    const int experts = spec.experts;
    const int in_group = experts / spec.groups;
    std::vector<double> scores(static_cast<size_t>(experts));
    double largest = -INFINITY;
    double sum = 0;
    for (int e = 0; e < experts; ++e) largest = std::max(largest, double{logits[e]});
    for (int e = 0; e < experts; ++e) sum += std::exp(logits[e] - largest);
    for (int e = 0; e < experts; ++e) {
      scores[size_t(e)] = spec.scores == H4J_SCORES_SOFTMAX ? std::exp(logits[e] - largest) / sum : 1 / (1 + std::exp(-double{logits[e]}));
    }
    const auto choice = [&](int e) { return scores[size_t(e)] + (bias.empty() ? 0.0 : bias[size_t(e)]); };
    const auto taken_last = [&](int e) { return !disabled.empty() && disabled[size_t(e)] != 0; };
    Choice result{{}, {}, 1};
    // The first `count` of `items` by value, and how clearly they are the first.
    const auto best = [&](std::vector<int> items, auto value, int count) {
      std::stable_sort(items.begin(), items.end(), [&](int a, int b) { return value(a) > value(b); });
      for (size_t i = 0; i + 1 < items.size() && i < size_t(count); ++i) {
        const double gap = value(items[i]) - value(items[i + 1]);
        if (gap != 0) result.margin = std::min(result.margin, gap);
      }
      items.resize(std::min(items.size(), size_t(count)));
      return items;
    };
    std::vector<int> groups;
    std::vector<std::vector<int>> members(static_cast<size_t>(spec.groups));
    std::vector<double> group_values(static_cast<size_t>(spec.groups));
    for (int g = 0; g < spec.groups; ++g) {
      for (int e = g * in_group; e < (g + 1) * in_group; ++e) {
        if (!taken_last(e)) members[size_t(g)].push_back(e);
      }
      if (members[size_t(g)].empty()) continue;
      groups.push_back(g);
      const double margin = result.margin;
      for (const int e : best(members[size_t(g)], choice, 2)) group_values[size_t(g)] += choice(e);
      result.margin = margin;
    }
    std::vector<int> candidates;
    for (const int g : best(groups, [&](int group) { return group_values[size_t(group)]; }, spec.kept_groups)) {
      candidates.insert(candidates.end(), members[size_t(g)].begin(), members[size_t(g)].end());
    }
    std::sort(candidates.begin(), candidates.end());
    result.ids = best(candidates, choice, spec.top_k);
    double norm = spec.normalize ? 1e-20 : 1;
    if (spec.normalize) {
      for (const int e : result.ids) norm += scores[size_t(e)];
    }
    for (const int e : result.ids) result.weights.push_back(scores[size_t(e)] / norm * spec.scale);
    result.ids.resize(static_cast<size_t>(spec.top_k), -1);
    result.weights.resize(static_cast<size_t>(spec.top_k), 0);
    return result;
  }

  // levels: 0 for normal logits, else logits are one of so many numbers, so that equal ones abound.
  void check(h4j_moe_gate_spec spec, int levels, bool biased, double disabled_share, uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << spec.max_tokens << " tokens, " << spec.experts << " experts in " << spec.groups << " groups, "
                                      << spec.kept_groups << " kept, top " << spec.top_k << ", scores " << spec.scores << ", dtype "
                                      << spec.logits_dtype << ", levels " << levels << ", seed " << seed);
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    const auto experts = static_cast<size_t>(spec.experts);
    const auto tokens = static_cast<size_t>(spec.max_tokens);
    const auto top_k = static_cast<size_t>(spec.top_k);
    const size_t ld = experts + 3;
    std::vector<float> logits(tokens * ld);
    std::vector<uint16_t> halves(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
      logits[i] = levels == 0 ? normal(random) : static_cast<float>(random() % static_cast<unsigned>(levels)) * 0.5f - 1.0f;
      halves[i] = testing::float_to_bf16(logits[i]);
      if (spec.logits_dtype == H4J_BF16) logits[i] = testing::bf16_to_float(halves[i]);
    }
    std::vector<float> bias;
    std::vector<uint8_t> disabled;
    if (biased) bias = testing::random_floats(experts, -0.2f, 0.2f, random);
    if (disabled_share > 0) {
      for (size_t e = 0; e < experts; ++e) disabled.push_back(std::uniform_real_distribution<>()(random) < disabled_share ? 3 : 0);
    }
    h4j_moe_gate_args args{};
    args.struct_size = sizeof args;
    args.logits = spec.logits_dtype == H4J_BF16 ? upload(halves) : upload(logits);
    args.logits_ld = static_cast<int64_t>(ld);
    args.bias = biased ? upload(bias) : 0;
    args.disabled = disabled.empty() ? 0 : upload(disabled);
    args.ids = upload(std::vector<int32_t>(tokens * top_k + 1, 77));
    args.weights = upload(std::vector<float>(tokens * top_k + 1, -5.0f));
    args.counts = upload(std::vector<int32_t>(experts, 10));
    H4J_ASSERT_OK(h4j_moe_gate(stream_, &spec, &args, &error));

    const auto ids = download<int32_t>(args.ids, tokens * top_k + 1);
    const auto weights = download<float>(args.weights, tokens * top_k + 1);
    const auto counts = download<int32_t>(args.counts, experts);
    std::vector<int32_t> tally(experts, spec.add_counts ? 10 : 0);
    size_t unclear = 0;
    for (size_t t = 0; t < tokens; ++t) {
      const Choice wanted = expected(spec, logits.data() + t * ld, bias, disabled);
      if (wanted.margin < 1e-6) ++unclear;
      for (size_t j = 0; j < top_k; ++j) {
        const int32_t id = ids[t * top_k + j];
        ASSERT_TRUE(id >= -1 && id < spec.experts) << "token " << t << ", place " << j << ": " << id;
        if (id >= 0) ++tally[static_cast<size_t>(id)];
        if (wanted.margin < 1e-6) continue;
        ASSERT_EQ(wanted.ids[j], id) << "token " << t << ", place " << j;
        ASSERT_NEAR(wanted.weights[j], weights[t * top_k + j], 1e-5 * std::fabs(wanted.weights[j])) << "token " << t << ", place " << j;
      }
    }
    EXPECT_LE(unclear, tokens / 10 + 1);
    EXPECT_EQ(tally, counts);
    EXPECT_EQ(77, ids.back());
    EXPECT_EQ(-5.0f, weights.back());
  }
};

TEST_F(MoeGateGpu, ChoosesAsDeepSeekV3) {
  check(spec_of(300, 256, 8, 4, 8), 0, true, 0, 1);
  check(spec_of(4099, 256, 8, 4, 8), 0, true, 0, 2);
}

TEST_F(MoeGateGpu, ChoosesInEveryShape) {
  uint64_t seed = 100;
  for (const h4j_dtype dtype : {H4J_F32, H4J_BF16}) {
    for (const int scores : {H4J_SCORES_SIGMOID, H4J_SCORES_SOFTMAX}) {
      for (const auto& [experts, groups, kept, top_k] : std::vector<std::array<int, 4>>{{1, 1, 1, 1},
                                                                                        {8, 1, 1, 2},
                                                                                        {60, 1, 1, 4},
                                                                                        {160, 8, 3, 6},
                                                                                        {72, 1, 1, 32},
                                                                                        {256, 8, 4, 8},
                                                                                        {320, 5, 2, 9},
                                                                                        {384, 1, 1, 8},
                                                                                        {512, 32, 7, 10},
                                                                                        {1024, 1, 1, 32},
                                                                                        {1024, 32, 16, 8},
                                                                                        {1020, 17, 5, 32}}) {
        h4j_moe_gate_spec spec = spec_of(37, experts, groups, kept, top_k);
        spec.logits_dtype = dtype, spec.scores = scores, spec.normalize = static_cast<int>(seed % 2),
        spec.add_counts = static_cast<int>(seed / 2 % 2);
        check(spec, 0, dtype == H4J_F32, 0, seed++);
      }
    }
  }
}

TEST_F(MoeGateGpu, TakesTheLowerNumberOfEquals) {
  check(spec_of(200, 256, 8, 4, 8), 3, false, 0, 300);
  check(spec_of(200, 256, 1, 1, 32), 2, false, 0, 301);
  check(spec_of(50, 1024, 32, 3, 17), 4, false, 0, 302);
}

TEST_F(MoeGateGpu, NeverTakesTheDisabled) {
  check(spec_of(200, 256, 8, 4, 8), 0, true, 0.3, 400);
  check(spec_of(50, 256, 8, 4, 8), 0, true, 0.97, 401);  // too few are left
  check(spec_of(20, 64, 4, 2, 8), 3, false, 1, 402);     // none are
}

}  // namespace
}  // namespace h4j
