#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "moe/combine/combine_kernels.h"
#include "moe/combine/combine_layout.h"
#include "moe/dispatch/dispatch_kernels.h"
#include "moe/dispatch/dispatch_layout.h"
#include "moe/group/group.h"
#include "moe/group/link_kernel.h"
#include "moe/latency/latency_kernels.h"
#include "moe/latency/latency_layout.h"

namespace h4j::moe {
namespace {

constexpr const char* kOperation = "group";
constexpr int64_t kDefaultDeadlineUs = 10'000'000;
constexpr int kDefaultCtas = 128;

// What a rank tells its peers. Plain data of one build on one host.
struct Blob {
  char magic[8];
  uint64_t process[2];  // drawn once a process
  h4j_group_spec spec;
  uint8_t uuid[16];
  uint64_t window;
  int64_t window_bytes;
  CUipcMemHandle handle;
};
static_assert(sizeof(Blob) <= H4J_GROUP_BLOB_BYTES);
constexpr char kMagic[8] = {'h', '4', 'j', 'g', 'r', 'p', '0', '1'};

// Tells this process from others. A process id would not: containers have the same ones.
const uint64_t* process_number() {
  static const struct Number {
    uint64_t words[2];
    Number() {
      std::random_device random;
      for (uint64_t& word : words) word = uint64_t{random()} << 32 | random();
    }
  } number;
  return number.words;
}

Blob blob_of(const h4j_group& group) {
  Blob blob{};
  std::memcpy(blob.magic, kMagic, sizeof kMagic);
  std::memcpy(blob.process, process_number(), sizeof blob.process);
  blob.spec = group.spec;
  std::memcpy(blob.uuid, group.device->info.uuid, sizeof blob.uuid);
  blob.window = group.window;
  blob.window_bytes = group.window_bytes;
  const ScopedContext current(group.device->primary);
  check(driver().cuIpcGetMemHandle(&blob.handle, group.window), "cuIpcGetMemHandle");
  return blob;
}

void require_same(const char* field, int64_t got, int64_t need, int rank, int me) {
  if (got != need) {
    invalid(kOperation, field, format("%lld at rank %d", static_cast<long long>(got), rank),
            format("%lld as at rank %d", static_cast<long long>(need), me));
  }
}

void require_same_spec(const h4j_group_spec& theirs, const h4j_group_spec& mine, int rank) {
  const int me = mine.rank;
  require_same("ranks", theirs.ranks, mine.ranks, rank, me);
  require_same("experts", theirs.experts, mine.experts, rank, me);
  require_same("top_k", theirs.top_k, mine.top_k, rank, me);
  require_same("hidden", theirs.hidden, mine.hidden, rank, me);
  require_same("max_tokens", theirs.max_tokens, mine.max_tokens, rank, me);
  require_same("latency_tokens", theirs.latency_tokens, mine.latency_tokens, rank, me);
  require_same("channels", theirs.channels, mine.channels, rank, me);
  require_same("sm_budget", theirs.sm_budget, mine.sm_budget, rank, me);
  require_same("row_dtype", theirs.row_dtype, mine.row_dtype, rank, me);
  require_same("scale_kind", theirs.scale_kind, mine.scale_kind, rank, me);
}

template <class Params>
void warm(const h4j_group& group, const void* stub, int64_t shared_memory) {
  Params params{};
  params.group = describe(group, 0);
  Kernel(stub, *group.device, static_cast<int>(shared_memory)).launch({1, kThreads}, nullptr, &params);
}

// Loads and runs every kernel: while a kernel waits for a peer on the same device, no other can be loaded. They end at once, since the state says that
// the group is lost, until it is reset below.
void warm_up(const h4j_group& group) {
  const Driver& cu = driver();
  check(cu.cuMemsetD8(group.state, 1, sizeof(uint32_t)), "cuMemsetD8");
  if (group.spec.max_tokens > 0) {
    for (const bool expert_layout : {false, true}) {
      const int64_t shared = dispatch_shared_bytes(group.shape, expert_layout);
      warm<DispatchParams>(group, dispatch_stub(false, expert_layout), shared);
      if (group.shape.fp8) warm<DispatchParams>(group, dispatch_stub(true, expert_layout), expert_layout ? shared : cast_shared_bytes(group.shape));
      warm<CombineParams>(group, combine_stub(expert_layout), 0);
    }
  }
  if (group.spec.latency_tokens > 0) {
    warm<LatencyDispatchParams>(group, latency_dispatch_stub(), latency_shared_bytes(group.shape));
    warm<LatencyCombineParams>(group, latency_combine_stub(), 0);
  }
  const LinkParams nothing{pointer<uint8_t>(group.window), 0};
  Kernel(link_stub(), *group.device, 0).launch({1, kThreads}, nullptr, &nothing);
  check(cu.cuCtxSynchronize(), "cuCtxSynchronize");
  check(cu.cuMemsetD8(group.state, 0, sizeof(uint32_t)), "cuMemsetD8");
  check(cu.cuCtxSynchronize(), "cuCtxSynchronize");
}

// The connected groups of this process.
struct ConnectedGroups {
  std::mutex mutex;
  std::vector<h4j_group*> all;

  static ConnectedGroups& instance() {
    static auto& groups = *new ConnectedGroups;  // never destroyed: threads may close groups while the process ends
    return groups;
  }
  void add(h4j_group& group) {
    const std::scoped_lock lock(mutex);
    all.push_back(&group);
  }
  // Its peers here do not write to its window any more once this returns. Those of other processes have it mapped, and may.
  void remove(h4j_group& group) {
    bool told = false;
    {
      const std::scoped_lock lock(mutex);
      std::erase(all, &group);
      for (h4j_group* peer : all) {
        if (peer->peers[group.spec.rank] != group.window) continue;
        auto* closed = const_cast<volatile uint64_t*>(&peer->status->closed);
        *closed = *closed | uint64_t{1} << group.spec.rank;
        told = true;
      }
    }
    // A kernel that looked just before may have a store on its way.
    if (told) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
};

// Frees what a group holds; the first failure is told when all is freed.
void release(h4j_group& group) {
  const Driver& cu = driver();
  const ScopedContext current(group.device->primary);
  CUresult first = CUDA_SUCCESS;
  const auto keep = [&](CUresult result) {
    if (first == CUDA_SUCCESS) first = result;
  };
  keep(cu.cuCtxSynchronize());
  for (const CUdeviceptr window : group.imported) keep(cu.cuIpcCloseMemHandle(window));
  if (group.window != 0) keep(cu.cuMemFree(group.window));
  if (group.state != 0) keep(cu.cuMemFree(group.state));
  if (group.status != nullptr) keep(cu.cuMemFreeHost(group.status));
  group.imported.clear();
  group.window = group.state = 0;
  group.status = nullptr;
  check(first, "group_close");
}

// GB/s of stores into the part of a peer's window that is there for this.
float measure_link(const h4j_group& group, int rank) {
  const Driver& cu = driver();
  const Kernel kernel(link_stub(), *group.device, 0);
  const uint64_t target = group.peers[rank] + static_cast<uint64_t>(group.window_bytes - kLinkBytes);
  struct Event {
    CUevent event = nullptr;
    Event() { check(driver().cuEventCreate(&event, CU_EVENT_DEFAULT), "cuEventCreate"); }
    ~Event() { driver().cuEventDestroy(event); }
  };
  const Event begin;
  const Event end;
  float best = 0;
  for (int repetition = 0; repetition < 3; ++repetition) {
    const LinkParams params{pointer<uint8_t>(target), kLinkPasses};
    check(cu.cuEventRecord(begin.event, nullptr), "cuEventRecord");
    kernel.launch({static_cast<unsigned>(std::min(kLinkCtas, group.device->info.sm_count)), kThreads}, nullptr, &params);
    check(cu.cuEventRecord(end.event, nullptr), "cuEventRecord");
    check(cu.cuEventSynchronize(end.event), "cuEventSynchronize");
    float milliseconds = 0;
    check(cu.cuEventElapsedTime(&milliseconds, begin.event, end.event), "cuEventElapsedTime");
    if (milliseconds > 0) best = std::max(best, static_cast<float>(kLinkBytes * kLinkPasses) / 1e6f / milliseconds);
  }
  return best;
}

CUdeviceptr allocate(int64_t bytes, const char* what) {
  CUdeviceptr address = 0;
  const CUresult result = driver().cuMemAlloc(&address, static_cast<size_t>(bytes));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    Failure failure;
    failure.status = H4J_OUT_OF_DEVICE_MEMORY;
    failure.operation = kOperation;
    failure.argument = what;
    failure.cuda_code = result;
    failure.requested_bytes = bytes;
    size_t available = 0;
    size_t total = 0;
    if (driver().cuMemGetInfo(&available, &total) == CUDA_SUCCESS) failure.free_bytes = static_cast<int64_t>(available);
    failure.got = format("%lld bytes", static_cast<long long>(bytes));
    failure.allowed = format("at most what is free, %zu bytes: fewer tokens or channels", available);
    throw failure;
  }
  check(result, "cuMemAlloc");
  check(driver().cuMemsetD8(address, 0, static_cast<size_t>(bytes)), "cuMemsetD8");
  return address;
}

void import_window(h4j_group& group, int rank, const Blob& blob) {
  const Driver& cu = driver();
  const bool same_process = std::memcmp(blob.process, process_number(), sizeof blob.process) == 0;
  const bool same_device = std::memcmp(blob.uuid, group.device->info.uuid, sizeof blob.uuid) == 0;
  if (!same_process) {
    if (same_device) {
      fail(H4J_UNSUPPORTED, kOperation, "device", format("rank %d of another process on the device of rank %d", rank, group.spec.rank),
           "ranks of one process where they share a device: kernels of two processes do not run side by side");
    }
    CUdeviceptr window = 0;
    check(cu.cuIpcOpenMemHandle(&window, blob.handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), "cuIpcOpenMemHandle");
    group.imported.push_back(window);
    group.peers[rank] = window;
    return;
  }
  if (!same_device) {
    CUcontext context = nullptr;
    int ordinal = 0;
    check(cu.cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, blob.window), "cuPointerGetAttribute");
    check(cu.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, blob.window), "cuPointerGetAttribute");
    int reachable = 0;
    CUdevice peer{};
    check(cu.cuDeviceGet(&peer, ordinal), "cuDeviceGet");
    check(cu.cuDeviceCanAccessPeer(&reachable, group.device->device, peer), "cuDeviceCanAccessPeer");
    if (reachable == 0) {
      fail(H4J_UNSUPPORTED, kOperation, "device", format("device %d, which cannot reach device %d of rank %d", group.device->ordinal, ordinal, rank),
           "devices with peer access to each other");
    }
    const CUresult enabled = cu.cuCtxEnablePeerAccess(context, 0);
    if (enabled != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) check(enabled, "cuCtxEnablePeerAccess");
  }
  group.peers[rank] = blob.window;
}

}  // namespace

void require_group_spec(const char* operation, const h4j_group_spec& spec) {
  require_range(operation, "ranks", spec.ranks, 1, kMaxRanks);
  require_range(operation, "rank", spec.rank, 0, spec.ranks - 1);
  require_range(operation, "experts", spec.experts, 1, kMaxExperts);
  require_range(operation, "top_k", spec.top_k, 1, kMaxTopK);
  require_range(operation, "hidden", spec.hidden, 8, kMaxHidden);
  require_multiple(operation, "hidden", spec.hidden, 8);
  require_range(operation, "max_tokens", spec.max_tokens, 0, 1 << 20);
  require_range(operation, "latency_tokens", spec.latency_tokens, 0, kMaxLatencyTokens);
  require_range(operation, "channels", spec.channels, 1, kMaxChannels);
  require_range(operation, "sm_budget", spec.sm_budget, 0, kMaxCtas);
  require_dtype(operation, "row_dtype", spec.row_dtype, {H4J_F8_E4M3, H4J_BF16});
  require_range(operation, "scale_kind", spec.scale_kind, H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO);
  require_range(operation, "deadline_us", spec.deadline_us, 0, int64_t{3'600'000'000});
  if (spec.latency_tokens > 0 && spec.sm_budget == 1) invalid(operation, "sm_budget", "1", ">= 2 for latency calls, whose halves share it");
  const Shape shape = shape_of(spec);
  if (shape.max_rows() > kMaxExtent / spec.top_k) {
    invalid(operation, "max_tokens", format("%d", spec.max_tokens), format("ranks * max_tokens * top_k <= %lld", static_cast<long long>(kMaxExtent)));
  }
  // Every CTA keeps the whole table of ballots, and every entry of a latency call, in shared memory.
  constexpr int64_t kShared = 220 * 1024;
  const int64_t shared = std::max(dispatch_shared_bytes(shape, true), shape.fp8 ? cast_shared_bytes(shape) : 0);
  if (shared > kShared) {
    invalid(operation, "max_tokens", format("%d for %d ranks and %d experts", spec.max_tokens, spec.ranks, spec.experts),
            format("at most %lld bytes of shared memory, not %lld: fewer tokens", static_cast<long long>(kShared), static_cast<long long>(shared)));
  }
  if (spec.latency_tokens > 0 && latency_shared_bytes(shape) > kShared) {
    invalid(operation, "latency_tokens", format("%d tokens, %d ranks, top %d, hidden %d", spec.latency_tokens, spec.ranks, spec.top_k, spec.hidden),
            format("at most %lld bytes of shared memory, not %lld: fewer tokens", static_cast<long long>(kShared),
                   static_cast<long long>(latency_shared_bytes(shape))));
  }
}

Shape shape_of(const h4j_group_spec& spec) {
  Shape shape{};
  shape.ranks = spec.ranks;
  shape.rank = spec.rank;
  shape.experts = spec.experts;
  shape.experts_per_rank = static_cast<int>(ceil_div(spec.experts, spec.ranks));
  shape.top_k = spec.top_k;
  shape.hidden = spec.hidden;
  shape.max_tokens = spec.max_tokens;
  shape.latency_tokens = spec.latency_tokens;
  shape.fp8 = spec.row_dtype == H4J_F8_E4M3;
  return shape;
}

int group_ctas(const char* operation, const h4j_device_info& device, const h4j_group_spec& spec, int preferred) {
  const int wanted = spec.sm_budget == 0 ? preferred : spec.sm_budget;
  if (spec.sm_budget > device.sm_count) invalid(operation, "sm_budget", format("%d", spec.sm_budget), format("0..%d", device.sm_count));
  return wanted < device.sm_count ? wanted : device.sm_count;
}

int link_ctas(float link_gbs) {
  // 16 SMs of plain stores fill a link that measures 350 GB/s (nominally 450), 24 are as fast as all. Fewer than eight would be slow on the local half.
  constexpr float kFilled = 350;
  constexpr int kCtas = 24;
  constexpr int kLeast = 8;
  if (link_gbs <= 0 || link_gbs >= kFilled) return kCtas;
  return std::max(kLeast, static_cast<int>(ceil_div(static_cast<int64_t>(kCtas * link_gbs), static_cast<int64_t>(2 * kFilled)) * 2));
}

void require_channel(const char* operation, const h4j_group_spec& spec, int channel) {
  require_range(operation, "channel", channel, 0, spec.channels - 1);
}

void require_half(const char* operation, int half) { require_range(operation, "half", half, H4J_WHOLE, H4J_FINISH); }

void require_mode(const char* operation, const h4j_group_spec& spec, int mode) {
  require_range(operation, "mode", mode, H4J_MODE_THROUGHPUT, H4J_MODE_LATENCY);
  if ((mode == H4J_MODE_LATENCY ? spec.latency_tokens : spec.max_tokens) == 0) {
    invalid(operation, "mode", mode == H4J_MODE_LATENCY ? "latency" : "throughput",
            mode == H4J_MODE_LATENCY ? "a group with latency_tokens > 0" : "a group with max_tokens > 0");
  }
}

void require_planned_group(const char* operation, const h4j_group& group, const h4j_group_spec& planned) {
  if (!group.connected) fail(H4J_INVALID_STATE, operation, "group", "one that is not connected", "h4j_group_connect first");
  h4j_group_spec spec = group.spec;
  spec.rank = planned.rank;
  spec.deadline_us = planned.deadline_us;
  if (std::memcmp(&spec, &planned, sizeof spec) != 0) invalid(operation, "group", "one of another spec", "the group that was planned for");
}

void require_alive(const char* operation, const h4j_group& group) {
  const auto* reported = const_cast<const volatile uint64_t*>(&group.status->report);
  uint64_t report = *reported;
  if (report == 0) return;
  // The kernel that reports finds out for two milliseconds whom to name. Not for ever: a broken context would settle nothing.
  constexpr int kMostWaits = 10'000;
  for (int waits = 0; (report & kSettled) == 0 && waits < kMostWaits; ++waits) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    report = *reported;
  }
  constexpr const char* kPhases[] = {"",        "counts of rows", "rows",         "partial rows to be ready", "the end of reading", "partial rows",
                                     "routing", "rows",           "returned rows"};
  const auto phase = static_cast<size_t>((report & ~kSettled) >> 48);
  fail(H4J_PEER_TIMEOUT, operation, "rank", format("%d", static_cast<int>(static_cast<uint32_t>(report)) - 1),
       format("its %s on channel %d before the deadline; close the group and open it without the lost rank",
              phase < std::size(kPhases) ? kPhases[phase] : "answer", static_cast<int>(report >> 32 & 0xffff)));
}

Group describe(const h4j_group& group, int channel) {
  Group described{};
  for (int rank = 0; rank < group.spec.ranks; ++rank) {
    described.peers[rank] = pointer<uint8_t>(group.peers[rank] + static_cast<uint64_t>(channel * group.offsets.channel_bytes));
  }
  described.state = pointer<State>(group.state);
  described.status = group.status;
  // A rank that is left out makes its calls too, so that it keeps count of them, and waits for nobody.
  described.active = (group.active >> group.spec.rank & 1) != 0 ? group.active : 0;
  described.deadline_ns = static_cast<uint64_t>(group.spec.deadline_us == 0 ? kDefaultDeadlineUs : group.spec.deadline_us) * 1000;
  described.expert_divisor = static_cast<uint32_t>(ceil_div(1 << 20, group.shape.experts_per_rank));
  described.channel = channel;
  described.shape = group.shape;
  described.offsets = group.offsets;
  return described;
}

}  // namespace h4j::moe

using namespace h4j;
using namespace h4j::moe;

h4j_status h4j_group_open(h4j_device* device, const h4j_group_spec* spec, h4j_group** group, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    h4j_group*& out = require_output(group, kOperation, "group");
    out = nullptr;
    h4j_device& opened = require_handle(device, kOperation, "device");
    auto made = std::make_unique<h4j_group>();
    made->device = &opened;
    made->spec = read_struct(spec, kOperation, "spec");
    require_hopper(kOperation, opened.info);
    require_group_spec(kOperation, made->spec);
    group_ctas(kOperation, opened.info, made->spec, kDefaultCtas);
    made->shape = shape_of(made->spec);
    made->offsets = offsets_of(made->shape);
    made->window_bytes = made->offsets.channel_bytes * made->spec.channels + kLinkBytes;
    made->active = made->spec.ranks == 64 ? ~uint64_t{0} : (uint64_t{1} << made->spec.ranks) - 1;
    const ScopedContext current(opened.primary);
    try {
      made->window = allocate(made->window_bytes, "window");
      made->state = allocate(sizeof(State), "state");
      void* status = nullptr;
      check(driver().cuMemHostAlloc(&status, sizeof(Status), CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP), "cuMemHostAlloc");
      made->status = new (status) Status{};
      warm_up(*made);
    } catch (...) {
      try {
        release(*made);
      } catch (const Failure&) {  // the first failure is the one to tell
      }
      throw;
    }
    out = made.release();
  });
}

h4j_status h4j_group_export(const h4j_group* group, uint8_t* blob, int64_t bytes, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    const h4j_group& exported = require_handle(group, kOperation, "group");
    require_output(blob, kOperation, "blob");
    require_range(kOperation, "bytes", bytes, H4J_GROUP_BLOB_BYTES, H4J_GROUP_BLOB_BYTES);
    std::memset(blob, 0, H4J_GROUP_BLOB_BYTES);
    const Blob made = blob_of(exported);
    std::memcpy(blob, &made, sizeof made);
  });
}

h4j_status h4j_group_connect(h4j_group* group, const uint8_t* blobs, int64_t bytes, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    h4j_group& joined = require_handle(group, kOperation, "group");
    if (blobs == nullptr) invalid(kOperation, "blobs", "null", "the blobs of all ranks");
    if (joined.connected) fail(H4J_INVALID_STATE, kOperation, "group", "one that is connected", "one that is not");
    const int ranks = joined.spec.ranks;
    require_range(kOperation, "bytes", bytes, int64_t{ranks} * H4J_GROUP_BLOB_BYTES, int64_t{ranks} * H4J_GROUP_BLOB_BYTES);
    std::vector<Blob> all(static_cast<size_t>(ranks));
    int sharing_ctas = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      Blob& blob = all[static_cast<size_t>(rank)];
      std::memcpy(&blob, blobs + int64_t{rank} * H4J_GROUP_BLOB_BYTES, sizeof blob);
      if (std::memcmp(blob.magic, kMagic, sizeof kMagic) != 0) {
        invalid(kOperation, "blobs", format("something else at rank %d", rank), "what h4j_group_export of this version writes");
      }
      require_same_spec(blob.spec, joined.spec, rank);
      require_same("rank", blob.spec.rank, rank, rank, rank);
      if (std::memcmp(blob.uuid, joined.device->info.uuid, sizeof blob.uuid) == 0) {
        sharing_ctas += group_ctas(kOperation, joined.device->info, joined.spec, kDefaultCtas);
      }
    }
    // Kernels of ranks on one device wait for each other, so all their CTAs must have an SM at the same time.
    if (sharing_ctas > joined.device->info.sm_count) {
      fail(H4J_UNSUPPORTED, kOperation, "sm_budget", format("%d SMs for the ranks on device %d together", sharing_ctas, joined.device->ordinal),
           format("at most its %d: give each rank a smaller sm_budget", joined.device->info.sm_count));
    }
    const ScopedContext current(joined.device->primary);
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank == joined.spec.rank) {
        joined.peers[rank] = joined.window;
      } else {
        import_window(joined, rank, all[static_cast<size_t>(rank)]);
      }
    }
    for (int rank = 0; rank < ranks; ++rank) {
      if (std::memcmp(all[static_cast<size_t>(rank)].uuid, joined.device->info.uuid, sizeof(Blob::uuid)) == 0) continue;
      const float rate = measure_link(joined, rank);
      joined.link_gbs = joined.link_gbs == 0 ? rate : std::min(joined.link_gbs, rate);
    }
    joined.connected = true;
    ConnectedGroups::instance().add(joined);
  });
}

h4j_status h4j_group_buffers(const h4j_group* group, int32_t channel, h4j_group_buffers_info* buffers, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    const h4j_group& opened = require_handle(group, kOperation, "group");
    require_channel(kOperation, opened.spec, channel);
    const uint64_t base = opened.window + static_cast<uint64_t>(channel * opened.offsets.channel_bytes);
    const auto address = [&](int64_t offset) { return base + static_cast<uint64_t>(offset); };
    h4j_group_buffers_info found{};
    found.link_gbs = opened.link_gbs;
    found.rows = address(opened.offsets.rows);
    found.rows_ld = opened.shape.row_ld();
    found.scales = opened.shape.fp8 ? address(opened.offsets.scales) : 0;
    found.scales_ld = opened.shape.scales_ld();
    found.experts = address(opened.offsets.experts);
    found.weights = address(opened.offsets.weights);
    found.partials = address(opened.offsets.partials);
    found.partials_ld = opened.shape.partial_pitch() / 2;
    write_struct(found, buffers, kOperation, "buffers");
  });
}

h4j_status h4j_group_set_active(h4j_group* group, uint64_t ranks, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    h4j_group& opened = require_handle(group, kOperation, "group");
    const uint64_t all = opened.spec.ranks == 64 ? ~uint64_t{0} : (uint64_t{1} << opened.spec.ranks) - 1;
    if ((ranks & ~all) != 0)
      invalid(kOperation, "ranks", format("0x%llx", static_cast<unsigned long long>(ranks)), format("bits below %d", opened.spec.ranks));
    opened.active = ranks;
  });
}

h4j_status h4j_group_check(const h4j_group* group, h4j_error* error) {
  return guarded(kOperation, error, [&] { require_alive(kOperation, require_handle(group, kOperation, "group")); });
}

h4j_status h4j_group_close(h4j_group* group, h4j_error* error) {
  return guarded(kOperation, error, [&] {
    if (group == nullptr) return;
    const std::unique_ptr<h4j_group> owned(group);
    ConnectedGroups::instance().remove(*owned);
    release(*owned);
  });
}
