// Kernel times by CUPTI's activity records.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace h4j::bench {

struct KernelTime {
  uint64_t start;  // ns
  uint64_t end;
  bool is_flush;
};

// The kernels between two flushes.
struct Repetition {
  double span_us;  // from the first kernel's start to the last one's end
  double sum_us;   // of the kernels' own times
  int32_t kernels;
};

// Records sorted by start, as repetitions; kernels before the first flush are left out, and a flush may be of several kernels.
inline std::vector<Repetition> repetitions_of(const std::vector<KernelTime>& records) {
  std::vector<Repetition> repetitions;
  bool begun = false, opens = false;
  uint64_t first = 0, last = 0;
  for (const KernelTime& record : records) {
    if (record.is_flush) {
      begun = opens = true;
      continue;
    }
    if (!begun) continue;
    if (opens) {
      opens = false;
      first = record.start;
      last = record.end;
      repetitions.push_back({});
    }
    last = std::max(last, record.end);
    Repetition& current = repetitions.back();
    current.span_us = static_cast<double>(last - first) / 1e3;
    current.sum_us += static_cast<double>(record.end - record.start) / 1e3;
    ++current.kernels;
  }
  return repetitions;
}

// Empty: CUPTI is there. Otherwise why it is not.
const std::string& trace_problem();
// Both answer an empty text, or what went wrong.
std::string trace_begin();
// Call when the device is idle. Records are sorted by start.
std::string trace_end(std::vector<KernelTime>& records);

}  // namespace h4j::bench
