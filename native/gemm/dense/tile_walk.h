// The order of a dense GEMM's tiles: pure code, the same on the device and in tests.
#pragma once

#include <cstdint>

#include "gemm/config.h"

namespace h4j::gemm {

// What is multiplied in which order. Whole tiles come first, in bands of rows or columns of tiles that run side by side, for the L2's sake. Then come tiles of
// half the columns: those at the right edge of D, from the top down, and the whole tiles from number `whole` on, left half and right half, so that the last
// round is not a whole one for a few.
struct Order {
  int32_t whole;    // tiles that are taken whole
  int32_t edges;    // halves at the right edge
  int32_t halves;   // all of them
  int32_t busier;   // CTAs, the first ones, that take one whole tile more than the rest; all of them if none does
  int32_t tiles_n;  // whole columns of tiles
  int32_t along_m;  // bands are of rows of tiles
  int32_t full_bands;
  Divisor band;       // tiles of a full band
  Divisor full_band;  // how many lie side by side in one
  Divisor last_band;  // and in the one that is left
};

struct DenseTile {
  int row;
  int col;
  bool half;  // of half a tile's columns
};

// The tiles of a CTA, or of the cluster that shares them: every so-many-th whole tile, then halves: two for those that had a whole tile less than the others,
// and what is left in turn.
template <bool kHalves>
class TileWalk {
 public:
  constexpr TileWalk(const Order& order, int cta, int ctas) : order_(order), index_(cta), ctas_(ctas) {
    if constexpr (kHalves) {
      const int spare = cta - order.busier;
      unpaired_ = 2 * (ctas - order.busier) + cta;
      paired_ = spare >= 0 ? 2 : 0;
      half_ = spare >= 0 ? 2 * spare : unpaired_;
    }
  }

  constexpr bool next(int tile_m, int tile_n, DenseTile& tile) {
    int index = index_;
    int col = 0;
    bool half = false;
    if (index < order_.whole) {
      index_ += ctas_;
    } else if constexpr (kHalves) {
      half = true;
      const int own = next_half();
      if (own >= order_.halves) return false;
      if (own < order_.edges) {
        tile = {own * tile_m, order_.tiles_n * tile_n, true};
        return true;
      }
      index = order_.whole + (own - order_.edges) / 2;
      col = (own - order_.edges) % 2 * (tile_n / 2);
    } else {
      return false;
    }
    int inside = 0;
    const int band = order_.band.divide(index, inside);
    int x = 0;
    const int y = (band < order_.full_bands ? order_.full_band : order_.last_band).divide(inside, x);
    x += band * static_cast<int>(order_.full_band.value);
    tile = {(order_.along_m ? x : y) * tile_m, (order_.along_m ? y : x) * tile_n + col, half};
    return true;
  }

 private:
  constexpr int next_half() {
    const int own = half_;
    if (paired_ == 0) {
      half_ += ctas_;
    } else {
      --paired_;
      half_ = paired_ > 0 ? own + 1 : unpaired_;
    }
    return own;
  }

  const Order& order_;
  int index_;  // of the next whole tile
  int ctas_;
  int half_ = 0;      // the next half
  int paired_ = 0;    // so many halves yet in the place of a whole tile
  int unpaired_ = 0;  // the first half after those
};

}  // namespace h4j::gemm
