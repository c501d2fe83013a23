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

// What a tile of half the columns takes of a whole one's time: its B is copied whole, and half its MMAs do not hide the rest (4096 x 2112 x 7168, NOTES.md, 14).
constexpr double kHalfTile = 0.73;

// Rounds of whole tiles that CTAs need, as the kernel's scheduler shares tiles out.
double rounds(int64_t whole, int64_t halves, int64_t ctas) {
  const int64_t rest = whole % ctas;
  const int64_t spare = rest == 0 ? 0 : ctas - rest;  // CTAs with one whole tile less take two halves in its place
  const int64_t left = std::max<int64_t>(halves - 2 * spare, 0);
  const double busiest = double(ceil_div(whole, ctas)) + kHalfTile * double(ceil_div(left, ctas));
  const double spared =
      halves > 0 && spare > 0 ? double(whole / ctas) + 2 * kHalfTile + kHalfTile * double(ceil_div(std::max<int64_t>(left - rest, 0), ctas)) : 0.0;
  return std::max(busiest, spared);
}

// What sharing a tile takes beside the share itself, in clocks: its pieces' sums go through the L2 (NOTES.md, 16).
double sharing_clocks(const Config& config, double pieces) { return pieces * 4.0 * config.tile_m * config.tile_n / 60.0; }

// Shares the tiles of the last round out along K if that takes fewer rounds than `least`; returns the rounds that are taken then, else `least`.
double share_last_round(const Problem& problem, const Config& config, int ctas, double least, Choice& choice) {
  const int tiles = choice.tiles_m * choice.tiles_n;
  const int last = tiles % ctas;
  if (last == 0 || last == tiles || int64_t{last} * choice.k_blocks > INT32_MAX) return least;
  const double tile_clocks = choice.k_blocks * math_clocks(config);
  // Where sharers are no multiple of the tiles, each is at another place of K at any time, which costs more than it brings unless the L2 holds A and B.
  const bool cached = (problem.m + problem.n) * problem.k <= problem.l2_bytes;
  for (const int sharers : {2 * last, 4 * last, ctas}) {
    if (sharers > ctas || sharers <= last || (sharers % last != 0 && !cached)) continue;
    const auto blocks = double(ceil_div(int64_t{last} * choice.k_blocks, sharers));
    const double pieces = std::ceil(choice.k_blocks / blocks) + (sharers % last == 0 ? 0 : 1);
    const double rounds = tiles / ctas + (blocks * math_clocks(config) + sharing_clocks(config, pieces)) / tile_clocks;
    if (rounds >= least) continue;
    least = rounds;
    choice.whole = tiles - last;
    choice.shared = last;
    choice.sharers = sharers;
  }
  return least;
}

// Cuts D into whole and half tiles so that it takes the fewest rounds; returns those.
double cut_in_halves(const Problem& problem, const Config& config, int ctas, Choice& choice) {
  if (!config.halves() || problem.quantized) return std::ceil(double(choice.whole) / ctas);
  const int64_t edge = problem.n % config.tile_n;
  if (edge > 0 && edge <= config.tile_n / 2 && choice.tiles_n > 1) {
    choice.tiles_n -= 1;
    choice.edges = choice.tiles_m;
    choice.halves = choice.edges;
    choice.whole -= choice.edges;
  }
  const double least = rounds(choice.whole, choice.halves, ctas);
  const int last = choice.whole % ctas;
  const double when_cut = rounds(choice.whole - last, choice.halves + 2 * last, ctas);
  if (when_cut >= least) return least;
  choice.whole -= last;
  choice.halves += 2 * last;
  return when_cut;
}

// Gives the tiles of D to CTAs in the way that takes the fewest rounds; returns those.
double share_out(const Problem& problem, const Config& config, int ctas, Choice& choice) {
  choice.tiles_m = static_cast<int>(ceil_div(problem.m, config.tile_m));
  choice.tiles_n = static_cast<int>(ceil_div(problem.n, config.tile_n));
  choice.k_blocks = static_cast<int>(ceil_div(problem.k, kTileK));
  choice.whole = choice.tiles_m * choice.tiles_n;
  const double least = cut_in_halves(problem, config, ctas, choice);
  const bool shares = problem.shares && config.shares() && !problem.in_order && !problem.quantized;
  return shares ? share_last_round(problem, config, ctas, least, choice) : least;
}

}  // namespace

Choice evaluate(const Problem& problem, const Config& config, int index) {
  Choice choice{};
  choice.index = index;
  const int concurrent = std::max(concurrent_tiles(config, problem.sms), 1);
  const double waves = share_out(problem, config, concurrent, choice);
  const Raster raster =
      choose_raster({problem.m, problem.n, problem.k, problem.out_bytes, problem.sms, problem.l2_bytes}, choice.tiles_m, choice.tiles_n);
  choice.raster_group = raster.group;
  choice.raster_along_m = raster.along_m != 0;
  const double active = double(std::min(choice.whole + choice.halves + choice.sharers, concurrent)) * config.slices;
  const double blocks = double(ceil_div(ceil_div(problem.k, kTileK), config.slices));
  choice.tiles_clocks = tiles_clocks(config, waves, blocks, active, problem.out_bytes);
  const double m = double(problem.m);
  const double n = double(problem.n);
  const double k = double(problem.k);
  const double bytes = m * k + n * k + m * n * problem.out_bytes;
  choice.memory_clocks = bytes / device_bytes_per_clock(problem.memory_bytes);
  const double copied = double(choice.whole + choice.halves + choice.shared) * config.slices * blocks * config.l2_stage_bytes();
  choice.clocks = total_clocks(choice.tiles_clocks, choice.memory_clocks, copied / kL2BytesPerClock);
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
    if (candidates[i].slices > 1 && candidate.whole > concurrent_tiles(candidates[i], problem.sms)) continue;
    if (best.index < 0 || candidate.clocks < best.clocks) best = candidate;
  }
  return best;
}

int ctas_of(const Choice& choice, const Config& config, int sms) {
  // Clusters are only chosen where all tiles run at once, a tile each; a CTA without slices takes tile after tile.
  if (config.slices > 1) return choice.whole;
  return std::min(choice.whole + choice.halves + choice.sharers, sms);
}

int64_t ready_bytes(const Config& config, int sms) { return round_up(int64_t{sms} * config.row_groups() * 8, 256); }

int64_t workspace_bytes(const Config& config, int sms) { return ready_bytes(config, sms) + int64_t{sms} * config.tile_m * config.tile_n * 4; }

Order order_of(const Choice& choice, int ctas) {
  Order order{};
  order.whole = choice.whole;
  order.edges = choice.edges;
  order.halves = choice.halves;
  order.busier = choice.whole % ctas == 0 ? ctas : choice.whole % ctas;
  order.tiles_n = choice.tiles_n;
  order.sharers = choice.sharers;
  if (choice.sharers > 0) {
    const bool teams = choice.sharers % choice.shared == 0;
    const int team = teams ? choice.sharers / choice.shared : choice.sharers;
    order.team = Divisor::of(static_cast<uint32_t>(team));
    order.team_blocks = teams ? choice.k_blocks : choice.shared * choice.k_blocks;
    order.share = order.team_blocks / team;
    order.longer = order.team_blocks % team;
  }
  order.k_blocks = Divisor::of(static_cast<uint32_t>(choice.k_blocks));
  order.along_m = choice.raster_along_m;
  const int side_by_side = choice.raster_along_m ? choice.tiles_m : choice.tiles_n;
  const int other = choice.raster_along_m ? choice.tiles_n : choice.tiles_m;
  order.full_bands = side_by_side / choice.raster_group;
  order.band = Divisor::of(static_cast<uint32_t>(choice.raster_group * other));
  order.full_band = Divisor::of(static_cast<uint32_t>(choice.raster_group));
  order.last_band = Divisor::of(static_cast<uint32_t>(std::max(side_by_side % choice.raster_group, 1)));
  return order;
}

std::string instance_name(const Config& config) {
  return format("gemm_dense_%dx%dx%d_g%d_s%d", config.tile_m, config.tile_n, config.stages, config.k_groups, config.slices);
}

std::string explain(const Problem& problem, const Config& config, const Choice& choice) {
  const std::string halves = choice.halves > 0    ? format(" and %d halves", choice.halves)
                             : choice.sharers > 0 ? format(" and %d that %d CTAs share along K", choice.shared, choice.sharers)
                                                  : "";
  return format(
      "%dx%d tiles, %d stages, %d K groups, %d slices: %d tiles (of %d x %d)%s on %d SMs, rasterised in groups of %d along %s; predicted "
      "%.0f clocks: "
      "tensor core, L2 and epilogue %.0f, device memory %.0f",
      config.tile_m, config.tile_n, config.stages, config.k_groups, config.slices, choice.whole, choice.tiles_m, choice.tiles_n, halves.c_str(),
      problem.sms, choice.raster_group, choice.raster_along_m ? "M" : "N", choice.clocks, choice.tiles_clocks, choice.memory_clocks);
}

}  // namespace h4j::gemm
