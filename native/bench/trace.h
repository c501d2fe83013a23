// Kernel times by CUPTI's activity records.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace h4j::bench {

struct KernelTime {
  uint64_t start;  // ns
  uint64_t end;
  bool is_flush;
};

// Empty: CUPTI is there. Otherwise why it is not.
const std::string& trace_problem();
// Both answer an empty text, or what went wrong.
std::string trace_begin();
// Call when the device is idle. Records are sorted by start.
std::string trace_end(std::vector<KernelTime>& records);

}  // namespace h4j::bench
