#include "gemm/cost.h"

#include <algorithm>

#include "runtime/plan.h"

namespace h4j::gemm {

// For 128-row tiles 296 were measured at N 64, 410 at 96, 536 at 128, 606 at 144, 736 at 176 and 800 at 192, and 1053 for 256x128, on resident data: the
// tensor core's 4 clocks a column and 128 rows, and some to start and end a group of MMAs: fewer here, as the fit to whole products has it. Since then scales
// of 256-row tiles are read behind the first MMAs, which takes 3 clocks of 58 where that was measured: not in clusters.
double math_clocks(const Config& config) {
  const double tensor_core = 4.0 * config.tile_n * config.tile_m / 128.0 + (config.tile_m < 256 ? 23.3 : config.multicast > 1 ? 58.0 : 55.0);
  // A group waits for its products and promotes them while other groups multiply. Two groups of wide tiles fill the tensor core that way.
  const double own = 1.96 * config.tile_n * config.group_rows() / 64.0 + 133.0;
  return std::max(tensor_core, own / config.k_groups);
}

double tiles_clocks(const Config& config, double tiles, double blocks, double active, int out_bytes) {
  const double stage = std::max(config.stage_bytes() / kSmBytesPerClock, config.l2_stage_bytes() * active / kL2BytesPerClock);
  const double store = config.tile_m * config.tile_n * out_bytes / 67.0;
  // Through distributed shared memory.
  const double exchange = config.slices > 1 ? 1540.0 : 0.0;
  return tiles * (blocks * std::max(math_clocks(config), stage) + 183.0 + store) + exchange;
}

double total_clocks(double tiles, double memory, double l2) {
  // What does not hide under the greatest of them.
  return std::max(tiles, memory) + 0.14 * std::min(tiles, memory) + 0.26 * l2 + kFixedClocks;
}

namespace {

// What an order of tiles reads from device memory. A group's pass goes along all tiles of the other dimension; the next group finds those in the L2 if
// everything that a pass touches fits into half of it (what is written takes room too), and reads them again otherwise.
double raster_bytes(const Extents& extents, const Raster& raster, int group, bool along_m) {
  const int grouped_tiles = along_m ? raster.tiles_m : raster.tiles_n;
  const int other_tiles = along_m ? raster.tiles_n : raster.tiles_m;
  const double grouped = double(along_m ? extents.m : extents.n) * double(extents.k);
  const double other = double(along_m ? extents.n : extents.m) * double(extents.k);
  const double share = double(group) / grouped_tiles;
  const double cached =
      double(std::min(extents.l2_bytes, int64_t{50} << 20)) / 2;  // the 60 MB of an H200 hold no more of it than the 50 MB of an H100
  if (other + share * (grouped + double(extents.m) * double(extents.n) * extents.out_bytes) <= cached) return grouped + other;
  const double waves_a_pass = double(group) * other_tiles / extents.sms;
  const double again = share * grouped <= cached ? 1.0 : std::max(1.0, waves_a_pass);
  return again * grouped + double(ceil_div(grouped_tiles, group)) * other;
}

}  // namespace

Raster choose_raster(const Extents& extents, int tiles_m, int tiles_n) {
  Raster raster{tiles_m, tiles_n, 0, 0};
  double least = 0.0;
  for (const int group : {4, 8, 2, 1}) {  // the first of equals: measured 1 % better than 8 where B is wide
    for (const bool along_m : {true, false}) {
      const int used = std::min(group, along_m ? raster.tiles_m : raster.tiles_n);
      const double bytes = raster_bytes(extents, raster, used, along_m);
      if (raster.group == 0 || bytes < least) {
        least = bytes;
        raster.group = used;
        raster.along_m = along_m;
      }
    }
  }
  return raster;
}

}  // namespace h4j::gemm
