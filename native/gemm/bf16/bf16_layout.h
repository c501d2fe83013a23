// Tile sizes and shared memory of the BF16 GEMM, read by the kernel, by the choice of instance and by the descriptors.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "gemm/config.h"
#include "runtime/fault.h"

namespace h4j::gemm::bf16 {

inline constexpr int kTileK = 64;  // elements of a stage: one 128-byte swizzle row
inline constexpr int kRowBytes = 128;

struct Config {
  int tile_m;  // of D
  int tile_n;
  int stages;
  bool swapped = false;  // the tensor core computes D^T: B's rows come in units of 64, A's in units of 8

  // The tensor core's own view: first [first_rows, 64] times second [second_rows, 64]^T, 64 rows of the first a math warp group.
  constexpr int first_rows() const { return swapped ? tile_n : tile_m; }
  constexpr int second_rows() const { return swapped ? tile_m : tile_n; }
  constexpr int math_groups() const { return first_rows() / 64; }
  constexpr int threads() const { return 128 * (1 + math_groups()); }
  constexpr int first_stage_bytes() const { return first_rows() * kRowBytes; }
  constexpr int second_stage_bytes() const { return second_rows() * kRowBytes; }
  constexpr int stage_bytes() const { return first_stage_bytes() + second_stage_bytes(); }
  // BF16 tiles leave in boxes of 64 rows and the widest swizzle row (128, 64 or 32 bytes) that divides the tile, through so many buffers a math group.
  constexpr int store_cols() const { return tile_n % 64 == 0 ? 64 : tile_n % 32 == 0 ? 32 : 16; }
  constexpr int store_buffers() const { return tile_n == 64 ? 1 : tile_n % 64 == 0 ? 2 : 4; }
};

// Everything the kernel gets; copied to constant memory at launch.
struct Params {
  CUtensorMap first;          // [batch, rows, K] BF16, box [1, first_rows, 64]
  CUtensorMap second;         // [batch, rows, K] BF16, box [1, second_rows, 64]
  CUtensorMap d;              // [batch, M, N] BF16, box [1, 64, store_cols]; unused for F32 output and swapped tiles
  const int32_t* group_ends;  // [groups]; null: `groups` products of m rows each
  FaultSite faults;           // of group_ends
  const void* c;              // null unless accumulating
  int64_t c_ld;
  int64_t c_batch_ld;
  void* d_pointer;
  int64_t d_ld;
  int64_t d_batch_ld;
  int32_t groups;
  int32_t m;  // rows in use, of a product or of all groups
  int32_t n;
  int32_t k_blocks;
  Raster raster;   // of a product; groups have tiles_m of their own
  int32_t slices;  // CTAs of a cluster that share a tile's K and add up through distributed shared memory; more than one in swapped tiles only
};

}  // namespace h4j::gemm::bf16
