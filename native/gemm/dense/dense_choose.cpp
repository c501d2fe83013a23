#include "gemm/dense/dense_choose.h"

#include <algorithm>
#include <cmath>

#include "gemm/cost.h"
#include "runtime/plan.h"

namespace h4j::gemm {
namespace {

// Clusters that run at once on 132 SMs: 66 of 2 CTAs, 30 of 4, 15 of 8 (measured), because a cluster stays within a GPC.
int concurrent_tiles(const Config& config, int sms) {
  const double share = config.slices == 1 ? 1.0 : config.slices == 2 ? 1.0 / 2 : config.slices <= 4 ? 30.0 / 132 : 15.0 / 132;
  return static_cast<int>(sms * share);
}

}  // namespace

Choice evaluate(const Problem& problem, const Config& config, int index) {
  Choice choice{};
  choice.index = index;
  choice.tiles_m = static_cast<int>(ceil_div(problem.m, config.tile_m));
  choice.tiles_n = static_cast<int>(ceil_div(problem.n, config.tile_n));
  const int concurrent = std::max(concurrent_tiles(config, problem.sms), 1);
  const Raster raster =
      choose_raster({problem.m, problem.n, problem.k, problem.out_bytes, problem.sms, problem.l2_bytes}, choice.tiles_m, choice.tiles_n);
  choice.raster_group = raster.group;
  choice.raster_along_m = raster.along_m != 0;
  const double tiles = double(choice.tiles_m) * choice.tiles_n;
  const double active = std::min<double>(tiles, concurrent) * config.slices;
  const double waves = std::ceil(tiles / concurrent);
  const double blocks = double(ceil_div(ceil_div(problem.k, kTileK), config.slices));
  choice.math_clocks = waves * (blocks * std::max(math_clocks(config), stage_clocks(config, active)) + epilogue_clocks(config, problem.out_bytes));
  const double m = double(problem.m);
  const double n = double(problem.n);
  const double bytes = (m + n) * double(problem.k) + m * n * problem.out_bytes;
  choice.memory_clocks = bytes / kDeviceBytesPerClock;
  choice.clocks = total_clocks(choice.math_clocks, choice.memory_clocks);
  return choice;
}

Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory) {
  Choice best{};
  best.index = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (shared_memory_needed[i] > shared_memory) continue;
    if (problem.in_order && (candidates[i].k_groups > 1 || candidates[i].slices > 1)) continue;
    if (problem.quantized && !candidates[i].quantizes()) continue;
    const Choice candidate = evaluate(problem, candidates[i], static_cast<int>(i));
    // A second wave of clusters would undo what sharing K brings, and exceed the SM budget.
    if (candidates[i].slices > 1 && candidate.tiles_m * candidate.tiles_n > concurrent_tiles(candidates[i], problem.sms)) continue;
    if (best.index < 0 || candidate.clocks < best.clocks) best = candidate;
  }
  return best;
}

std::string instance_name(const Config& config) {
  return format("gemm_dense_%dx%dx%d_g%d_s%d", config.tile_m, config.tile_n, config.stages, config.k_groups, config.slices);
}

std::string explain(const Problem& problem, const Config& config, const Choice& choice) {
  const long long tiles = static_cast<long long>(choice.tiles_m) * choice.tiles_n;
  return format(
      "%dx%d tiles, %d stages, %d K groups, %d slices: %lld tiles (%d x %d) in %lld waves of %d SMs, rasterised in groups of %d along %s; predicted "
      "%.0f clocks: "
      "tensor core, L2 and epilogue %.0f, device memory %.0f",
      config.tile_m, config.tile_n, config.stages, config.k_groups, config.slices, tiles, choice.tiles_m, choice.tiles_n,
      static_cast<long long>(ceil_div(tiles, problem.sms)), problem.sms, choice.raster_group, choice.raster_along_m ? "M" : "N", choice.clocks,
      choice.math_clocks, choice.memory_clocks);
}

}  // namespace h4j::gemm
