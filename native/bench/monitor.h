// Clock, power and company of a card by NVML, sampled in a thread.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "bench/hopper4j_bench.h"

namespace h4j::bench {

class Monitor {
 public:
  ~Monitor();
  // `pci_bus_id` as CUDA tells it: "0000:1b:00.0".
  std::string start(const char* pci_bus_id);
  std::string stop(h4j_bench_sample& sample);

 private:
  void run(void* device);

  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::vector<unsigned> sm_clocks_, memory_clocks_, watts_;
  int celsius_ = 0, other_processes_ = -1, watts_limit_ = 0;
  uint64_t throttle_reasons_ = 0;
};

// The driver's release; an empty text and the reason where it is not told.
std::string driver_release(std::string& problem);

}  // namespace h4j::bench
