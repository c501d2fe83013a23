#include "gemm/grouped/grouped_choose.h"

#include <algorithm>
#include <cmath>

#include "gemm/cost.h"
#include "runtime/plan.h"

namespace h4j::gemm::grouped {

constexpr int kOutBytes = 2;  // of an element of D

Choice evaluate(const Problem& problem, const Config& config, int index) {
  Choice choice{};
  choice.index = index;
  const auto tiles_m = static_cast<int>(ceil_div(problem.rows, config.tile_m));
  const auto tiles_n = static_cast<int>(ceil_div(problem.n, config.tile_n));
  // Measured on an H100 for groups of 8160 rows (../NOTES.md): 8 along N is never slower than 8 along M and 5 % faster at 6144x7168.
  choice.raster = {tiles_m, tiles_n, std::min(tiles_n, 8), 0};
  const double groups = double(problem.groups);
  const double tiles = groups * tiles_m * tiles_n;
  const double active = std::min<double>(tiles, problem.sms);
  const double blocks = double(ceil_div(problem.k, kTileK));
  // A group's last tile multiplies 64 rows at a time, as many as it has.
  const int64_t rest = problem.rows - int64_t{tiles_m - 1} * config.tile_m;
  const double last = std::max(0.5, double(round_up(rest, 64)) / config.tile_m);
  const double share = (tiles_m - 1 + last) / tiles_m;
  choice.tiles_clocks = tiles_clocks(config, std::ceil(tiles / problem.sms), share * blocks, active, kOutBytes);
  const double rows = double(problem.rows);
  const double n = double(problem.n);
  choice.memory_clocks = groups * ((rows + n) * double(problem.k) + rows * n * kOutBytes) / device_bytes_per_clock(problem.memory_bytes);
  choice.clocks = total_clocks(choice.tiles_clocks, choice.memory_clocks, tiles * blocks * config.stage_bytes() / kL2BytesPerClock);
  return choice;
}

Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory) {
  Choice best{};
  best.index = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (shared_memory_needed[i] > shared_memory) continue;
    // Groups of so few rows seldom fill more than 64, and 64-row tiles have more stages of B under way (2 to 11 % faster at 20 rows).
    if (problem.rows <= 48 && candidates[i].tile_m > 64) continue;
    const Choice candidate = evaluate(problem, candidates[i], static_cast<int>(i));
    if (best.index < 0 || candidate.clocks < best.clocks) best = candidate;
  }
  return best;
}

std::string instance_name(const Config& config) {
  return format("gemm_grouped_%dx%dx%d_g%d", config.tile_m, config.tile_n, config.stages, config.k_groups);
}

std::string explain(const Problem& problem, const Config& config, const Choice& choice) {
  return format(
      "%lld groups of %lld rows on average: %dx%d tiles, %d stages, %d K groups: %d x %d tiles a group on %d SMs, rasterised in groups of %d along "
      "%s; "
      "predicted %.0f clocks: tensor core, L2 and epilogue %.0f, device memory %.0f",
      static_cast<long long>(problem.groups), static_cast<long long>(problem.rows), config.tile_m, config.tile_n, config.stages, config.k_groups,
      choice.raster.tiles_m, choice.raster.tiles_n, problem.sms, choice.raster.group, choice.raster.along_m ? "M" : "N", choice.clocks,
      choice.tiles_clocks, choice.memory_clocks);
}

}  // namespace h4j::gemm::grouped
