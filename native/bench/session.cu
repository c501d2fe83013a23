// The session: L2 flushes, bandwidth and the grouping of kernel times into repetitions.
#include "bench/session.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/open.h"
#include "bench/trace.h"

namespace {

constexpr int kThreads = 1024;
constexpr int kBlocksPerSm = 2;

// The names say to the trace what is flush and what is work.
__global__ void h4j_bench_flush_write(uint4* to, size_t count, uint32_t value) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += step) to[i] = make_uint4(value, value, value, value);
}

__device__ void read_all(const uint4* from, size_t count, uint4* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    const uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
    sum.x ^= a.x ^ b.x ^ c.x ^ d.x;
    sum.y ^= a.y ^ b.y ^ c.y ^ d.y;
    sum.z ^= a.z ^ b.z ^ c.z ^ d.z;
    sum.w ^= a.w ^ b.w ^ c.w ^ d.w;
  }
  for (; i < count; i += step) {
    const uint4 a = from[i];
    sum.x ^= a.x;
    sum.y ^= a.y;
    sum.z ^= a.z;
    sum.w ^= a.w;
  }
  // Never so in practice, but the compiler cannot know and keeps the loads.
  if (sum.x == 0x9e3779b9u && sum.y == 0x7f4a7c15u && sum.z == 0xf39cc060u && sum.w == 0x5cedc834u) *sink = sum;
}

__global__ void h4j_bench_flush_read(const uint4* from, size_t count, uint4* sink) { read_all(from, count, sink); }

__global__ void h4j_bench_read(const uint4* from, size_t count, uint4* sink) { read_all(from, count, sink); }

__global__ void h4j_bench_copy_kernel(uint4* to, const uint4* from, size_t count) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    const uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
    to[i] = a;
    to[i + step] = b;
    to[i + 2 * step] = c;
    to[i + 3 * step] = d;
  }
  for (; i < count; i += step) to[i] = from[i];
}

__global__ void h4j_bench_empty() {}

cudaStream_t stream_of(uint64_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

double median(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One direction of a transfer: its device, memory, stream and events. Members that were not made are null.
struct Lane {
  int device = -1;
  char* from = nullptr;
  char* to = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;

  int open(int on, char* why) {
    device = on;
    H4J_BENCH_CUDA(cudaSetDevice(device));
    H4J_BENCH_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    H4J_BENCH_CUDA(cudaEventCreate(&start));
    H4J_BENCH_CUDA(cudaEventCreate(&end));
    return 0;
  }

  ~Lane() {
    if (device < 0) return;
    cudaSetDevice(device);
    if (stream != nullptr) cudaStreamDestroy(stream);
    if (start != nullptr) cudaEventDestroy(start);
    if (end != nullptr) cudaEventDestroy(end);
  }
};

// Device memory of one device, freed at the end of the scope.
struct Memory {
  int device;
  char* address = nullptr;

  int open(int on, size_t bytes, int value, char* why) {
    device = on;
    H4J_BENCH_CUDA(cudaSetDevice(device));
    H4J_BENCH_CUDA(cudaMalloc(&address, bytes));
    H4J_BENCH_CUDA(cudaMemset(address, value, bytes));
    H4J_BENCH_CUDA(cudaDeviceSynchronize());
    return 0;
  }

  ~Memory() {
    if (address == nullptr) return;
    cudaSetDevice(device);
    cudaFree(address);
  }
};

int enable_peer(int device, int peer, char* why) {
  int possible = 0;
  H4J_BENCH_CUDA(cudaDeviceCanAccessPeer(&possible, device, peer));
  if (possible == 0) return h4j::bench::fail(why, "device %d cannot reach device %d's memory", device, peer);
  H4J_BENCH_CUDA(cudaSetDevice(device));
  const cudaError_t enabled = cudaDeviceEnablePeerAccess(peer, 0);
  cudaGetLastError();
  if (enabled != cudaSuccess && enabled != cudaErrorPeerAccessAlreadyEnabled) {
    return h4j::bench::fail(why, "cudaDeviceEnablePeerAccess: %s", cudaGetErrorString(enabled));
  }
  return 0;
}

// Runs every lane at once, `repetitions` times after two that do not count; the slower lane counts.
template <typename Launch>
int time_lanes(Lane* lanes, int count, int repetitions, Launch launch, double* milliseconds, char* why) {
  std::vector<float> times;
  for (int r = 0; r < repetitions + 2; ++r) {
    for (int i = 0; i < count; ++i) {
      H4J_BENCH_CUDA(cudaSetDevice(lanes[i].device));
      H4J_BENCH_CUDA(cudaEventRecord(lanes[i].start, lanes[i].stream));
      launch(lanes[i]);
      H4J_BENCH_CUDA(cudaGetLastError());
      H4J_BENCH_CUDA(cudaEventRecord(lanes[i].end, lanes[i].stream));
    }
    float slowest = 0;
    for (int i = 0; i < count; ++i) {
      H4J_BENCH_CUDA(cudaEventSynchronize(lanes[i].end));
      float time = 0;
      H4J_BENCH_CUDA(cudaEventElapsedTime(&time, lanes[i].start, lanes[i].end));
      slowest = std::max(slowest, time);
    }
    if (r >= 2) times.push_back(slowest);
  }
  *milliseconds = median(times);
  return 0;
}

}  // namespace

extern "C" {

int32_t h4j_bench_version(void) { return H4J_BENCH_VERSION; }

int32_t h4j_bench_open(int32_t ordinal, h4j_bench_session** session, char* why) {
  // CUPTI sees the kernels of a context best when it was there first.
  h4j::bench::trace_problem();
  H4J_BENCH_CUDA(cudaSetDevice(ordinal));
  h4j_bench_session* opened = new h4j_bench_session;
  opened->ordinal = ordinal;
  *session = opened;
  const auto prepare = [&]() -> int {
    H4J_BENCH_CUDA(cudaDeviceGetAttribute(&opened->sms, cudaDevAttrMultiProcessorCount, ordinal));
    H4J_BENCH_CUDA(cudaDeviceGetPCIBusId(opened->pci_bus_id, sizeof(opened->pci_bus_id), ordinal));
    H4J_BENCH_CUDA(cudaMalloc(&opened->written, h4j::bench::kWrittenBytes));
    H4J_BENCH_CUDA(cudaMalloc(&opened->read, h4j::bench::kReadBytes));
    H4J_BENCH_CUDA(cudaMalloc(&opened->workspace, h4j::bench::kWorkspaceBytes));
    H4J_BENCH_CUDA(cudaMalloc(&opened->one, 256));
    const float one = 1;
    H4J_BENCH_CUDA(cudaMemcpy(opened->one, &one, sizeof(one), cudaMemcpyHostToDevice));
    H4J_BENCH_CUDA(cudaMemset(opened->written, 0x5a, h4j::bench::kWrittenBytes));
    H4J_BENCH_CUDA(cudaMemset(opened->read, 0xa5, h4j::bench::kReadBytes));
    H4J_BENCH_CUDA(cudaDeviceSynchronize());
    return 0;
  };
  if (prepare() != 0) {
    h4j_bench_close(opened);
    *session = nullptr;
    return 1;
  }
  return 0;
}

void h4j_bench_close(h4j_bench_session* session) {
  if (session == nullptr) return;
  cudaSetDevice(session->ordinal);
  cudaFree(session->written);
  cudaFree(session->read);
  cudaFree(session->workspace);
  cudaFree(session->one);
  delete session;
}

int32_t h4j_bench_flush(h4j_bench_session* session, uint64_t stream, int64_t write_bytes, int64_t read_bytes, char* why) {
  if (write_bytes < 0 || write_bytes > h4j::bench::kWrittenBytes || read_bytes < 0 || read_bytes > h4j::bench::kReadBytes) {
    return h4j::bench::fail(why, "flush: got %lld bytes to write and %lld to read, at most 1 GiB and 256 MiB", static_cast<long long>(write_bytes),
                            static_cast<long long>(read_bytes));
  }
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  const int grid = session->sms * kBlocksPerSm;
  if (write_bytes > 0) {
    h4j_bench_flush_write<<<grid, kThreads, 0, stream_of(stream)>>>(reinterpret_cast<uint4*>(session->written), static_cast<size_t>(write_bytes) / 16,
                                                                    0x3c3c3c3cu);
  }
  if (read_bytes > 0) {
    h4j_bench_flush_read<<<grid, kThreads, 0, stream_of(stream)>>>(
        reinterpret_cast<const uint4*>(session->read), static_cast<size_t>(read_bytes) / 16, reinterpret_cast<uint4*>(session->workspace));
  }
  H4J_BENCH_CUDA(cudaGetLastError());
  return 0;
}

int32_t h4j_bench_copy(h4j_bench_session* session, uint64_t stream, uint64_t to, uint64_t from, int64_t bytes, char* why) {
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  const int64_t blocks = std::clamp<int64_t>((bytes / 16 + kThreads - 1) / kThreads, 1, session->sms * kBlocksPerSm);
  h4j_bench_copy_kernel<<<static_cast<int>(blocks), kThreads, 0, stream_of(stream)>>>(
      reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), static_cast<size_t>(bytes) / 16);
  H4J_BENCH_CUDA(cudaGetLastError());
  return 0;
}

int32_t h4j_bench_read_all(h4j_bench_session* session, uint64_t stream, uint64_t from, int64_t bytes, char* why) {
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  const int64_t blocks = std::clamp<int64_t>((bytes / 16 + kThreads - 1) / kThreads, 1, session->sms * kBlocksPerSm);
  h4j_bench_read<<<static_cast<int>(blocks), kThreads, 0, stream_of(stream)>>>(reinterpret_cast<const uint4*>(from), static_cast<size_t>(bytes) / 16,
                                                                               reinterpret_cast<uint4*>(session->workspace));
  H4J_BENCH_CUDA(cudaGetLastError());
  return 0;
}

int32_t h4j_bench_trace_available(h4j_bench_session*, char* why) {
  const std::string& problem = h4j::bench::trace_problem();
  return problem.empty() ? 0 : h4j::bench::fail(why, "%s", problem.c_str());
}

int32_t h4j_bench_trace_begin(h4j_bench_session* session, char* why) {
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  H4J_BENCH_CUDA(cudaDeviceSynchronize());
  const std::string problem = h4j::bench::trace_begin();
  return problem.empty() ? 0 : h4j::bench::fail(why, "%s", problem.c_str());
}

int32_t h4j_bench_trace_end(h4j_bench_session* session, int32_t capacity, double* span_us, double* sum_us, int32_t* kernels, int32_t* repetitions,
                            char* why) {
  H4J_BENCH_CUDA(cudaSetDevice(session->ordinal));
  const cudaError_t work = cudaDeviceSynchronize();
  std::vector<h4j::bench::KernelTime> records;
  const std::string problem = h4j::bench::trace_end(records);
  H4J_BENCH_CUDA(work);
  if (!problem.empty()) return h4j::bench::fail(why, "%s", problem.c_str());
  const std::vector<h4j::bench::Repetition> found = h4j::bench::repetitions_of(records);
  for (size_t i = 0; i < std::min(found.size(), static_cast<size_t>(std::max(capacity, 0))); ++i) {
    span_us[i] = found[i].span_us;
    sum_us[i] = found[i].sum_us;
    kernels[i] = found[i].kernels;
  }
  *repetitions = static_cast<int32_t>(found.size());
  return 0;
}

int32_t h4j_bench_bandwidth(h4j_bench_session* session, int32_t kind, int32_t sms, int32_t directions, int32_t peer, int32_t repetitions, double* gbs,
                            char* why) {
  if (sms < 1 || sms > session->sms || repetitions < 1) return h4j::bench::fail(why, "bandwidth: got %d SMs, need 1 to %d", sms, session->sms);
  const bool to_peer = kind == H4J_BENCH_PEER_STORE || kind == H4J_BENCH_PEER_LOAD;
  const int count = to_peer ? directions : 1;
  if (count < 1 || count > 2) return h4j::bench::fail(why, "bandwidth: got %d directions, need 1 or 2", count);
  Lane lanes[2];
  Memory from[2], to[2];
  size_t bytes = h4j::bench::kWrittenBytes;
  double counted = 1;
  if (to_peer) {
    bytes = h4j::bench::kReadBytes;
    const int devices[2] = {session->ordinal, peer};
    for (int i = 0; i < 2; ++i) {
      if (enable_peer(devices[i], devices[1 - i], why) != 0) return 1;
    }
    for (int i = 0; i < count; ++i) {
      const bool load = kind == H4J_BENCH_PEER_LOAD;
      if (lanes[i].open(devices[i], why) != 0 || from[i].open(devices[load ? 1 - i : i], bytes, i + 1, why) != 0 ||
          to[i].open(devices[load ? i : 1 - i], bytes, 0, why) != 0) {
        return 1;
      }
    }
  } else {
    if (lanes[0].open(session->ordinal, why) != 0 || from[0].open(session->ordinal, bytes, 1, why) != 0) return 1;
    if (kind == H4J_BENCH_COPY) {
      if (to[0].open(session->ordinal, bytes, 0, why) != 0) return 1;
      counted = 2;
    }
  }
  for (int i = 0; i < count; ++i) {
    lanes[i].from = from[i].address;
    lanes[i].to = to[i].address;
  }
  double milliseconds = 0;
  const auto launch = [&](const Lane& lane) {
    if (kind == H4J_BENCH_READ) {
      h4j_bench_read<<<sms * kBlocksPerSm, kThreads, 0, lane.stream>>>(reinterpret_cast<const uint4*>(lane.from), bytes / 16,
                                                                       reinterpret_cast<uint4*>(session->workspace));
    } else if (kind == H4J_BENCH_COPY && sms == session->sms) {
      cudaMemcpyAsync(lane.to, lane.from, bytes, cudaMemcpyDeviceToDevice, lane.stream);
    } else {
      h4j_bench_copy_kernel<<<sms * kBlocksPerSm, kThreads, 0, lane.stream>>>(reinterpret_cast<uint4*>(lane.to),
                                                                              reinterpret_cast<const uint4*>(lane.from), bytes / 16);
    }
  };
  if (time_lanes(lanes, count, repetitions, launch, &milliseconds, why) != 0) return 1;
  *gbs = counted * static_cast<double>(bytes) / 1e6 / milliseconds;
  return 0;
}

int32_t h4j_bench_all_to_all(const int32_t* ordinals, int32_t count, int32_t sms, int32_t repetitions, double* gbs, char* why) {
  constexpr int kMostDevices = 64;
  if (count < 2 || count > kMostDevices) return h4j::bench::fail(why, "all_to_all: got %d devices, need 2 to %d", count, kMostDevices);
  if (sms < 1 || repetitions < 1) return h4j::bench::fail(why, "all_to_all: got %d SMs and %d repetitions, need 1 or more", sms, repetitions);
  const int peers = count - 1;
  const int transfers = count * peers;
  const int share = std::max(1, sms / peers);
  const size_t bytes = h4j::bench::kReadBytes;
  std::vector<Lane> lanes(static_cast<size_t>(transfers));
  std::vector<Memory> from(static_cast<size_t>(count));
  std::vector<Memory> to(static_cast<size_t>(transfers));
  for (int i = 0; i < transfers; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto source = static_cast<size_t>(i / peers);
    const int target = (static_cast<int>(source) + 1 + i % peers) % count;
    if (enable_peer(ordinals[source], ordinals[target], why) != 0 || lanes[at].open(ordinals[source], why) != 0 ||
        to[at].open(ordinals[target], bytes, 0, why) != 0) {
      return 1;
    }
    if (i % peers == 0 && from[source].open(ordinals[source], bytes, 1, why) != 0) return 1;
    lanes[at].from = from[source].address;
    lanes[at].to = to[at].address;
  }
  double milliseconds = 0;
  const auto launch = [&](const Lane& lane) {
    h4j_bench_copy_kernel<<<share * kBlocksPerSm, kThreads, 0, lane.stream>>>(reinterpret_cast<uint4*>(lane.to),
                                                                              reinterpret_cast<const uint4*>(lane.from), bytes / 16);
  };
  if (time_lanes(lanes.data(), transfers, repetitions, launch, &milliseconds, why) != 0) return 1;
  *gbs = static_cast<double>(peers) * static_cast<double>(bytes) / 1e6 / milliseconds;
  return 0;
}

int32_t h4j_bench_empty_kernel(h4j_bench_session* session, double* us, char* why) {
  Lane lane;
  if (lane.open(session->ordinal, why) != 0) return 1;
  double milliseconds = 0;
  const auto launch = [&](const Lane& on) { h4j_bench_empty<<<session->sms, 128, 0, on.stream>>>(); };
  if (time_lanes(&lane, 1, 50, launch, &milliseconds, why) != 0) return 1;
  *us = milliseconds * 1e3;
  return 0;
}

int32_t h4j_bench_monitor_start(h4j_bench_session* session, char* why) {
  const std::string problem = session->monitor.start(session->pci_bus_id);
  return problem.empty() ? 0 : h4j::bench::fail(why, "%s", problem.c_str());
}

int32_t h4j_bench_monitor_stop(h4j_bench_session* session, h4j_bench_sample* sample, char* why) {
  const std::string problem = session->monitor.stop(*sample);
  return problem.empty() ? 0 : h4j::bench::fail(why, "%s", problem.c_str());
}

int32_t h4j_bench_driver_release(h4j_bench_session*, char* text, char* why) {
  std::string problem;
  const std::string release = h4j::bench::driver_release(problem);
  if (!problem.empty()) return h4j::bench::fail(why, "%s", problem.c_str());
  std::snprintf(text, H4J_BENCH_TEXT, "%s", release.c_str());
  return 0;
}

}  // extern "C"
