#include "gemm/grouped/grouped_choose.h"

#include <algorithm>
#include <cmath>

#include "gemm/cost.h"
#include "runtime/plan.h"

namespace h4j::gemm::grouped {

constexpr int kOutBytes = 2;  // of an element of D

namespace {

// Tiles that a group of so many rows on average takes in a column: groups differ by some 30 %.
double mean_tiles(int64_t rows, int tile_m) {
  constexpr int kSamples = 13;
  double sum = 0.0;
  for (int sample = 0; sample < kSamples; ++sample) sum += double(ceil_div(std::max<int64_t>(rows * (70 + 5 * sample) / 100, 1), tile_m));
  return sum / kSamples;
}

}  // namespace

Choice evaluate(const Problem& problem, const Config& config, int index) {
  Choice choice{};
  choice.index = index;
  const auto rest = static_cast<int>(problem.n % config.cluster_cols());
  const bool narrow = rest > 0 && rest <= config.narrow_cols();
  // Bands of 2048 rows: measured on an H200 for groups of 4096 and 8192 rows (../NOTES.md, 15).
  choice.columns = {static_cast<int>(problem.n / config.cluster_cols()) + (rest > 0 && !narrow), narrow, 2048 / config.tile_m};
  const double groups = double(problem.groups);
  const double each = mean_tiles(problem.rows, config.tile_m);
  const double tiles = groups * each * (choice.columns.whole + 0.5 * choice.columns.narrow) * config.multicast;
  const double active = std::min<double>(tiles, problem.sms);
  const double blocks = double(ceil_div(problem.k, kTileK));
  // Where nobody knows how many tiles there will be, some CTA takes about one more than the mean. So narrower tiles win where each takes few (6 groups of
  // 1024 rows: ../NOTES.md, 15).
  const double full = tiles / problem.sms;
  const double rounds = each > 1.0 && full > 1.0 ? full + 1.0 : std::ceil(full);
  choice.tiles_clocks = tiles_clocks(config, rounds, blocks, active, kOutBytes);
  const double rows = double(problem.rows);
  const double n = double(problem.n);
  choice.memory_clocks = groups * ((rows + n) * double(problem.k) + rows * n * kOutBytes) / device_bytes_per_clock(problem.memory_bytes);
  // Where no cluster is formed, tiles side by side along M read the same B at about the same time, and some of their requests meet on the way to the L2:
  // so much is left, by the times of 128x192 tiles beside 256x128 ones (../NOTES.md, 17).
  const double asked = config.multicast > 1 ? 1.0 : 0.7;
  choice.clocks = total_clocks(choice.tiles_clocks, choice.memory_clocks, asked * tiles * blocks * config.l2_stage_bytes() / kL2BytesPerClock);
  return choice;
}

Choice choose(const Problem& problem, std::span<const Config> candidates, std::span<const int> shared_memory_needed, int shared_memory) {
  Choice best{};
  best.index = -1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (shared_memory_needed[i] > shared_memory || candidates[i].multicast > problem.sms) continue;
    // Groups of so few rows seldom fill more than 64, and 64-row tiles have more stages of B under way (2 to 11 % faster at 20 rows).
    if (problem.rows <= 48 && candidates[i].tile_m > 64) continue;
    const Choice candidate = evaluate(problem, candidates[i], static_cast<int>(i));
    if (best.index < 0 || candidate.clocks < best.clocks) best = candidate;
  }
  return best;
}

std::string instance_name(const Config& config) {
  return format("gemm_grouped_%dx%dx%d_g%d_c%d", config.tile_m, config.tile_n, config.stages, config.k_groups, config.multicast);
}

std::string explain(const Problem& problem, const Config& config, const Choice& choice) {
  return format(
      "%lld groups of %lld rows on average: %dx%d tiles, %d stages, %d K groups: %lld x %d tiles%s a group on %d SMs, %d rows of tiles side by side; "
      "predicted %.0f clocks: tensor core, L2 and epilogue %.0f, device memory %.0f",
      static_cast<long long>(problem.groups), static_cast<long long>(problem.rows), config.tile_m, config.tile_n, config.stages, config.k_groups,
      static_cast<long long>(ceil_div(problem.rows, config.tile_m)), choice.columns.whole, choice.columns.narrow != 0 ? " and narrow ones" : "",
      problem.sms, choice.columns.band, choice.clocks, choice.tiles_clocks, choice.memory_clocks);
}

}  // namespace h4j::gemm::grouped
