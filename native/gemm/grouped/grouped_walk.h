// The order of a grouped GEMM's tiles within a group, and which of them the last round cuts: pure code, the same on the device and in tests.
#pragma once

#include <algorithm>
#include <cstdint>

namespace h4j::gemm::grouped {

// What a CTA, or a cluster, takes at a time.
struct Unit {
  int row;   // of tiles
  int col;   // of tiles; behind the whole ones comes the column of narrow tiles
  int rows;  // tiles, one below the other: 2 narrow ones, which take about as long as a whole one, or what is left of them
};

// How D's columns are tiled. Columns that fill no more than a narrow tile are left to such tiles, two of which make a unit.
struct Columns {
  int32_t whole;   // columns of whole tiles, or of a cluster's
  int32_t narrow;  // 1 if a column of narrow tiles follows
  int32_t band;    // rows of tiles that run side by side, for the L2's sake: an even number where there are narrow ones

  constexpr int units(int tiles_m) const { return tiles_m * whole + narrow * ((tiles_m + 1) / 2); }

  constexpr Unit at(int index, int tiles_m) const {
    const int of_band = units(band);
    const int before = index / of_band * band;
    const int inside = index % of_band;
    const int rows = std::min<int>(band, tiles_m - before);
    if (inside < rows * whole) return {before + inside % rows, inside / rows, 1};
    const int row = 2 * (inside - rows * whole);
    return {before + row, whole, std::min(2, rows - row)};
  }
};

// Narrow tiles that make a whole one.
inline constexpr int kParts = 3;

// The first of the units that are cut into such parts, so that CTAs take them side by side: those of a last round in which there are parts for `takers` CTAs at
// most; `units` if none is cut. Without takers none is.
constexpr int first_cut(int units, int takers) {
  const int rest = takers > 0 ? units % takers : 0;
  return kParts * rest <= takers ? units - rest : units;
}

}  // namespace h4j::gemm::grouped
