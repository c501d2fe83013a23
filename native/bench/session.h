// A device with the flush buffers, and what hangs on it.
#pragma once

#include <cuda_runtime.h>

#include "bench/hopper4j_bench.h"
#include "bench/monitor.h"

struct h4j_bench_session {
  int ordinal = 0;
  int sms = 0;
  char pci_bus_id[32] = "";
  char* written = nullptr;  // 1 GiB
  char* read = nullptr;     // 256 MiB
  void* workspace = nullptr;
  float* one = nullptr;  // a scale of 1
  h4j::bench::Monitor monitor;
};

namespace h4j::bench {
constexpr int64_t kWrittenBytes = int64_t{1} << 30;
constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
}  // namespace h4j::bench

// Ends the calling function with why the CUDA call failed.
#define H4J_BENCH_CUDA(call)                                                                                    \
  do {                                                                                                          \
    if (const cudaError_t result = (call); result != cudaSuccess) {                                             \
      cudaGetLastError();                                                                                       \
      return h4j::bench::fail(why, "%s: %s (%d)", #call, cudaGetErrorString(result), static_cast<int>(result)); \
    }                                                                                                           \
  } while (false)
