// What the grouped GEMM's kernel gets. It serves groups of consecutive rows of one matrix A and groups that each have a matrix A of their own ("planes").
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "gemm/config.h"
#include "gemm/grouped/grouped_walk.h"
#include "runtime/fault.h"

namespace h4j::gemm::grouped {

// The table of groups lies in shared memory: 12 bytes each.
inline constexpr int kMaxGroups = 512;
// Rows of D that one copy stores; at groups' ends also fewer, a power of two.
inline constexpr int kBoxRowsLog2 = 6;
inline constexpr int kBoxRows = 1 << kBoxRowsLog2;

// Of a row of instances.def.
constexpr Config config_of(int tile_m, int tile_n, int stages, int k_groups, int multicast) {
  return {tile_m, tile_n, stages, k_groups, 1, multicast};
}

// Rows of A, and of its scales beside the slack of 4 before them, that one copy brings: a tall tile may end after half of them, and a box has at most 256.
constexpr int copy_rows(const Config& config) { return config.tile_m < 128 ? config.tile_m : 128; }

struct Params {
  CUtensorMap a;                    // [planes, M, K] E4M3, box [copy_rows, 128]
  CUtensorMap b;                    // [groups, N, K] E4M3, box [tile_n, 128]
  CUtensorMap b_narrow;             // the same for narrow tiles, box [narrow_cols, 128]
  CUtensorMap a_scales;             // [planes, ceil(K/128), M] F32, box [strip_blocks, copy_rows + 4]
  CUtensorMap d[kBoxRowsLog2 + 1];  // [planes, M, N] BF16, box i [1 << i, store_cols]
  const float* b_scales;
  int64_t b_scales_ld;
  int64_t b_scales_group_ld;
  const void* extents;  // [groups] I32 or I64: ends of groups in M, or with planes the rows in use of each
  __nv_bfloat16* d_pointer;
  int64_t d_ld;
  int64_t d_group_ld;  // 0 without planes
  FaultSite bad_extents;
  int32_t wide_extents;  // I64
  int32_t planes;        // each group has its own
  int32_t groups;
  int32_t m;  // rows in use, of a plane where there are some
  int32_t n;
  int32_t k_blocks;
  Columns columns;
};

}  // namespace h4j::gemm::grouped
