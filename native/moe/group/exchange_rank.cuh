// A rank of an expert group as a thread, for tests: its device, memory and calls, and the place where ranks meet.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "moe/group/exchange_data.cuh"
#include "testing/gpu.h"

namespace h4j::testing {
// Each test file has its own: what is warmed up must be the very kernels that run, and kernels of a header are of one file.
namespace {

#define H4J_EXPECT_CUDA(call) EXPECT_EQ(cudaSuccess, (call))

// Each rank's stream must have a queue of its own on the device: behind the kernel of a rank that waits, another rank's would never begin. The driver reads this
// when it is first used.
inline const int kQueues = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);

// Ranks meet here. One that does not come in time, or has failed, lets the others go.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks) {}
  virtual ~Meeting() = default;
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // Brings the blobs of ranks that are not threads of this process.
  virtual bool share(int, std::vector<uint8_t>&) { return true; }

  virtual bool meet() {
    std::unique_lock lock(mutex_);
    if (failed_) return false;
    const int round = round_;
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return true;
    }
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return round_ != round || failed_; })) failed_ = true;
    if (failed_) changed_.notify_all();
    return !failed_;
  }

  virtual void fail() {
    const std::scoped_lock lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int round_ = 0;
  bool failed_ = false;
};

// What the ranks of a test do.
struct Scenario {
  std::string name;
  int ranks = 2;
  int devices = 1;
  h4j_dtype rows = H4J_F8_E4M3;
  h4j_dtype in = H4J_F8_E4M3;
  bool latency = false;
  bool expert_layout = false;
  int tokens = 256;
  int hidden = 7168;
  int top_k = 8;
  int experts = 256;
  int alignment = 128;
  int channels = 1;
  int calls = 1000;
  bool halves = false;
  bool reuse = false;  // every second dispatch has the routing of the one before
  bool delays = true;
  bool in_graphs = false;  // with `plain`: a graph has the count of tokens in it
  int sm_budget = -1;      // -1: the library's choice where each rank has a device of its own, else an even share
  int64_t deadline_us = 20'000'000;
  bool residual = true;
  bool plain = false;  // distinct experts, all tokens in each call

  friend std::ostream& operator<<(std::ostream& out, const Scenario& s) { return out << s.name; }

  h4j_group_spec group(int rank) const {
    h4j_group_spec spec{};
    spec.struct_size = sizeof spec;
    spec.rank = rank;
    spec.ranks = ranks;
    spec.experts = experts;
    spec.top_k = top_k;
    spec.hidden = hidden;
    spec.max_tokens = latency ? 0 : tokens;
    spec.latency_tokens = latency ? tokens : 0;
    spec.channels = channels;
    const int sharing = (ranks + devices - 1) / devices * channels;
    spec.sm_budget = sm_budget >= 0 ? sm_budget : sharing == 1 ? 0 : 128 / sharing / 2 * 2;
    spec.row_dtype = rows;
    spec.scale_kind = H4J_SCALE_POWER_OF_TWO;
    spec.deadline_us = deadline_us;
    return spec;
  }

  int32_t layout() const { return latency || expert_layout ? H4J_LAYOUT_EXPERT : H4J_LAYOUT_RANK; }

  h4j_moe_dispatch_spec dispatch(int channel, int half, bool reused) const {
    h4j_moe_dispatch_spec spec{};
    spec.struct_size = sizeof spec;
    spec.mode = latency ? H4J_MODE_LATENCY : H4J_MODE_THROUGHPUT;
    spec.layout = layout();
    spec.half = half;
    spec.in_dtype = in;
    spec.alignment = alignment;
    spec.channel = channel;
    spec.reuse = reused;
    return spec;
  }

  h4j_moe_combine_spec combine(int channel, int half) const {
    h4j_moe_combine_spec spec{};
    spec.struct_size = sizeof spec;
    spec.mode = latency ? H4J_MODE_LATENCY : H4J_MODE_THROUGHPUT;
    spec.layout = layout();
    spec.half = half;
    spec.residual = residual;
    spec.channel = channel;
    return spec;
  }

  Exchange exchange(int rank) const {
    Exchange e{};
    e.ranks = ranks;
    e.rank = rank;
    e.experts = experts;
    e.per_rank = (experts + ranks - 1) / ranks;
    e.top_k = top_k;
    e.hidden = hidden;
    e.most_tokens = tokens;
    e.alignment = alignment;
    e.latency = latency;
    e.expert_layout = latency || expert_layout;
    e.residual = residual;
    e.fp8 = rows == H4J_F8_E4M3;
    e.cast = in != rows;
    e.plain_routing = plain;
    e.active = ranks == 64 ? ~uint64_t{0} : (uint64_t{1} << ranks) - 1;
    return e;
  }
};

// A channel of a rank: a stream, memory, and the four launches of dispatch and combine.
class Lane {
 public:
  Lane(const Scenario& scenario, int rank, h4j_device* device, const h4j_device_info& info, h4j_group* group, int channel)
      : scenario_(scenario), group_(group), channel_(channel), exchange(scenario.exchange(rank)) {
    Error error;
    EXPECT_EQ(H4J_OK, h4j_stream_create(device, &stream_, &error)) << error.message;
    uint64_t handle = 0;
    EXPECT_EQ(H4J_OK, h4j_stream_handle(stream_, &handle, &error)) << error.message;
    cuda_ = reinterpret_cast<cudaStream_t>(handle);
    plan(info);
    bind(info);
  }

  ~Lane() {
    Error error;
    for (h4j_graph* graph : {there_graph_, back_graph_}) EXPECT_EQ(H4J_OK, h4j_graph_close(graph, &error)) << error.message;
    for (h4j_launch* launch : {there_, there_again_, there_end_, back_, back_end_})
      EXPECT_EQ(H4J_OK, h4j_launch_close(launch, &error)) << error.message;
    for (h4j_plan* plan : plans_) EXPECT_EQ(H4J_OK, h4j_plan_close(plan, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_stream_close(stream_, &error)) << error.message;
    for (void* address : allocated_) H4J_EXPECT_CUDA(cudaFree(address));
  }

  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void fill() const { fill_tokens<<<64, 256, 0, cuda_>>>(exchange, memory); }
  // From now on dispatch and combine are replayed, with as many tokens as now.
  void capture() {
    there_graph_ = captured(there_);
    back_graph_ = captured(back_);
  }
  void dispatch() const {
    if (there_graph_ != nullptr) return replay(there_graph_);
    run(there_);
    if (scenario_.halves) hold(), run(there_end_);
  }
  void dispatch_again() const { run(there_again_); }
  void combine() const {
    if (back_graph_ != nullptr) return replay(back_graph_);
    run(back_);
    if (scenario_.halves) hold(), run(back_end_);
  }
  void check_dispatch(int call) const {
    list_rows<<<exchange.local_experts() + 1, kCheckThreads, 0, cuda_>>>(exchange, memory, call);
    if (exchange.expert_layout) {
      check_experts_rows<<<64, kCheckThreads, static_cast<size_t>(exchange.per_rank) * 4, cuda_>>>(exchange, memory, call);
    } else {
      check_ranks<<<64, kCheckThreads, 0, cuda_>>>(exchange, memory, call);
    }
  }
  void fill_back() const { fill_returned<<<64, kCheckThreads, static_cast<size_t>(exchange.per_rank) * 4, cuda_>>>(exchange, memory); }
  void check_combine(int call) const { check_sums<<<64, kCheckThreads, 0, cuda_>>>(exchange, memory, call); }
  // Late by up to 100 us, in half of the calls.
  void hold() const {
    const uint64_t random =
        mixed(exchange.routing_seed ^ exchange.row_seed, 1000 + static_cast<unsigned>(exchange.rank) + 64 * static_cast<unsigned>(++holds_));
    if (scenario_.delays && random % 2 == 0) delay<<<1, 1, 0, cuda_>>>(random / 2 % 100'000);
  }

  // One call there and back, checked, with data of its own.
  void round(int call) {
    seed(call);
    fill();
    hold();
    dispatch();
    check_dispatch(call);
    if (scenario_.reuse) {
      exchange.row_seed = mixed(exchange.row_seed, 99);
      fill();
      hold();
      dispatch_again();
      check_dispatch(call);
    }
    fill_back();
    hold();
    combine();
    check_combine(call);
  }
  void seed(int call) {
    exchange.routing_seed = mixed(20261130, static_cast<unsigned>(call) * 8 + static_cast<unsigned>(channel_));
    exchange.row_seed = mixed(exchange.routing_seed, 3);
  }

  h4j_status synchronize(Error& error) const { return h4j_stream_synchronize(stream_, &error); }
  h4j_status launch_dispatch(Error& error) const { return h4j_launch_run(there_, stream_, tokens_of(exchange, exchange.rank), &error); }
  cudaStream_t cuda() const { return cuda_; }
  h4j_stream* stream() const { return stream_; }
  const h4j_plan_info& dispatch_info() const { return dispatch_info_; }

  Findings findings() const {
    Findings found{};
    H4J_EXPECT_CUDA(cudaMemcpyAsync(&found, memory.findings, sizeof found, cudaMemcpyDeviceToHost, cuda_));
    H4J_EXPECT_CUDA(cudaStreamSynchronize(cuda_));
    return found;
  }

 private:
  void run(const h4j_launch* launch) const {
    Error error;
    EXPECT_EQ(H4J_OK, h4j_launch_run(launch, stream_, tokens_of(exchange, exchange.rank), &error)) << error.message;
  }
  h4j_graph* captured(const h4j_launch* launch) const {
    Error error;
    h4j_graph* graph = nullptr;
    EXPECT_EQ(H4J_OK, h4j_capture_begin(stream_, &error)) << error.message;
    run(launch);
    EXPECT_EQ(H4J_OK, h4j_capture_end(stream_, &graph, &error)) << error.message;
    return graph;
  }
  void replay(h4j_graph* graph) const {
    Error error;
    EXPECT_EQ(H4J_OK, h4j_graph_launch(graph, stream_, &error)) << error.message;
  }

  template <class T>
  T* allocate(int64_t count) {
    void* address = nullptr;
    const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 64)) * sizeof(T);
    H4J_EXPECT_CUDA(cudaMalloc(&address, bytes));
    H4J_EXPECT_CUDA(cudaMemset(address, 0xff, bytes));
    allocated_.push_back(address);
    return static_cast<T*>(address);
  }

  h4j_plan* plan_dispatch(const h4j_device_info& info, int half, bool reuse, h4j_plan_info* described = nullptr) {
    const h4j_group_spec group = scenario_.group(exchange.rank);
    const h4j_moe_dispatch_spec spec = scenario_.dispatch(channel_, half, reuse);
    h4j_plan* made = nullptr;
    Error error;
    EXPECT_EQ(H4J_OK, h4j_moe_dispatch_plan(&info, &group, &spec, &made, &error)) << error.message;
    if (described != nullptr) {
      described->struct_size = sizeof *described;
      EXPECT_EQ(H4J_OK, h4j_plan_describe(made, described, &error)) << error.message;
    }
    plans_.push_back(made);
    return made;
  }

  h4j_plan* plan_combine(const h4j_device_info& info, int half) {
    const h4j_group_spec group = scenario_.group(exchange.rank);
    const h4j_moe_combine_spec spec = scenario_.combine(channel_, half);
    h4j_plan* made = nullptr;
    Error error;
    EXPECT_EQ(H4J_OK, h4j_moe_combine_plan(&info, &group, &spec, &made, &error)) << error.message;
    plans_.push_back(made);
    return made;
  }

  void plan(const h4j_device_info& info) {
    dispatch_plan_ = plan_dispatch(info, scenario_.halves ? H4J_START : H4J_WHOLE, false, &dispatch_info_);
    combine_plan_ = plan_combine(info, scenario_.halves ? H4J_START : H4J_WHOLE);
  }

  void bind(const h4j_device_info& info) {
    const Exchange& e = exchange;
    const int64_t tokens = e.most_tokens;
    const int64_t width = scenario_.in == H4J_BF16 ? 2 : 1;
    const int64_t x_ld = (e.hidden * width + 15) / 16 * 16 / width;
    const int64_t out_ld = (e.row_bytes() + 15) / 16 * 16 / (e.fp8 ? 1 : 2);
    const int64_t slots = e.latency ? int64_t{e.ranks} * tokens : 0;
    const int64_t out_rows = dispatch_info_.rows;  // that are always enough
    h4j_moe_dispatch_args args{};
    args.struct_size = sizeof args;
    memory.x = allocate<uint8_t>(tokens * x_ld * width);
    memory.x_pitch = x_ld * width;
    memory.x_scales = allocate<float>(tokens * e.blocks());
    memory.x_scales_ld = tokens;
    memory.experts = allocate<int32_t>(tokens * e.top_k);
    memory.weights = allocate<float>(tokens * e.top_k);
    memory.received = allocate<int32_t>(e.ranks + 2);
    auto* handle = allocate<uint8_t>(dispatch_info_.handle_bytes);
    args.x = address(memory.x);
    args.x_ld = x_ld;
    args.x_scales = scenario_.in == H4J_F8_E4M3 ? address(memory.x_scales) : 0;
    args.x_scales_ld = tokens;
    args.experts = address(memory.experts);
    args.weights = address(memory.weights);
    args.handle = address(handle);
    args.received = address(memory.received);
    h4j_moe_combine_args back{};
    back.struct_size = sizeof back;
    if (e.expert_layout) {
      auto* out = allocate<uint8_t>(out_rows * out_ld * (e.fp8 ? 1 : 2));
      memory.rows = out;
      memory.pitch = out_ld * (e.fp8 ? 1 : 2);
      auto* scales = allocate<float>(e.fp8 ? out_rows * e.blocks() : 0);
      memory.scales = scales;
      memory.scales_ld = e.latency ? slots : out_rows;
      auto* ranges = allocate<int32_t>(2 * e.per_rank);
      memory.expert_rows = ranges;
      args.out = address(out);
      args.out_ld = out_ld;
      args.out_rows = out_rows;
      args.out_scales = e.fp8 ? address(scales) : 0;
      args.out_scales_ld = memory.scales_ld;
      args.expert_rows = address(ranges);
      memory.back = allocate<__nv_bfloat16>(out_rows * e.hidden);
      memory.back_ld = e.hidden;
      back.x = address(memory.back);
      back.x_ld = e.hidden;
    } else {
      h4j_group_buffers_info buffers{};
      buffers.struct_size = sizeof buffers;
      Error error;
      EXPECT_EQ(H4J_OK, h4j_group_buffers(group_, channel_, &buffers, &error)) << error.message;
      memory.rows = reinterpret_cast<const uint8_t*>(buffers.rows);
      memory.pitch = buffers.rows_ld * (e.fp8 ? 1 : 2);
      memory.scales = reinterpret_cast<const float*>(buffers.scales);
      memory.scales_ld = buffers.scales_ld;
      memory.row_experts = reinterpret_cast<const int32_t*>(buffers.experts);
      memory.row_weights = reinterpret_cast<const float*>(buffers.weights);
      memory.back = reinterpret_cast<__nv_bfloat16*>(buffers.partials);
      memory.back_ld = buffers.partials_ld;
    }
    memory.residual = allocate<__nv_bfloat16>(tokens * e.hidden);
    memory.sums = allocate<__nv_bfloat16>(tokens * e.hidden);
    back.handle = address(handle);
    back.residual = address(memory.residual);
    back.residual_ld = e.hidden;
    back.out = address(memory.sums);
    back.out_ld = e.hidden;
    memory.slots = allocate<int32_t>(2 * e.ranks * tokens);
    memory.counts = allocate<int32_t>(e.per_rank);
    memory.within = allocate<int32_t>(e.ranks * tokens * e.top_k);
    memory.findings = allocate<Findings>(1);
    H4J_EXPECT_CUDA(cudaMemset(memory.findings, 0, sizeof(Findings)));
    Error error;
    const auto bind_dispatch = [&](h4j_plan* made, h4j_launch** launch) {
      EXPECT_EQ(H4J_OK, h4j_moe_dispatch_bind(made, group_, &args, launch, &error)) << error.message;
    };
    const auto bind_combine = [&](h4j_plan* made, h4j_launch** launch) {
      EXPECT_EQ(H4J_OK, h4j_moe_combine_bind(made, group_, &back, launch, &error)) << error.message;
    };
    bind_dispatch(dispatch_plan_, &there_);
    bind_combine(combine_plan_, &back_);
    if (scenario_.reuse) bind_dispatch(plan_dispatch(info, H4J_WHOLE, true), &there_again_);
    if (scenario_.halves) {
      bind_dispatch(plan_dispatch(info, H4J_FINISH, false), &there_end_);
      bind_combine(plan_combine(info, H4J_FINISH), &back_end_);
    }
  }

  template <class T>
  static uint64_t address(const T* pointer) {
    return reinterpret_cast<uint64_t>(pointer);
  }

  const Scenario& scenario_;
  h4j_group* group_;
  int channel_;
  h4j_stream* stream_ = nullptr;
  cudaStream_t cuda_ = nullptr;
  std::vector<void*> allocated_;
  std::vector<h4j_plan*> plans_;
  h4j_plan* dispatch_plan_ = nullptr;
  h4j_plan* combine_plan_ = nullptr;
  h4j_plan_info dispatch_info_{};
  h4j_launch* there_ = nullptr;
  h4j_launch* there_again_ = nullptr;
  h4j_launch* there_end_ = nullptr;
  h4j_launch* back_ = nullptr;
  h4j_launch* back_end_ = nullptr;
  h4j_graph* there_graph_ = nullptr;
  h4j_graph* back_graph_ = nullptr;
  mutable int holds_ = 0;

 public:
  Exchange exchange;
  Memory memory{};
};

// A rank: opens and connects its group when it is made.
class Rank {
 public:
  Rank(const Scenario& scenario, int number, std::vector<uint8_t>& blobs, Meeting& meeting) : number(number), meeting(meeting) {
    Error error;
    const int ordinal = number % scenario.devices;
    H4J_EXPECT_CUDA(cudaSetDevice(ordinal));
    info.struct_size = sizeof info;
    EXPECT_EQ(H4J_OK, h4j_device_properties(ordinal, &info, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_device_open(ordinal, &device, &error)) << error.message;
    const h4j_group_spec spec = scenario.group(number);
    EXPECT_EQ(H4J_OK, h4j_group_open(device, &spec, &group, &error)) << error.message;
    if (group == nullptr) {
      meeting.fail();
      return;
    }
    EXPECT_EQ(H4J_OK, h4j_group_export(group, blobs.data() + number * H4J_GROUP_BLOB_BYTES, H4J_GROUP_BLOB_BYTES, &error)) << error.message;
    if (!meeting.share(number, blobs) || !meeting.meet()) return;
    const h4j_status connected = h4j_group_connect(group, blobs.data(), static_cast<int64_t>(blobs.size()), &error);
    EXPECT_EQ(H4J_OK, connected) << error.message;
    if (connected != H4J_OK) {
      meeting.fail();
      return;
    }
    for (int channel = 0; channel < scenario.channels; ++channel) {
      lanes.push_back(std::make_unique<Lane>(scenario, number, device, info, group, channel));
    }
    // Nothing may be loaded on a device while a kernel waits there for a peer: all of this test's kernels run once, on no tokens.
    for (const auto& lane : lanes) warm_up(*lane);
    open = meeting.meet();
  }

  // All ranks' work has ended before the first frees what peers may write.
  ~Rank() {
    Error error;
    H4J_EXPECT_CUDA(cudaDeviceSynchronize());
    meeting.meet();
    lanes.clear();
    EXPECT_EQ(H4J_OK, h4j_group_close(group, &error)) << error.message;
    EXPECT_EQ(H4J_OK, h4j_device_close(device, &error)) << error.message;
  }

  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  h4j_status check(Error& error) const { return h4j_group_check(group, &error); }

  const int number;
  Meeting& meeting;
  h4j_device_info info{};
  h4j_device* device = nullptr;
  h4j_group* group = nullptr;
  std::vector<std::unique_ptr<Lane>> lanes;
  bool open = false;

 private:
  static void warm_up(Lane& lane) {
    const Exchange kept = lane.exchange;
    lane.exchange.active = 0;
    lane.fill();
    delay<<<1, 1, 0, lane.cuda()>>>(1);
    lane.check_dispatch(-1);
    lane.fill_back();
    lane.check_combine(-1);
    lane.exchange = kept;
    H4J_EXPECT_CUDA(cudaMemsetAsync(lane.memory.findings, 0, sizeof(Findings), lane.cuda()));
    H4J_EXPECT_CUDA(cudaStreamSynchronize(lane.cuda()));
  }
};

// Runs `body` on a thread for each rank of a connected group.
inline void run_ranks(const Scenario& scenario, const std::function<void(Rank&)>& body) {
  Meeting meeting(scenario.ranks);
  std::vector<uint8_t> blobs(static_cast<size_t>(scenario.ranks) * H4J_GROUP_BLOB_BYTES);
  std::vector<std::thread> threads;
  for (int number = 0; number < scenario.ranks; ++number) {
    threads.emplace_back([&, number] {
      Rank rank(scenario, number, blobs, meeting);
      if (rank.open) body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace h4j::testing
