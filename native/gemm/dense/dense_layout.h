// Tile sizes and shared memory of the dense GEMM, read by the kernel, by the choice of instance and by the descriptors.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace h4j::gemm {

inline constexpr int kTileK = 128;  // elements and bytes: one scale block, one 128-byte swizzle row
inline constexpr int kSharedMemoryPerBlock = 232448;

struct Config {
  int tile_m;  // 64: one math warp group; 128 and 256: two, of 64 and 128 rows
  int tile_n;  // a multiple of 8
  int stages;

  constexpr int math_groups() const { return tile_m == 64 ? 1 : 2; }
  constexpr int group_rows() const { return tile_m / math_groups(); }
  constexpr int threads() const { return 128 * (1 + math_groups()); }
  // Columns of one TMA store of BF16 output: the widest swizzle row (128, 64 or 32 bytes) that divides the tile; 0: the tile is stored from registers.
  constexpr int store_cols() const { return tile_n % 64 == 0 ? 64 : tile_n % 32 == 0 ? 32 : tile_n % 16 == 0 ? 16 : 0; }
  constexpr int stage_bytes() const { return (tile_m + tile_n) * kTileK + tile_m * 4; }
  // How many rows of 128x128 scales a tile can touch.
  constexpr int scale_rows() const { return kTileK % tile_n == 0 ? 1 : 2; }
};

// Everything the kernel gets; copied to constant memory at launch.
struct Params {
  CUtensorMap a;         // [M, K] E4M3, box [tile_m, 128]
  CUtensorMap b;         // [N, K] E4M3, box [tile_n, 128]
  CUtensorMap a_scales;  // [ceil(K/128), M] F32, box [1, tile_m]
  CUtensorMap d;         // [M, N] BF16, box [64, store_cols]; unused for F32 output
  const float* b_scales;
  int64_t b_scales_ld;
  const void* c;  // null unless accumulating
  int64_t c_ld;
  void* d_pointer;
  int64_t d_ld;
  int32_t m;
  int32_t n;
  int32_t k_blocks;
  int32_t tiles_m;
  int32_t tiles_n;
  int32_t raster_group;  // tiles of the grouped dimension that run side by side
  int32_t raster_along_m;
};

}  // namespace h4j::gemm
