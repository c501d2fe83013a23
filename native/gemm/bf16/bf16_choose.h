// Which instance for which shape: pure host code, the same on any machine.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "gemm/bf16/bf16_layout.h"

namespace h4j::gemm::bf16 {

struct Problem {
  int64_t batch;  // products, or groups
  bool grouped;   // m rows of all groups together, how many of each is not known yet
  int64_t m;
  int64_t n;
  int64_t k;
  int out_bytes;  // of one element of D
  int sms;
};

struct Choice {
  int index;    // into the candidates
  int slices;   // CTAs of a cluster that share a tile's K
  int tiles_m;  // of a product, or of a group with its mean share of rows
  int tiles_n;
  int64_t tiles;  // of all products; of groups at most
  int raster_group;
  bool raster_along_m;
  double clocks;         // predicted
  double math_clocks;    // of which a CTA's tensor core, L2 and epilogue
  double memory_clocks;  // what device memory alone would take
};

// What one candidate costs. The constants and their sources are beside the code.
Choice evaluate(const Problem& problem, const Config& config, int index, int slices);

// The cheapest candidate, with the best number of slices, that fits `shared_memory` bytes a CTA; the first of equals. Its index is -1 where none fits.
Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory);

// "128x256x4", "8x64x20_swapped_s4"
std::string instance_name(const Config& config, int slices);
std::string explain(const Problem& problem, const Config& config, const Choice& choice);

}  // namespace h4j::gemm::bf16
