// D = A B^T (+ C) with 1x128 scales of A and 128x128 scales of B: a persistent grid whose CTAs, or clusters that share K, take tile after tile.
#pragma once

#include "gemm/dense/dense_layout.h"
#include "gemm/roles.cuh"

namespace h4j::gemm {

template <Config kConfigValue, class OutType>
struct Dense {
  static constexpr Config kConfig = kConfigValue;
  static constexpr bool kColumnScales = false;
  static constexpr int kNarrowCols = kConfig.halves() ? kConfig.tile_n / 2 : 0;
  static constexpr bool kShares = kConfig.shares() && !std::is_same_v<OutType, __nv_fp8_e4m3>;
  static constexpr bool kInterleaved = false;
  static constexpr bool kRagged = false;
  static constexpr bool kAnyRow = false;
  static constexpr bool kAccumulates = !std::is_same_v<OutType, __nv_fp8_e4m3>;
  static constexpr bool kFed = false;
  static constexpr int kUnroll = 4;
  using Out = OutType;
  using Params = gemm::Params;
  using Shared = SharedStorage<kConfig, Out>;
  using Tile = DenseTile;
  using Scheduler = TileWalk<kConfig.halves(), kShares>;

  __device__ static Scheduler scheduler(const Params& params, const Shared&) {
    return Scheduler(params.order, static_cast<int>(blockIdx.x) / kConfig.slices, static_cast<int>(gridDim.x) / kConfig.slices);
  }

  // The tile's K blocks, or the share of this CTA's slice.
  __device__ static BlockRange blocks(const Params& params, const Shared&, Tile tile) {
    if constexpr (kShares) return {tile.begin, tile.end};
    if constexpr (kConfig.slices == 1) return {0, params.k_blocks};
    const int share = (params.k_blocks + kConfig.slices - 1) / kConfig.slices;
    const int begin = min(static_cast<int>(blockIdx.x % kConfig.slices) * share, params.k_blocks);
    return {begin, min(begin + share, params.k_blocks)};
  }

  __device__ static uint32_t load_a(const Params& params, uint64_t* barrier, void* target, Tile tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.a, barrier, kLoadHint, target, block * kTileK, tile.row);
    return kConfig.a_stage_bytes();
  }
  __device__ static void load_b(const Params& params, uint64_t* barrier, void* target, Tile tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.b, barrier, kLoadHint, target, block * kTileK, tile.col);
  }
  // Whole, whatever of it is used.
  __device__ static uint32_t b_bytes(Tile) { return kConfig.b_stage_bytes(); }
  __device__ static uint32_t load_a_scales(const Params& params, uint64_t* barrier, void* target, Tile tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.a_scales, barrier, kLoadHint, target, tile.row, block);
    return sizeof(Shared::a_scales[0]);
  }
  // The 128x128 scales of a column; the last tile may reach past N.
  __device__ static const float* b_scale_row(const Params& params, Tile, int col) {
    return params.b_scales + min(col, params.n - 1) / kTileK * params.b_scales_ld;
  }
  __device__ static void store_box(const Params& params, const void* source, Tile, int row, int col) {
    cute::SM90_TMA_STORE_2D::copy(&params.d, source, col, row);
  }
  __device__ static bool is_narrow(Tile tile) { return kNarrowCols > 0 && tile.half; }
  __device__ static int row_end(const Params& params, Tile) { return params.m; }
  __device__ static int64_t plane(const Params&, Tile) { return 0; }
  __device__ static int64_t c_plane(const Params&, Tile) { return 0; }
};

// Numbers rather than a Config: nvcc 13.0 writes stubs that do not compile for a class-type template argument.
template <int kTileM, int kTileN, int kStages, int kGroups, int kSlices, class Out>
__global__ void __launch_bounds__(Config{kTileM, kTileN, kStages, kGroups, kSlices}.threads(), 1)
    dense_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig{kTileM, kTileN, kStages, kGroups, kSlices};
  using Op = Dense<kConfig, Out>;
  using Shared = typename Op::Shared;
  check_config<kConfig, Shared>();
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  cudaTriggerProgrammaticLaunchCompletion();  // the kernel behind, if it may, takes SMs as soon as they are free, and waits itself for what is written here

  run_roles<Op>(params, shared, &params.a, &params.b, &params.a_scales, &params.d);
}

}  // namespace h4j::gemm
