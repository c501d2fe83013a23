#include "gemm/dense/dense_choose.h"

#include <algorithm>
#include <cmath>

#include "runtime/plan.h"

namespace h4j::gemm {
namespace {

// Clocks of one K block of 128 on resident data. Measured for 128-row tiles on an H100: 296 at N 64, 410 at 96, 536 at 128, 606 at 144, 736 at 176,
// 800 at 192, and 1053 for 256x128: the tensor core's 4 clocks a column and 128 rows, and about 25 to start and end a group of MMAs.
double math_clocks(const Config& config) {
  const double tensor_core = 4.0 * config.tile_n * config.tile_m / 128.0 + 25.0;
  // A group waits for its products and promotes them, about 250 clocks and one a column pair, while other groups multiply. Two groups of wide tiles fill
  // the tensor core that way.
  const double own = 2.0 * config.tile_n * config.group_rows() / 64.0 + config.tile_n / 2.0 * config.group_rows() / 64.0 + 250.0;
  return std::max(tensor_core, own / config.k_groups);
}

// Clusters that run at once on 132 SMs: 66 of 2 CTAs, 30 of 4, 15 of 8 (measured), because a cluster stays within a GPC.
int concurrent_tiles(const Config& config, int sms) {
  const double share = config.slices == 1 ? 1.0 : config.slices == 2 ? 1.0 / 2 : config.slices <= 4 ? 30.0 / 132 : 15.0 / 132;
  return static_cast<int>(sms * share);
}

// Device memory gives 3.03 TB/s at 1.755 GHz to all SMs together. 256x128 tiles at full rate read 49 KiB a K block of 1053 clocks on each of 132 SMs, so the
// L2 gives at least that; one SM takes no more than about 60 bytes a clock.
constexpr double kDeviceBytesPerClock = 1726.0;
constexpr double kL2BytesPerClock = 6400.0;
constexpr double kSmBytesPerClock = 60.0;
// Launch, descriptor fetch and first stage, and the last tile's store: 3 us at 1.755 GHz.
constexpr double kFixedClocks = 5000.0;

// Storing a tile: 2, 7 and 15 % of a 256x128 tile at K 7168, 2048 and 512 were measured, 1200 clocks each.
double epilogue_clocks(const Config& config, int out_bytes) {
  // Two cluster barriers and the exchange through distributed shared memory: 1.7 us at 1.755 GHz over a plain epilogue (measured on
  // a prototype).
  const double exchange = config.slices > 1 ? 3000.0 : 0.0;
  return 300.0 + exchange + config.tile_m * config.tile_n * out_bytes / 70.0;
}

// Side lengths of a wave's block of tiles: the group is chosen so that what a wave reads is least.
void choose_raster(const Config& config, int sms, Choice& choice) {
  double least = 0.0;
  for (const bool along_m : {true, false}) {
    const int grouped = along_m ? choice.tiles_m : choice.tiles_n;
    const int other = along_m ? choice.tiles_n : choice.tiles_m;
    for (const int group : {1, 2, 4, 8, 16}) {
      const int x = std::min(group, grouped);
      const int y = std::min(static_cast<int>(ceil_div(sms, x)), other);
      const double rows = double(along_m ? x : y) * config.tile_m;
      const double cols = double(along_m ? y : x) * config.tile_n;
      // Per tile of the wave, so that a group too small to fill it is not preferred.
      const double bytes = (rows + cols) / (double(x) * y);
      if (choice.raster_group == 0 || bytes < least) {
        least = bytes;
        choice.raster_group = x;
        choice.raster_along_m = along_m;
      }
    }
  }
}

}  // namespace

Choice evaluate(const Problem& problem, const Config& config, int index) {
  Choice choice{};
  choice.index = index;
  choice.tiles_m = static_cast<int>(ceil_div(problem.m, config.tile_m));
  choice.tiles_n = static_cast<int>(ceil_div(problem.n, config.tile_n));
  const int concurrent = std::max(concurrent_tiles(config, problem.sms), 1);
  choose_raster(config, concurrent, choice);
  const double tiles = double(choice.tiles_m) * choice.tiles_n;
  const double active = std::min<double>(tiles, concurrent) * config.slices;
  const double waves = std::ceil(tiles / concurrent);
  const double blocks = double(ceil_div(ceil_div(problem.k, kTileK), config.slices));
  const double stage_clocks = config.stage_bytes() / std::min(kSmBytesPerClock, kL2BytesPerClock / active);
  choice.math_clocks = waves * (blocks * std::max(math_clocks(config), stage_clocks) + epilogue_clocks(config, problem.out_bytes));
  const double m = double(problem.m);
  const double n = double(problem.n);
  const double bytes = (m + n) * double(problem.k) + m * n * problem.out_bytes;
  choice.memory_clocks = bytes / kDeviceBytesPerClock;
  // The lesser of the two does not hide wholly under the greater.
  constexpr double kUnhidden = 0.2;
  choice.clocks = std::max(choice.math_clocks, choice.memory_clocks) + kUnhidden * std::min(choice.math_clocks, choice.memory_clocks) + kFixedClocks;
  return choice;
}

Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory) {
  Choice best{};
  best.index = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (shared_memory_needed[i] > shared_memory) continue;
    if (problem.in_order && (candidates[i].k_groups > 1 || candidates[i].slices > 1)) continue;
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
