#include "gemm/dense/dense_choose.h"

#include <algorithm>
#include <cmath>

#include "runtime/plan.h"

namespace h4j::gemm {
namespace {

// The constants below are fitted to the times of 300 pairs of shape and instance on an H100 (../NOTES.md, 11): they predict those within 5 % on average and
// choose within 1 %.

// Clocks of one K block of 128 on resident data. Measured for 128-row tiles on an H100: 296 at N 64, 410 at 96, 536 at 128, 606 at 144, 736 at 176,
// 800 at 192, and 1053 for 256x128: the tensor core's 4 clocks a column and 128 rows, and some to start and end a group of MMAs.
double math_clocks(const Config& config) {
  const double tensor_core = 4.0 * config.tile_n * config.tile_m / 128.0 + 29.0;
  // A group waits for its products and promotes them while other groups multiply. Two groups of wide tiles fill the tensor core that way.
  const double own = 2.43 * config.tile_n * config.group_rows() / 64.0 + 156.0;
  return std::max(tensor_core, own / config.k_groups);
}

// Clusters that run at once on 132 SMs: 66 of 2 CTAs, 30 of 4, 15 of 8 (measured), because a cluster stays within a GPC.
int concurrent_tiles(const Config& config, int sms) {
  const double share = config.slices == 1 ? 1.0 : config.slices == 2 ? 1.0 / 2 : config.slices <= 4 ? 30.0 / 132 : 15.0 / 132;
  return static_cast<int>(sms * share);
}

// What a product draws from device memory and from the L2, and what one SM takes. For comparison: a plain read draws 1726 bytes a clock (3.03 TB/s at
// 1.755 GHz), and 256x128 tiles at full rate read 49 KiB a K block of 1053 clocks on each of 132 SMs from the L2.
constexpr double kDeviceBytesPerClock = 1522.0;
constexpr double kL2BytesPerClock = 7976.0;
constexpr double kSmBytesPerClock = 65.0;
// Launch, descriptor fetch, first stage, the last tile's store, and the write-back of what others left in the L2.
constexpr double kFixedClocks = 7140.0;

double epilogue_clocks(const Config& config, int out_bytes) {
  // Two cluster barriers and the exchange through distributed shared memory.
  const double exchange = config.slices > 1 ? 3860.0 : 0.0;
  return 183.0 + exchange + config.tile_m * config.tile_n * out_bytes / 34.3;
}

// What an order of tiles reads from device memory. A group's pass goes along all tiles of the other dimension; the next group finds those in the L2 if
// everything that a pass touches fits into half of it (what is written takes room too), and reads them again otherwise.
double raster_bytes(const Problem& problem, const Choice& choice, int group, bool along_m) {
  const int grouped_tiles = along_m ? choice.tiles_m : choice.tiles_n;
  const int other_tiles = along_m ? choice.tiles_n : choice.tiles_m;
  const double grouped = double(along_m ? problem.m : problem.n) * double(problem.k);
  const double other = double(along_m ? problem.n : problem.m) * double(problem.k);
  const double share = double(group) / grouped_tiles;
  const double cached = double(problem.l2_bytes) / 2;
  if (other + share * (grouped + double(problem.m) * double(problem.n) * problem.out_bytes) <= cached) return grouped + other;
  const double waves_a_pass = double(group) * other_tiles / problem.sms;
  const double again = share * grouped <= cached ? 1.0 : std::max(1.0, waves_a_pass);
  return again * grouped + double(ceil_div(grouped_tiles, group)) * other;
}

// The order that reads least; of equals the one with the largest groups.
void choose_raster(const Problem& problem, Choice& choice) {
  double least = 0.0;
  for (const int group : {8, 4, 2, 1}) {
    for (const bool along_m : {true, false}) {
      const int used = std::min(group, along_m ? choice.tiles_m : choice.tiles_n);
      const double bytes = raster_bytes(problem, choice, used, along_m);
      if (choice.raster_group == 0 || bytes < least) {
        least = bytes;
        choice.raster_group = used;
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
  choose_raster(problem, choice);
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
  constexpr double kUnhidden = 0.32;
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
