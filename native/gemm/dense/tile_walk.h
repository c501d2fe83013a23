// The order of a dense GEMM's tiles: pure code, the same on the device and in tests.
#pragma once

#include <cstdint>

#include "gemm/config.h"

namespace h4j::gemm {

// What is multiplied in which order. Whole tiles come first, in bands of rows or columns of tiles that run side by side, for the L2's sake. So that the last
// round is not a whole one for a few, then come either tiles of half the columns: those at the right edge of D, from the top down, and the whole tiles from
// number `whole` on, left half and right half; or tiles whose K blocks, laid end to end, are shared out evenly (stream-K, Osama et al., "Stream-K:
// Work-centric Parallel Decomposition for Dense Matrix-Matrix Multiplication on the GPU", 2023).
struct Order {
  int32_t whole;        // tiles that are taken whole
  int32_t edges;        // halves at the right edge
  int32_t halves;       // all of them
  int32_t busier;       // CTAs, the first ones, that take one whole tile more than the rest; all of them if none does
  int32_t sharers;      // CTAs, the last ones, that share tiles; 0: none does
  int32_t team_blocks;  // K blocks that a team of sharers has: those of a tile, or of all shared tiles
  int32_t share;        // what each of a team takes at least
  int32_t longer;       // how many of a team, the first ones, take one more
  int32_t tiles_n;      // whole columns of tiles
  int32_t along_m;      // bands are of rows of tiles
  int32_t full_bands;
  Divisor band;       // tiles of a full band
  Divisor full_band;  // how many lie side by side in one
  Divisor last_band;  // and in the one that is left
  Divisor k_blocks;   // of a tile
  Divisor team;       // sharers of a team

  // Where the share of a sharer begins, in K blocks of the shared tiles. They are numbered from the last CTA down: the one that adds a tile up waits for
  // CTAs of lower number only, which start no later.
  constexpr int share_begin(int sharer) const {
    int member = 0;
    const int begin = team.divide(sharer, member) * team_blocks;
    return begin + member * share + (member < longer ? member : longer);
  }
};

struct DenseTile {
  int row;
  int col;
  bool half;  // of half a tile's columns
  int begin;  // K blocks of the tile: all of them, or this CTA's share
  int end;
};

// The tiles of a CTA, or of the cluster that shares them: every so-many-th whole tile, then halves: two for those that had a whole tile less than the others,
// and what is left in turn. Or then its share of tiles: the end of one and the beginning of the next, or a piece of one.
template <bool kHalves, bool kShares>
class TileWalk {
 public:
  constexpr TileWalk(const Order& order, int cta, int ctas) : order_(order), index_(cta), ctas_(ctas) {
    if (kShares && order.sharers > 0) {
      const int sharer = ctas - 1 - cta;
      next_ = order.share_begin(sharer < order.sharers ? sharer : order.sharers);
      last_ = order.share_begin(sharer < order.sharers ? sharer + 1 : order.sharers);
    } else if constexpr (kHalves) {
      const int spare = cta - order.busier;
      last_ = 2 * (ctas - order.busier) + cta;
      paired_ = spare >= 0 ? 2 : 0;
      next_ = spare >= 0 ? 2 * spare : last_;
    }
  }

  constexpr bool next(int tile_m, int tile_n, DenseTile& tile) {
    int index = index_;
    int col = 0;
    bool half = false;
    int begin = 0;
    int end = static_cast<int>(order_.k_blocks.value);
    if (index < order_.whole) {
      index_ += ctas_;
    } else if (kShares && order_.sharers > 0) {
      if (next_ == last_) return false;
      index = order_.whole + order_.k_blocks.divide(next_, begin);
      const int rest = begin + last_ - next_;
      if (rest < end) end = rest;
      next_ += end - begin;
    } else if constexpr (kHalves) {
      half = true;
      const int own = next_half();
      if (own >= order_.halves) return false;
      if (own < order_.edges) {
        tile = {own * tile_m, order_.tiles_n * tile_n, true, begin, end};
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
    tile = {(order_.along_m ? x : y) * tile_m, (order_.along_m ? y : x) * tile_n + col, half, begin, end};
    return true;
  }

 private:
  constexpr int next_half() {
    const int own = next_;
    if (paired_ == 0) {
      next_ += ctas_;
    } else {
      --paired_;
      next_ = paired_ > 0 ? own + 1 : last_;
    }
    return own;
  }

  const Order& order_;
  int index_;  // of the next whole tile
  int ctas_;
  int next_ = 0;    // the next half, or K block of the shared tiles
  int last_ = 0;    // the first half after those in the place of a whole tile; or the K block behind this CTA's last
  int paired_ = 0;  // so many halves yet in the place of a whole tile
};

}  // namespace h4j::gemm
