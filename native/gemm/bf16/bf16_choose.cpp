#include "gemm/bf16/bf16_choose.h"

#include <algorithm>
#include <cmath>

#include "runtime/plan.h"

namespace h4j::gemm::bf16 {
namespace {

// Clocks of one K block of 64 on resident data: the tensor core takes half a clock a column of the second operand for 64 rows and 16 of K. A group's wait
// and release take about 40 more, which another group hides; below 150 a block is bound by the barriers' latency.
double math_clocks(const Config& config) {
  const double tensor_core = 2.0 * config.second_rows() * config.math_groups();
  return std::max(config.math_groups() > 1 ? tensor_core : tensor_core + 40.0, 150.0);
}

constexpr int kMostSlices = 8;

// Clusters of so many CTAs that run at once on 132 SMs, as measured: a cluster stays within a GPC.
int concurrent_clusters(int ctas, int sms) {
  constexpr int kOf132[] = {0, 132, 66, 39, 30, 22, 17, 15, 15};
  return std::max(static_cast<int>(int64_t{kOf132[ctas]} * sms / 132), sms >= ctas ? 1 : 0);
}

// Device memory gives 3.03 TB/s at 1.755 GHz to all SMs together; one SM takes no more than about 60 bytes a clock from the L2, all of them 6400.
constexpr double kDeviceBytesPerClock = 1726.0;
constexpr double kL2BytesPerClock = 6400.0;
constexpr double kSmBytesPerClock = 60.0;
// Few SMs do not draw all of the memory's bandwidth: 16, 33, 66 and 100 of 132 drew 1684, 2367, 2586 and 2791 GB/s (measured).
double drawn_share(double active) { return std::min(1.0, active >= 33 ? 0.72 + 0.28 * (active - 33) / 99 : 0.72 * std::sqrt(active / 33)); }
// Launch, descriptor fetch and first stage, and the last tile's store: 3 us at 1.755 GHz.
constexpr double kFixedClocks = 5000.0;

double epilogue_clocks(const Config& config, int slices, int out_bytes) {
  // Two cluster barriers, and every slice's sums through distributed shared memory.
  if (config.swapped) return 400.0 + (slices > 1 ? 1000.0 + 700.0 * slices : 0.0) + config.tile_m * config.tile_n / 12.0;
  return 300.0 + config.tile_m * config.tile_n * out_bytes / 55.0;
}

// Side lengths of a wave's block of tiles: the group is chosen so that what a wave reads is least.
void choose_raster(const Config& config, int concurrent, Choice& choice) {
  double least = 0.0;
  for (const bool along_m : {true, false}) {
    const int grouped = along_m ? choice.tiles_m : choice.tiles_n;
    const int other = along_m ? choice.tiles_n : choice.tiles_m;
    for (const int group : {1, 2, 4, 8, 16}) {
      const int x = std::max(std::min(group, grouped), 1);
      const int y = std::max(std::min(static_cast<int>(ceil_div(concurrent, x)), other), 1);
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

Choice evaluate(const Problem& problem, const Config& config, int index, int slices) {
  Choice choice{};
  choice.index = index;
  choice.slices = slices;
  const int64_t mean = problem.grouped ? ceil_div(problem.m, problem.batch) : problem.m;
  choice.tiles_m = static_cast<int>(ceil_div(mean, config.tile_m));
  choice.tiles_n = static_cast<int>(ceil_div(problem.n, config.tile_n));
  choice.tiles = (problem.grouped ? problem.m / config.tile_m + std::min(problem.batch, problem.m) : problem.batch * choice.tiles_m) * choice.tiles_n;
  const int concurrent = std::max(concurrent_clusters(slices, problem.sms), 1);
  choose_raster(config, concurrent, choice);
  const double tiles = double(problem.batch) * choice.tiles_m * choice.tiles_n;
  const double active = std::min<double>(tiles, concurrent) * slices;
  const double waves = std::ceil(tiles / concurrent);
  const double blocks = double(ceil_div(ceil_div(problem.k, kTileK), slices));
  const double stage_clocks = config.stage_bytes() / std::min(kSmBytesPerClock, kL2BytesPerClock / std::max(active, 1.0));
  choice.math_clocks = waves * (blocks * std::max(math_clocks(config), stage_clocks) + epilogue_clocks(config, slices, problem.out_bytes));
  const double m = double(problem.m) * (problem.grouped ? 1.0 : double(problem.batch));
  // Rows of tiles read the same B. Without slices most of that comes from the L2, with slices it was as slow as from memory (measured).
  const double again = (slices > 1 ? 1.0 : 0.1) * (choice.tiles_m - 1);
  const double b_bytes = double(problem.batch) * double(problem.n) * double(problem.k) * 2.0 * (config.swapped ? 1.0 + again : 1.0);
  const double bytes = m * double(problem.k) * 2.0 + b_bytes + m * double(problem.n) * problem.out_bytes;
  choice.memory_clocks = bytes / (kDeviceBytesPerClock * drawn_share(active));
  // The lesser of the two does not hide wholly under the greater, and the less the fewer tiles a CTA has.
  const double unhidden = 0.2 + 0.4 / waves;
  choice.clocks = std::max(choice.math_clocks, choice.memory_clocks) + unhidden * std::min(choice.math_clocks, choice.memory_clocks) + kFixedClocks;
  return choice;
}

Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory) {
  Choice best{};
  best.index = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Config& config = candidates[i];
    if (shared_memory_needed[i] > shared_memory) continue;
    // Half of a tall tile's rows would be empty.
    const int64_t mean = problem.grouped ? ceil_div(problem.m, problem.batch) : problem.m;
    if (!config.swapped && mean <= 64) continue;
    // How many tiles groups make is not known ahead, and slices must all run at once.
    for (int slices = 1; slices <= (config.swapped && !problem.grouped ? kMostSlices : 1); ++slices) {
      const Choice candidate = evaluate(problem, config, static_cast<int>(i), slices);
      const int concurrent = concurrent_clusters(slices, problem.sms);
      // A second wave of slices would undo what sharing K brings.
      if (concurrent == 0 || (slices > 1 && candidate.tiles > concurrent)) continue;
      if (best.index < 0 || candidate.clocks < best.clocks) best = candidate;
    }
  }
  return best;
}

std::string instance_name(const Config& config, int slices) {
  std::string name = format("%dx%dx%d", config.tile_m, config.tile_n, config.stages);
  if (config.swapped) name += "_swapped";
  if (slices > 1) name += format("_s%d", slices);
  return name;
}

std::string explain(const Problem& problem, const Config& config, const Choice& choice) {
  return format(
      "%dx%d tiles%s, %d stages, %d slices: %s%lld tiles on %d SMs, rasterised in groups of %d along %s; predicted %.0f clocks: "
      "tensor "
      "core, L2 and epilogue %.0f, device memory %.0f",
      config.tile_m, config.tile_n, config.swapped ? " (D transposed in the tensor core)" : "", config.stages, choice.slices,
      problem.grouped ? "at most " : "", static_cast<long long>(choice.tiles), problem.sms, choice.raster_group, choice.raster_along_m ? "M" : "N",
      choice.clocks, choice.math_clocks, choice.memory_clocks);
}

}  // namespace h4j::gemm::bf16
