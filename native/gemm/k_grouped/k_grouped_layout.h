// What the K-grouped GEMM's kernel gets.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "gemm/config.h"
#include "runtime/fault.h"

namespace h4j::gemm::k_grouped {

// The table of groups lies in shared memory: 8 bytes each.
inline constexpr int kMaxGroups = 512;

constexpr Config config_of(int tile_m, int tile_n, int stages, int multicast) { return {tile_m, tile_n, stages, 1, 1, multicast}; }

// Rows of A that one copy brings.
constexpr int a_copy_rows(const Config& config) { return config.tile_m / config.multicast; }

struct Params {
  CUtensorMap a;         // [M, K] E4M3, box [a_copy_rows, 128]
  CUtensorMap b;         // [N, K] E4M3, box [tile_n, 128]
  CUtensorMap a_scales;  // [ceil(K/128), M] F32, box [1, tile_m]
  CUtensorMap b_scales;  // [ceil(K/128), N] F32, box [1, tile_n]
  CUtensorMap d;         // [groups, M, N] F32, box [64, 32]
  const void* ends;      // [groups] I32 or I64
  const float* c;        // null unless accumulating
  int64_t c_ld;
  int64_t c_group_ld;
  float* d_pointer;
  int64_t d_ld;
  int64_t d_group_ld;
  FaultSite bad_ends;
  int32_t wide_ends;  // I64
  int32_t groups;
  int32_t m;
  int32_t n;
  int32_t k;      // in use
  int32_t max_k;  // of the tensors: the one end that need not be a multiple of 128
  Raster raster;  // of each group
};

}  // namespace h4j::gemm::k_grouped
