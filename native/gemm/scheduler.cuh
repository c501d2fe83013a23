// The order of tiles.
#pragma once

#include "gemm/config.h"

namespace h4j::gemm {

struct Tile {
  int row;
  int col;
};

// The tile at a place of the raster, counted in tiles: an order that keeps the tiles of one wave close in both dimensions.
__device__ inline Tile tile_at(int index, int tiles_m, int tiles_n, int raster_group, bool along_m) {
  const int grouped = along_m ? tiles_m : tiles_n;
  const int other = along_m ? tiles_n : tiles_m;
  const int group = index / (raster_group * other);
  const int inside = index - group * raster_group * other;
  const int first = group * raster_group;
  const int size = min(raster_group, grouped - first);
  const int x = first + inside % size;
  const int y = inside / size;
  return {along_m ? x : y, along_m ? y : x};
}

}  // namespace h4j::gemm
