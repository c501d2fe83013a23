// Which instance for which shape: pure host code, the same on any machine.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "gemm/dense/dense_layout.h"

namespace h4j::gemm {

struct Problem {
  int64_t m;
  int64_t n;
  int64_t k;
  int out_bytes;  // of one element of D
  int sms;
  int64_t l2_bytes;
  int64_t memory_bytes;    // of the device
  bool in_order = false;   // one warp group adds up all of K: every such instance gives the same bits
  bool quantized = false;  // D is E4M3 with scales of 128 columns
  bool shares = false;     // CTAs may add up tiles together, through a workspace
};

struct Choice {
  int index;  // into the candidates
  int tiles_m;
  int tiles_n;  // whole columns of tiles
  int whole;    // tiles taken whole
  int edges;    // tiles of half the columns at the right edge of D
  int halves;   // all tiles of half the columns
  int shared;   // tiles that CTAs share, behind the whole ones
  int sharers;  // how many do
  int k_blocks;
  int raster_group;
  bool raster_along_m;
  double clocks;         // predicted
  double tiles_clocks;   // what the busiest CTA's tiles alone would take
  double memory_clocks;  // what device memory alone would take
};

// What one candidate costs. The constants and their sources are beside the code.
Choice evaluate(const Problem& problem, const Config& config, int index);

// The cheapest candidate that fits `shared_memory` bytes a CTA; the first of equals. Its index is -1 where none fits.
Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory);

// The CTAs of the kernel, or clusters that share K, on so many SMs.
int ctas_of(const Choice& choice, const Config& config, int sms);
// What CTAs on so many SMs need to share tiles: the words that say what is ready, and behind them the sums of a tile for each.
int64_t ready_bytes(const Config& config, int sms);
int64_t workspace_bytes(const Config& config, int sms);

// For a launch of so many of them.
Order order_of(const Choice& choice, int ctas);

// "gemm_dense_256x128x3"
std::string instance_name(const Config& config);
std::string explain(const Problem& problem, const Config& config, const Choice& choice);

}  // namespace h4j::gemm
