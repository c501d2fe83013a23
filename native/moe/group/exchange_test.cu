// Dispatch and combine among ranks that are threads of this process, several of them on a device where there are fewer devices than ranks. Each call has data
// and routing of its own, some ranks are late, some routing is skewed, and every row that came is compared on the device.
#include <chrono>

#include "moe/group/exchange_rank.cuh"
#include "moe/testing.h"

namespace h4j {
namespace {

using testing::Error;
using testing::Findings;
using testing::Lane;
using testing::Rank;
using testing::Scenario;

// GPUs of the hosts on which each rank has one of its own.
constexpr int kHosts[] = {2, 4, 8};

constexpr const char* kWhats[] = {"nothing", "received", "expert_rows", "row", "scale", "expert number", "weight", "sum"};

int devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void expect_right(const Lane& lane) {
  const Findings f = lane.findings();
  EXPECT_EQ(0u, f.wrong) << "rank " << lane.exchange.rank << ": " << kWhats[f.what] << " in call " << f.call << ", token " << f.token << " of rank "
                         << f.source << ", place " << f.place << ": got 0x" << std::hex << f.got << ", need 0x" << f.need;
}

// Error of the sums against sums in double. Rounding to BF16 alone costs 2.2e-6 of the squares.
void expect_close(const Findings& f, const Rank& rank) { EXPECT_LE(f.error, 5e-6 * f.size) << "rank " << rank.number; }

// For runs under a tool that makes each call slow.
int calls_of(const Scenario& scenario) {
  const char* most = std::getenv("H4J_MOE_CALLS");
  return most == nullptr ? scenario.calls : std::min(scenario.calls, std::atoi(most));
}

// Many calls in a row, nothing awaited between them but at every 100th.
void exchange(const Scenario& scenario, Rank& rank, Findings& total) {
  Error error;
  const int calls = calls_of(scenario);
  for (int call = 0; call < calls; ++call) {
    for (const auto& lane : rank.lanes) {
      if (call == 0) lane->seed(0);
      if (call == 0 && scenario.in_graphs) lane->capture();
      lane->round(call);
    }
    if (call % 100 != 99 && call != calls - 1) continue;
    for (const auto& lane : rank.lanes) {
      ASSERT_EQ(H4J_OK, lane->synchronize(error)) << error.message;
      ASSERT_EQ(H4J_OK, rank.check(error)) << error.message;
    }
  }
  for (const auto& lane : rank.lanes) {
    expect_right(*lane);
    const Findings f = lane->findings();
    expect_close(f, rank);
    total.rows += f.rows;
    total.sums += f.sums;
    total.error = std::max(total.error, f.size > 0 ? f.error / f.size : 0);
  }
}

class MoeExchangeGpu : public ::testing::TestWithParam<Scenario> {};

TEST_P(MoeExchangeGpu, EveryRowOfEveryCallArrives) {
  const Scenario& scenario = GetParam();
  if (devices() < scenario.devices) GTEST_SKIP() << "needs " << scenario.devices << " devices";
  std::vector<Findings> totals(static_cast<size_t>(scenario.ranks));
  run_ranks(scenario, [&](Rank& rank) { exchange(scenario, rank, totals[static_cast<size_t>(rank.number)]); });
  Findings all{};
  for (const Findings& f : totals) all.rows += f.rows, all.sums += f.sums, all.error = std::max(all.error, f.error);
  EXPECT_GT(all.rows, 0u);  // else nothing was compared
  EXPECT_GT(all.sums, 0u);
  std::printf("             %s: %d calls, %llu rows and %llu sums compared, squared error %.2e\n", scenario.name.c_str(), calls_of(scenario),
              all.rows, all.sums, all.error);
}

Scenario on(int ranks, int devices, Scenario scenario) {
  scenario.ranks = ranks;
  scenario.devices = devices;
  scenario.name += "_" + std::to_string(ranks) + "on" + std::to_string(devices);
  return scenario;
}

// Ranks with a GPU each, on every host.
void add_hosts(std::vector<Scenario>& all, const Scenario& scenario) {
  for (const int gpus : kHosts) all.push_back(on(gpus, gpus, scenario));
}

// Two ranks that share a GPU as well.
void add_each(std::vector<Scenario>& all, const Scenario& scenario) {
  all.push_back(on(2, 1, scenario));
  add_hosts(all, scenario);
}

Scenario bf16(Scenario scenario) {
  scenario.name += "_bf16";
  scenario.rows = scenario.in = H4J_BF16;
  return scenario;
}

Scenario cast(Scenario scenario) {
  scenario.name += "_cast";
  scenario.in = H4J_BF16;
  return scenario;
}

Scenario halves(Scenario scenario) {
  scenario.name += "_halves";
  scenario.halves = true;
  return scenario;
}

std::vector<Scenario> scenarios() {
  Scenario rank;
  rank.name = "rank";
  Scenario expert = rank;
  expert.name = "expert";
  expert.expert_layout = true;
  Scenario latency = rank;
  latency.name = "latency";
  latency.latency = true;
  latency.tokens = 128;
  std::vector<Scenario> all;
  for (const Scenario& form : {rank, expert, latency}) add_each(all, form);
  for (const Scenario& form : {rank, expert, latency}) {
    for (Scenario kind : {bf16(form), cast(form), halves(form), halves(cast(form))}) {
      kind.calls = 200;
      add_each(all, kind);
    }
    Scenario small = form;
    small.calls = 100;
    small.tokens = form.latency ? 24 : 64;
    for (const int ranks : {1, 3, 4, 8}) {
      for (const int gpus : {1, 2}) {
        if (ranks > 1 || gpus == 1) all.push_back(on(ranks, gpus, small));
      }
    }
    // Odd sizes: a row that ends inside a vector and inside a scale block, experts that do not divide, no row of some experts.
    Scenario odd = form;
    odd.name += "_odd";
    odd.calls = 200;
    odd.hidden = 1000;
    odd.top_k = 5;
    odd.experts = 37;
    odd.tokens = 77;
    odd.alignment = 1;
    all.push_back(on(3, 1, odd));
    add_hosts(all, odd);
    all.push_back(on(3, 1, cast(odd)));
    all.push_back(on(3, 1, bf16(odd)));
    Scenario channels = form;
    channels.name += "_channels";
    channels.channels = 2;
    channels.calls = 200;
    add_each(all, channels);
    Scenario graphs = form;
    graphs.name += "_graphs";
    graphs.in_graphs = graphs.plain = true;
    graphs.calls = 200;
    add_each(all, graphs);
  }
  for (Scenario kind : {rank, bf16(rank), cast(rank)}) {
    kind.name += "_reuse";
    kind.reuse = true;
    kind.calls = 200;
    add_each(all, kind);
  }
  for (Scenario widest : {rank, expert, latency}) {
    widest.name += "_widest";
    widest.hidden = 16384;
    widest.top_k = 32;
    widest.experts = 1024;
    widest.tokens = 24;
    widest.calls = 20;
    add_each(all, widest);
  }
  Scenario most = latency;
  most.name += "_most_tokens";
  most.tokens = 512;
  most.hidden = 1024;
  most.calls = 20;
  add_each(all, most);
  for (Scenario large : {rank, expert}) {
    large.name += "_large";
    large.tokens = 4096;
    large.calls = 50;
    add_hosts(all, large);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, MoeExchangeGpu, ::testing::ValuesIn(scenarios()), [](const auto& info) { return info.param.name; });

// Nothing of it is found out only on a host that has the devices.
TEST(MoeExchange, EveryScenarioCanBePlanned) {
  const h4j_device_info device = testing::h100();
  for (const Scenario& scenario : scenarios()) {
    for (int rank = 0; rank < scenario.ranks; ++rank) {
      const h4j_group_spec group = scenario.group(rank);
      for (const int half : {H4J_WHOLE, H4J_START, H4J_FINISH}) {
        const h4j_moe_dispatch_spec there = scenario.dispatch(0, half, scenario.reuse && half == H4J_WHOLE);
        const h4j_moe_combine_spec back = scenario.combine(0, half);
        Error error;
        h4j_plan* plan = nullptr;
        EXPECT_EQ(H4J_OK, h4j_moe_dispatch_plan(&device, &group, &there, &plan, &error)) << scenario.name << ": " << error.message;
        EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
        plan = nullptr;
        EXPECT_EQ(H4J_OK, h4j_moe_combine_plan(&device, &group, &back, &plan, &error)) << scenario.name << ": " << error.message;
        EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error));
      }
    }
  }
}

// ---- Faults

class MoeExchangeFaultsGpu : public ::testing::Test {};

// The same with as many ranks as the parameter says, a device each.
class MoeExchangeHostFaultsGpu : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (devices() < GetParam()) GTEST_SKIP() << "needs " << GetParam() << " devices";
  }
};

INSTANTIATE_TEST_SUITE_P(All, MoeExchangeHostFaultsGpu, ::testing::Values(4, 8), [](const auto& info) { return std::to_string(info.param); });

Scenario with_deadline(int form, int ranks, int64_t deadline_us) {
  Scenario scenario;
  scenario.name = form == 0 ? "rank" : form == 1 ? "expert" : "latency";
  scenario.expert_layout = form == 1;
  scenario.latency = form == 2;
  scenario.tokens = 64;
  scenario.ranks = ranks;
  scenario.devices = std::min(ranks, devices());
  scenario.deadline_us = deadline_us;
  scenario.sm_budget = 32;
  scenario.calls = 20;
  return scenario;
}

// The last rank makes a few calls and then no more. The others are told in time whom they miss, their group is lost, and on the same devices they make a
// smaller one.
void lose_the_last_rank(int ranks) {
  using Clock = std::chrono::steady_clock;
  // Long enough for ranks whose first calls are late: kernels are loaded and cards wake up.
  constexpr int64_t kDeadline = 1'000'000;
  for (int form = 0; form < 3; ++form) {
    const Scenario scenario = with_deadline(form, ranks, kDeadline);
    for (const int calls : {0, 3}) {
      run_ranks(scenario, [&](Rank& rank) {
        Error error;
        Lane& lane = *rank.lanes.front();
        for (int call = 0; call < calls; ++call) lane.round(call);
        EXPECT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        expect_right(lane);
        if (!rank.meeting.meet() || rank.number == ranks - 1) return;
        lane.seed(calls);
        lane.fill();
        const auto begin = Clock::now();
        EXPECT_EQ(H4J_OK, lane.launch_dispatch(error)) << error.message;
        EXPECT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        const double milliseconds = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
        EXPECT_GE(milliseconds, kDeadline / 1000 - 1);
        EXPECT_LE(milliseconds, 2.0 * kDeadline / 1000 + 100);
        EXPECT_EQ(H4J_PEER_TIMEOUT, rank.check(error));
        EXPECT_STREQ("rank", error.argument);
        EXPECT_EQ(std::to_string(ranks - 1), error.got);
        EXPECT_NE(nullptr, std::strstr(error.allowed, "on channel 0 before the deadline")) << error.allowed;
        const auto again = Clock::now();
        EXPECT_EQ(H4J_PEER_TIMEOUT, lane.launch_dispatch(error));
        const double refused = std::chrono::duration<double, std::micro>(Clock::now() - again).count();
        std::printf("             %s after %d calls: rank %d was told in %.1f ms (\"%s: %s, need %s\"), and refused in %.0f us\n",
                    scenario.name.c_str(), calls, rank.number, milliseconds, error.argument, error.got, error.allowed, refused);
      });
    }
    const Scenario smaller = with_deadline(form, ranks - 1, 20'000'000);
    Findings total{};
    run_ranks(smaller, [&](Rank& rank) {
      Findings own{};
      exchange(smaller, rank, own);
      if (rank.number == 0) total = own;
    });
    EXPECT_GT(total.sums, 0u);
  }
}

TEST_F(MoeExchangeFaultsGpu, LostRankIsNamedInTimeAndLeftOut) { lose_the_last_rank(3); }
TEST_P(MoeExchangeHostFaultsGpu, LostRankIsNamedInTimeAndLeftOut) { lose_the_last_rank(GetParam()); }

// The last rank's dispatch reaches rank 0 alone, and it makes no further call. The ranks between miss it, and rank 0 misses what they do not send for that: all of
// them name the last one.
void lose_the_last_rank_in_a_call(int ranks) {
  for (int form = 0; form < 3; ++form) {
    const Scenario scenario = with_deadline(form, ranks, 500'000);
    run_ranks(scenario, [&](Rank& rank) {
      Error error;
      Lane& lane = *rank.lanes.front();
      lane.seed(0);
      lane.fill();
      if (rank.number == ranks - 1) {
        EXPECT_EQ(H4J_OK, h4j_group_set_active(rank.group, uint64_t{1} << (ranks - 1) | 1, &error)) << error.message;
        lane.dispatch();
        return;
      }
      EXPECT_EQ(H4J_OK, lane.launch_dispatch(error)) << error.message;
      lane.combine();
      EXPECT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
      EXPECT_EQ(H4J_PEER_TIMEOUT, rank.check(error));
      EXPECT_EQ(std::to_string(ranks - 1), error.got) << scenario.name << ", rank " << rank.number << ": " << error.message;
    });
  }
}

TEST_F(MoeExchangeFaultsGpu, RankLostInACallIsNamedByAll) { lose_the_last_rank_in_a_call(4); }
TEST_P(MoeExchangeHostFaultsGpu, RankLostInACallIsNamedByAll) { lose_the_last_rank_in_a_call(GetParam()); }

// Rank 0 has all it wants of its call and closes, while rank 1 still waits for the last one: what rank 1 then tells its peers must not go to memory that is freed.
TEST_F(MoeExchangeFaultsGpu, RankMayCloseWhileAnotherWaits) {
  const Scenario scenario = with_deadline(2, 3, 500'000);
  run_ranks(scenario, [&](Rank& rank) {
    Error error;
    Lane& lane = *rank.lanes.front();
    lane.seed(0);
    lane.fill();
    if (rank.number == 2) {  // reaches rank 0 alone
      EXPECT_EQ(H4J_OK, h4j_group_set_active(rank.group, 0b101, &error)) << error.message;
    }
    EXPECT_EQ(H4J_OK, lane.launch_dispatch(error)) << error.message;
    EXPECT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
    if (rank.number == 1) {
      EXPECT_EQ(H4J_PEER_TIMEOUT, rank.check(error));
      EXPECT_STREQ("2", error.got) << error.message;
    } else {
      EXPECT_EQ(H4J_OK, rank.check(error)) << error.message;
    }
    if (rank.number == 0) {
      rank.lanes.clear();
      EXPECT_EQ(H4J_OK, h4j_group_close(rank.group, &error)) << error.message;
      rank.group = nullptr;
    }
  });
}

// Ranks that are left out for some calls, then take part again.
void mask_ranks(int ranks) {
  const uint64_t all = (uint64_t{1} << ranks) - 1;
  for (int form = 0; form < 3; ++form) {
    const Scenario scenario = with_deadline(form, ranks, 20'000'000);
    run_ranks(scenario, [&](Rank& rank) {
      Error error;
      Lane& lane = *rank.lanes.front();
      int call = 0;
      for (const uint64_t active : {all, all & 0x5555555555555555u, all >> 1, all, uint64_t{1}, all}) {
        ASSERT_TRUE(rank.meeting.meet());  // all launches of the mask before have been made
        ASSERT_EQ(H4J_OK, h4j_group_set_active(rank.group, active, &error)) << error.message;
        lane.exchange.active = active;
        for (int i = 0; i < 5; ++i, ++call) {
          if ((active >> rank.number & 1) != 0) {
            lane.round(call);
          } else {  // counts its calls, and neither sends nor gets
            lane.seed(call);
            lane.fill();
            lane.dispatch();
            lane.combine();
          }
        }
        ASSERT_EQ(H4J_OK, lane.synchronize(error)) << error.message;
        ASSERT_EQ(H4J_OK, rank.check(error)) << error.message;
      }
      expect_right(lane);
      EXPECT_GT(lane.findings().sums, 0u);
    });
  }
}

TEST_F(MoeExchangeFaultsGpu, MaskedRanksAreLeftOut) { mask_ranks(3); }
TEST_P(MoeExchangeHostFaultsGpu, MaskedRanksAreLeftOut) { mask_ranks(GetParam()); }

// Numbers that do not exist select nothing, and the first of them is named once.
void name_bad_experts(int ranks) {
  for (int form = 0; form < 3; ++form) {
    const Scenario scenario = with_deadline(form, ranks, 20'000'000);
    run_ranks(scenario, [&](Rank& rank) {
      Error error;
      Lane& lane = *rank.lanes.front();
      lane.seed(1);
      lane.exchange.plain_routing = 1;
      lane.fill();
      // The other ranks' oracle does not know of them, so only the report is looked at.
      const int32_t bad[] = {-2, scenario.experts};
      if (rank.number == 0) H4J_EXPECT_CUDA(cudaMemcpyAsync(lane.memory.experts + 9, bad, sizeof bad, cudaMemcpyHostToDevice, lane.cuda()));
      ASSERT_TRUE(rank.meeting.meet());
      lane.dispatch();
      const h4j_status status = lane.synchronize(error);
      // Ranks that share a device share its record, and whoever waits first is told.
      if (status != H4J_OK) {
        EXPECT_EQ(H4J_INVALID_ARGUMENT, status);
        EXPECT_STREQ("moe_dispatch: experts[9]: got -2, need -1..255", error.message);
      }
      if (scenario.devices == scenario.ranks) EXPECT_EQ(rank.number == 0, status != H4J_OK);
      EXPECT_EQ(H4J_OK, rank.check(error)) << error.message;
    });
  }
}

TEST_F(MoeExchangeFaultsGpu, BadExpertNumbersAreNamed) { name_bad_experts(2); }
TEST_P(MoeExchangeHostFaultsGpu, BadExpertNumbersAreNamed) { name_bad_experts(GetParam()); }

// A rank with a peer on another device knows what its stores there reach; one without has nothing to measure.
void measure_links(int ranks, int gpus) {
  Scenario scenario = with_deadline(0, ranks, 20'000'000);
  scenario.devices = gpus;
  run_ranks(scenario, [&](Rank& rank) {
    Error error;
    h4j_group_buffers_info buffers{};
    buffers.struct_size = sizeof buffers;
    ASSERT_EQ(H4J_OK, h4j_group_buffers(rank.group, 0, &buffers, &error)) << error.message;
    std::printf("             rank %d of %d on %d: %.1f GB/s\n", rank.number, ranks, gpus, static_cast<double>(buffers.link_gbs));
    if (gpus == 1) {
      EXPECT_EQ(0, buffers.link_gbs);
    } else {
      EXPECT_GT(buffers.link_gbs, 5);  // PCIe is slower than NVLink, but not so slow
      EXPECT_LT(buffers.link_gbs, 1000);
    }
  });
}

TEST_F(MoeExchangeFaultsGpu, LinkIsMeasuredWhenTheGroupConnects) {
  for (const int gpus : {1, 2}) {
    if (devices() >= gpus) measure_links(2, gpus);
  }
}
TEST_P(MoeExchangeHostFaultsGpu, LinkIsMeasuredWhenTheGroupConnects) { measure_links(GetParam(), GetParam()); }

// Ranks that would not fit side by side are refused when they connect, by what they would need.
TEST_F(MoeExchangeFaultsGpu, BudgetsThatDoNotFitAreRefused) {
  Error error;
  h4j_device* device = nullptr;
  ASSERT_EQ(H4J_OK, h4j_device_open(0, &device, &error)) << error.message;
  Scenario scenario = with_deadline(0, 2, 1'000'000);
  scenario.sm_budget = 80;
  std::vector<uint8_t> blobs(2 * H4J_GROUP_BLOB_BYTES);
  h4j_group* groups[2] = {};
  for (int rank = 0; rank < 2; ++rank) {
    const h4j_group_spec spec = scenario.group(rank);
    ASSERT_EQ(H4J_OK, h4j_group_open(device, &spec, &groups[rank], &error)) << error.message;
    ASSERT_EQ(H4J_OK, h4j_group_export(groups[rank], blobs.data() + rank * H4J_GROUP_BLOB_BYTES, H4J_GROUP_BLOB_BYTES, &error)) << error.message;
  }
  EXPECT_EQ(H4J_UNSUPPORTED, h4j_group_connect(groups[0], blobs.data(), static_cast<int64_t>(blobs.size()), &error));
  EXPECT_STREQ("sm_budget", error.argument);
  // A peer of another spec: the field in which it differs is named.
  EXPECT_EQ(H4J_OK, h4j_group_close(groups[1], &error));
  h4j_group_spec other = scenario.group(1);
  other.experts = 128;
  ASSERT_EQ(H4J_OK, h4j_group_open(device, &other, &groups[1], &error)) << error.message;
  ASSERT_EQ(H4J_OK, h4j_group_export(groups[1], blobs.data() + H4J_GROUP_BLOB_BYTES, H4J_GROUP_BLOB_BYTES, &error)) << error.message;
  EXPECT_EQ(H4J_INVALID_ARGUMENT, h4j_group_connect(groups[0], blobs.data(), static_cast<int64_t>(blobs.size()), &error));
  EXPECT_STREQ("group: experts: got 128 at rank 1, need 256 as at rank 0", error.message);
  for (h4j_group* group : groups) EXPECT_EQ(H4J_OK, h4j_group_close(group, &error)) << error.message;
  EXPECT_EQ(H4J_OK, h4j_device_close(device, &error)) << error.message;
}

}  // namespace
}  // namespace h4j
