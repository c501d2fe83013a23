// What the dense GEMM's kernel gets.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "gemm/config.h"
#include "gemm/dense/tile_walk.h"

namespace h4j::gemm {

// Everything the kernel gets; copied to constant memory at launch.
struct Params {
  CUtensorMap a;         // [M, K] E4M3, box [tile_m, 128]
  CUtensorMap b;         // [N, K] E4M3, box [tile_n, 128]
  CUtensorMap a_scales;  // [ceil(K/128), M] F32, box [strip_blocks, tile_m]
  CUtensorMap d;         // [M, N] BF16, box [64, store_cols], or E4M3, box [64, 128]; unused for F32 output
  const float* b_scales;
  int64_t b_scales_ld;
  const void* c;  // null unless accumulating
  int64_t c_ld;
  void* d_pointer;
  int64_t d_ld;
  float* d_scales;  // of E4M3 output
  int64_t d_scales_ld;
  int32_t d_power_of_two;
  int32_t m;
  int32_t n;
  int32_t k_blocks;
  Order order;
  // Where CTAs that share a tile leave their sums, [CTAs][tile_m * tile_n] F32, and for each of them and each row of math groups the word that says that they
  // are there; null where none does. `ready` is its value: a launch's own, so that nothing that the workspace held before is taken for it. Who has read the sums
  // clears it.
  float* shared_sums;
  uint64_t* shared_ready;
  uint64_t ready;
};

}  // namespace h4j::gemm
