// D[g] = A[:, K of g] B[:, K of g]^T (+ C[g]), 1x128 scales along K on both sides: the dense GEMM's roles over tiles that each take the K of one group.
#pragma once

#include "gemm/groups.cuh"
#include "gemm/k_grouped/k_grouped_layout.h"
#include "gemm/roles.cuh"
#include "gemm/scheduler.cuh"

namespace h4j::gemm::k_grouped {

// Built by a CTA's first warp but one, read by all.
struct GroupTable {
  BlockRange blocks[kMaxGroups];

  // By a whole warp. One CTA also tells the host of ends that make no sense.
  __device__ void build(const Params& params) {
    Ends ends(params.ends, params.wide_ends, params.groups, params.k);
    FirstFault fault;
    for (int base = 0; base < params.groups; base += 32) {
      const int group = base + threadIdx.x % 32;
      const Ends::Group own = ends.next(base);
      if (blockIdx.x == 0) {
        const bool split = own.end % kTileK != 0 && own.end != params.max_k;
        const int whole = own.end - own.end % kTileK;
        fault.see(params.bad_ends, own.bad || (group < params.groups && split), group, own.got, own.bad ? own.begin : whole,
                  own.bad ? params.k : whole);
      }
      if (group < params.groups) blocks[group] = {blocks_before(params, own.begin), blocks_before(params, own.end)};
    }
  }

 private:
  // Tensors end with a block that TMA fills with zeros; elsewhere one that two groups would share belongs to the second.
  __device__ static int blocks_before(const Params& params, int end) { return end == params.max_k ? (end + kTileK - 1) / kTileK : end / kTileK; }
};

struct KGroupedTile {
  int row;
  int col;
  int group;
};

// Every so-many-th tile, or cluster's tiles, group after group; within a group in the raster's order.
template <int kMulticast>
class KGroupScheduler {
 public:
  __device__ explicit KGroupScheduler(const Params& params) : params_(params), index_(blockIdx.x / kMulticast) {}

  __device__ bool next(int tile_m, int tile_n, KGroupedTile& tile) {
    const Raster& raster = params_.raster;
    const int tiles = raster.tiles_m * raster.tiles_n;
    const int group = index_ / tiles;
    if (group >= params_.groups) return false;
    const Tile place = tile_at(index_ - group * tiles, raster.tiles_m, raster.tiles_n, raster.group, raster.along_m);
    tile = {place.row * tile_m, place.col * tile_n, group};
    index_ += gridDim.x / kMulticast;
    return true;
  }

 private:
  const Params& params_;
  int index_;
};

template <Config kConfigValue>
struct KGrouped {
  static constexpr Config kConfig = kConfigValue;
  static constexpr bool kColumnScales = true;
  static constexpr int kNarrowCols = 0;
  static constexpr bool kShares = false;
  static constexpr bool kInterleaved = false;
  static constexpr bool kRagged = false;
  static constexpr bool kAnyRow = false;
  static constexpr bool kAccumulates = true;
  static constexpr bool kFed = false;
  // More spills.
  static constexpr int kUnroll = 1;
  using Out = float;
  using Params = k_grouped::Params;
  struct Shared : SharedStorage<kConfig, Out, kColumnScales> {
    GroupTable groups;
  };
  using Tile = KGroupedTile;
  using Scheduler = KGroupScheduler<kConfig.multicast>;

  __device__ static Scheduler scheduler(const Params& params, const Shared&) { return Scheduler(params); }
  __device__ static BlockRange blocks(const Params&, const Shared& shared, const Tile& tile) { return shared.groups.blocks[tile.group]; }

  __device__ static uint32_t load_a(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    if constexpr (kConfig.multicast > 1) {
      // The CTAs of a cluster have these rows in common, and each brings a share for all of them.
      const int first = static_cast<int>(blockIdx.x % kConfig.multicast) * a_copy_rows(kConfig);
      constexpr uint16_t kAll = (1 << kConfig.multicast) - 1;
      cute::SM90_TMA_LOAD_MULTICAST_2D::copy(&params.a, barrier, kAll, kLoadHint, static_cast<uint8_t*>(target) + first * kTileK, block * kTileK,
                                             tile.row + first);
    } else {
      cute::SM90_TMA_LOAD_2D::copy(&params.a, barrier, kLoadHint, target, block * kTileK, tile.row);
    }
    return kConfig.a_stage_bytes();
  }
  __device__ static void load_b(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.b, barrier, kLoadHint, target, block * kTileK, tile.col);
  }
  __device__ static uint32_t b_bytes(const Tile&) { return kConfig.b_stage_bytes(); }
  __device__ static uint32_t load_a_scales(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.a_scales, barrier, kLoadHint, target, tile.row, block);
    return sizeof(Shared::a_scales[0]);
  }
  __device__ static void load_b_scales(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    cute::SM90_TMA_LOAD_2D::copy(&params.b_scales, barrier, kLoadHint, target, tile.col, block);
  }
  __device__ static bool is_narrow(const Tile&) { return false; }
  __device__ static void store_box(const Params& params, const void* source, const Tile& tile, int row, int col) {
    if (params.c == params.d_pointer) {
      cute::SM90_TMA_REDUCE_ADD_3D::copy(&params.d, source, col, row, tile.group);
    } else {
      cute::SM90_TMA_STORE_3D::copy(&params.d, source, col, row, tile.group);
    }
  }
  __device__ static int row_end(const Params& params, const Tile&) { return params.m; }
  __device__ static int64_t plane(const Params& params, const Tile& tile) { return tile.group * params.d_group_ld; }
  __device__ static int64_t c_plane(const Params& params, const Tile& tile) { return tile.group * params.c_group_ld; }
};

// Numbers rather than a Config: nvcc 13.0 writes stubs that do not compile for a class-type template argument.
template <int kTileM, int kTileN, int kStages, int kMulticast>
__global__ void __launch_bounds__(config_of(kTileM, kTileN, kStages, kMulticast).threads(), 1)
    k_grouped_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig = config_of(kTileM, kTileN, kStages, kMulticast);
  using Op = KGrouped<kConfig>;
  using Shared = typename Op::Shared;
  check_config<kConfig, Shared>();
  static_assert(!kConfig.strips(), "column scales come with their stage");
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);

  if (threadIdx.x / 32 == 1) shared.groups.build(params);
  run_roles<Op>(params, shared, &params.a, &params.b, &params.a_scales, &params.b_scales, &params.d);
}

}  // namespace h4j::gemm::k_grouped
