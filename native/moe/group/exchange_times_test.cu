// A table of times of dispatch and combine, for tuning: nothing is asserted, so these do not run unless asked for:
//   hopper4j_tests --gtest_also_run_disabled_tests --gtest_filter='*MoeExchangeTimesGpu*'
// us of the slower rank between events around one call, median of 20, after 512 MB were written on each device and a barrier of the ranks.
#include <algorithm>
#include <array>

#include "moe/group/exchange_rank.cuh"

namespace h4j {
namespace {

using testing::Error;
using testing::Lane;
using testing::Rank;
using testing::Scenario;

constexpr int kRepetitions = 20;
constexpr int kWarmUps = 3;
constexpr size_t kFlushBytes = size_t{512} << 20;
constexpr size_t kStoreBytes = size_t{256} << 20;

__global__ void write_all(uint4* to, size_t count, uint32_t value) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x)
    to[i] = make_uint4(value, value, value, value);
}

__global__ void store_all(uint4* to, size_t count) {
  constexpr int kAtOnce = 4;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += kAtOnce * step) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (i + j * step < count) to[i + j * step] = make_uint4(1, 2, 3, static_cast<uint32_t>(i));
    }
  }
}

struct Flags {
  uint32_t* of[64];
};

// Ends when every rank's has begun.
__global__ void barrier(Flags flags, int rank, int ranks, uint32_t round) {
  const int peer = static_cast<int>(threadIdx.x);
  if (peer >= ranks) return;
  __threadfence_system();
  *const_cast<volatile uint32_t*>(flags.of[peer] + rank) = round;
  const volatile uint32_t* mine = flags.of[rank] + peer;
  for (int polls = 0; *mine < round && polls < 1 << 24; ++polls) {
  }
}

// What the ranks of a run share.
struct Shared {
  Flags flags{};
  std::array<uint4*, 64> stored{};
  std::vector<std::array<float, kRepetitions>> times = std::vector<std::array<float, kRepetitions>>(64);
};

struct Time {
  double us, low, high;
};

Time slower_rank(const Shared& shared, int ranks) {
  std::array<float, kRepetitions> slowest{};
  for (int i = 0; i < kRepetitions; ++i) {
    for (int rank = 0; rank < ranks; ++rank) slowest[i] = std::max(slowest[i], shared.times[static_cast<size_t>(rank)][i]);
  }
  std::sort(slowest.begin(), slowest.end());
  return {1000.0 * slowest[kRepetitions / 2], 1000.0 * slowest[kRepetitions / 10], 1000.0 * slowest[kRepetitions * 9 / 10]};
}

class Stopwatch {
 public:
  Stopwatch(Rank& rank, const Scenario& scenario, Shared& shared)
      : rank_(rank), ranks_(scenario.ranks), shared_(shared), stream_(rank.lanes.front()->cuda()) {
    H4J_EXPECT_CUDA(cudaMalloc(&flags_, 64 * sizeof(uint32_t)));
    H4J_EXPECT_CUDA(cudaMemset(flags_, 0, 64 * sizeof(uint32_t)));
    H4J_EXPECT_CUDA(cudaMalloc(&flushed_, kFlushBytes));
    shared.flags.of[rank.number] = flags_;
    shared.stored[static_cast<size_t>(rank.number)] = flushed_;
    for (auto& event : events_) H4J_EXPECT_CUDA(cudaEventCreate(&event));
    barrier<<<1, 64, 0, stream_>>>(shared.flags, 0, 0, 0);  // loads it
    store_all<<<1, 1, 0, stream_>>>(flushed_, 0);
    H4J_EXPECT_CUDA(cudaDeviceSynchronize());
    rank.meeting.meet();
  }

  ~Stopwatch() {
    H4J_EXPECT_CUDA(cudaDeviceSynchronize());
    rank_.meeting.meet();
    H4J_EXPECT_CUDA(cudaFree(flags_));
    H4J_EXPECT_CUDA(cudaFree(flushed_));
    for (auto& event : events_) H4J_EXPECT_CUDA(cudaEventDestroy(event));
  }

  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  // `before` is not timed. The result is the same at every rank.
  template <class Before, class Body>
  Time time(Before before, Body body, bool flush = true) {
    for (int i = -kWarmUps; i < kRepetitions; ++i) {
      before();
      if (flush) write_all<<<264, 1024, 0, stream_>>>(flushed_, kFlushBytes / 16, static_cast<uint32_t>(i));
      barrier<<<1, 64, 0, stream_>>>(shared_.flags, rank_.number, ranks_, ++round_);
      if (i >= 0) H4J_EXPECT_CUDA(cudaEventRecord(events_[2 * i], stream_));
      body();
      if (i >= 0) H4J_EXPECT_CUDA(cudaEventRecord(events_[2 * i + 1], stream_));
    }
    H4J_EXPECT_CUDA(cudaStreamSynchronize(stream_));
    for (int i = 0; i < kRepetitions; ++i) {
      H4J_EXPECT_CUDA(cudaEventElapsedTime(&shared_.times[static_cast<size_t>(rank_.number)][i], events_[2 * i], events_[2 * i + 1]));
    }
    rank_.meeting.meet();
    const Time slowest = slower_rank(shared_, ranks_);
    rank_.meeting.meet();
    return slowest;
  }

  // 16-byte stores to the next rank's device by 24 SMs, all ranks at once: GB/s a direction.
  double peer_store() {
    uint4* to = shared_.stored[static_cast<size_t>((rank_.number + 1) % ranks_)];
    const Time taken = time([] {}, [&] { store_all<<<24, 1024, 0, stream_>>>(to, kStoreBytes / 16); }, false);
    return kStoreBytes / taken.us / 1000;
  }

 private:
  Rank& rank_;
  const int ranks_;
  Shared& shared_;
  cudaStream_t stream_;
  uint32_t* flags_ = nullptr;
  uint4* flushed_ = nullptr;
  uint32_t round_ = 0;
  std::array<cudaEvent_t, 2 * kRepetitions> events_{};
};

class MoeExchangeTimesGpu : public ::testing::TestWithParam<Scenario> {};

TEST_P(MoeExchangeTimesGpu, DISABLED_Prints) {
  const Scenario& scenario = GetParam();
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < scenario.devices) GTEST_SKIP() << "needs " << scenario.devices << " devices";
  Shared shared;
  run_ranks(scenario, [&](Rank& rank) {
    Lane& lane = *rank.lanes.front();
    Stopwatch watch(rank, scenario, shared);
    lane.seed(0);
    const auto print = [&](const char* what, const Time& taken) {
      if (rank.number == 0) {
        std::printf("time %-34s %-18s %3d CTAs  %7.1f us  (%.1f to %.1f)\n", scenario.name.c_str(), what, lane.dispatch_info().grid, taken.us,
                    taken.low, taken.high);
      }
    };
    if (scenario.devices > 1) {
      const double rate = watch.peer_store();
      if (rank.number == 0) std::printf("time %-34s %-18s %7.1f GB/s\n", scenario.name.c_str(), "peer store", rate);
    }
    int call = 0;
    const auto fresh = [&] {
      lane.seed(++call);
      lane.fill();
    };
    print("dispatch", watch.time(fresh, [&] { lane.dispatch(); }));
    lane.check_dispatch(call);
    if (scenario.reuse) print("dispatch, reused", watch.time([] {}, [&] { lane.dispatch_again(); }));
    lane.fill_back();
    print("combine", watch.time([] {}, [&] { lane.combine(); }));
    lane.check_combine(call);
    if (scenario.latency) {
      lane.capture();
      print("pair in a graph", watch.time([] {}, [&] { lane.dispatch(), lane.combine(); }, false));
    }
    const testing::Findings f = lane.findings();
    EXPECT_EQ(0u, f.wrong) << "rank " << rank.number << ", kind " << f.what << ", place " << f.place;
    EXPECT_GT(f.rows, 0u);
  });
}

std::vector<Scenario> timed() {
  std::vector<Scenario> all;
  Scenario base;
  base.ranks = base.devices = 2;
  base.plain = true;
  base.delays = false;
  base.residual = false;
  const auto add = [&](const char* name, int sms, auto change) {
    Scenario s = base;
    s.name = std::string(name) + "_" + std::to_string(sms);
    s.sm_budget = sms;
    s.tokens = 4096;
    change(s);
    all.push_back(s);
  };
  for (const int sms : {16, 24, 64, 132}) add("rank_fp8_4096", sms, [](Scenario& s) { s.reuse = true; });
  add("rank_fp8_8192", 24, [](Scenario& s) { s.tokens = 8192, s.reuse = true; });
  add("rank_fp8_4096_residual", 24, [](Scenario& s) { s.residual = true; });
  add("rank_bf16_4096", 24, [](Scenario& s) { s.rows = s.in = H4J_BF16; });
  add("rank_cast_4096", 24, [](Scenario& s) { s.in = H4J_BF16; });
  for (const int sms : {48, 64, 80, 96, 112, 132}) add("expert_fp8_4096", sms, [](Scenario& s) { s.expert_layout = true; });
  for (const int tokens : {128, 64, 8}) {
    for (const int sms : {32, 64, 96, 132}) {
      add(tokens == 128  ? "latency_128"
          : tokens == 64 ? "latency_64"
                         : "latency_8",
          sms, [&](Scenario& s) {
            s.latency = true;
            s.tokens = tokens;
            s.in = H4J_BF16;
          });
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, MoeExchangeTimesGpu, ::testing::ValuesIn(timed()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace h4j
