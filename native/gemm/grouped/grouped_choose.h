// Which instance for which groups: pure host code, the same on any machine.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "gemm/config.h"
#include "gemm/grouped/grouped_walk.h"

namespace h4j::gemm::grouped {

struct Problem {
  int64_t groups;
  int64_t rows;  // of a group, on average
  int64_t n;
  int64_t k;
  int sms;
  int64_t memory_bytes;  // of the device
};

struct Choice {
  int index;  // into the candidates
  Columns columns;
  double clocks;  // predicted
  double tiles_clocks;
  double memory_clocks;
};

Choice evaluate(const Problem& problem, const Config& config, int index);

// The cheapest candidate that fits `shared_memory` bytes a CTA; the first of equals. Its index is -1 where none fits.
Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory);

std::string instance_name(const Config& config);
std::string explain(const Problem& problem, const Config& config, const Choice& choice);

}  // namespace h4j::gemm::grouped
