// The tiles of a matrix in row-major order, dealt out to `step` walkers in turn, with no division on the way.
#pragma once

#include <cstdint>

namespace h4j::tile {

struct TileWalk {
  int row;
  int col;

  __device__ TileWalk(int64_t first, int64_t step, int tile_cols)
      : row(static_cast<int>(first / tile_cols)),
        col(static_cast<int>(first % tile_cols)),
        row_step_(static_cast<int>(step / tile_cols)),
        col_step_(static_cast<int>(step % tile_cols)),
        tile_cols_(tile_cols) {}

  __device__ void next() {
    row += row_step_;
    col += col_step_;
    if (col >= tile_cols_) col -= tile_cols_, ++row;
  }

 private:
  int row_step_;
  int col_step_;
  int tile_cols_;
};

}  // namespace h4j::tile
