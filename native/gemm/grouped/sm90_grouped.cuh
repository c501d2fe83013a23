// D = A B[g]^T for the rows of each group g, FP8 with block scales: the dense GEMM's roles over tiles that each belong to one group.
#pragma once

#include "gemm/grouped/grouped_layout.h"
#include "gemm/groups.cuh"
#include "gemm/roles.cuh"

namespace h4j::gemm::grouped {

// What a CTA knows of the groups. Built by one of its warps, read by the one that looks tiles up.
struct GroupTable {
  int2 rows[kMaxGroups];      // first row, and the one behind the last, in the group's matrix
  int units[kMaxGroups + 1];  // before the group's, and of all groups
  int first_cut;              // unit from which on they are cut into parts

  // By a whole warp. One CTA also tells the host of extents that make no sense. `takers` share the parts of the last units, if those are cut.
  __device__ void build(const Params& params, int tile_m, int takers) {
    Ends ends(params.extents, params.wide_extents, params.groups, params.planes ? INT32_MAX : params.m);
    FirstFault fault;
    int units_before = 0;
    for (int base = 0; base < params.groups; base += 32) {
      const int group = base + threadIdx.x % 32;
      Ends::Group own = params.planes ? plane(params, group) : ends.next(base);
      if (blockIdx.x == 0) fault.see(params.bad_extents, own.bad, group, own.got, own.begin, params.m);
      const int count = params.columns.units((own.end - own.begin + tile_m - 1) / tile_m);
      const int sum = inclusive_sum(count);
      if (group < params.groups) {
        rows[group] = make_int2(own.begin, own.end);
        units[group] = units_before + sum - count;
      }
      units_before += __shfl_sync(kAllLanes, sum, 31);
    }
    if (threadIdx.x % 32 == 0) {
      units[params.groups] = units_before;
      first_cut = gemm::grouped::first_cut(units_before, takers);
    }
  }

 private:
  __device__ static Ends::Group plane(const Params& params, int group) {
    if (group >= params.groups) return {0, 0, false, 0};
    const int64_t got = extent_at(params.extents, params.wide_extents, group);
    return {0, static_cast<int>(min(max(got, int64_t{0}), static_cast<int64_t>(params.m))), got < 0 || got > params.m, got};
  }
};

struct GroupedTile {
  int row;  // in the group's matrix A
  int col;
  int row_end;  // of the group
  int group;
  bool narrow;
};

// Every so-many-th unit, or cluster's unit, group after group; then at most a part of one of the last round's. By whole warps.
template <int kMulticast, int kNarrowCols>
class GroupScheduler {
 public:
  __device__ GroupScheduler(const Params& params, const GroupTable& table)
      : params_(params), table_(table), index_(static_cast<int>(blockIdx.x) / kMulticast) {}

  // `tile` is what it was given before; at first it is of group 0.
  __device__ bool next(int tile_m, int tile_n, GroupedTile& tile) {
    if (kNarrowCols > 0 && below_) {
      below_ = false;
      tile.row += tile_m;
      return true;
    }
    int unit = index_;
    int part = -1;
    if (index_ >= table_.first_cut) {
      part = index_ - table_.first_cut;
      unit = table_.first_cut + part / kParts;
      if (unit >= table_.units[params_.groups]) return false;
      part %= kParts;
    }
    index_ += static_cast<int>(gridDim.x) / kMulticast;
    // The unit's group is that of the tile before or lies ahead, 32 groups at a time.
    int group = tile.group;
    for (unsigned passed = kAllLanes; passed == kAllLanes;) {
      const int probe = group + 1 + static_cast<int>(threadIdx.x % 32);
      passed = __ballot_sync(kAllLanes, probe <= params_.groups && table_.units[min(probe, kMaxGroups)] <= unit);
      group += __popc(passed);
    }
    const int2 rows = table_.rows[group];
    const Unit place = params_.columns.at(unit - table_.units[group], (rows.y - rows.x + tile_m - 1) / tile_m);
    tile = {rows.x + place.row * tile_m, place.col * tile_n, rows.y, group, place.col == params_.columns.whole};
    if constexpr (kNarrowCols > 0) {
      if (part < 0) {
        below_ = place.rows > 1;
      } else if (tile.narrow) {
        tile.row += part * tile_m;
        return part < place.rows;
      } else {
        tile.col += part * kNarrowCols;
        tile.narrow = true;
        return tile.col < params_.n;
      }
    }
    return true;
  }

 private:
  const Params& params_;
  const GroupTable& table_;
  int index_;
  bool below_ = false;  // the next tile is the one below: the unit's other narrow tile
};

template <Config kConfigValue>
struct Grouped {
  static constexpr Config kConfig = kConfigValue;
  static constexpr bool kColumnScales = false;
  static constexpr int kNarrowCols = kConfig.narrow_cols();
  static constexpr bool kShares = false;
  static constexpr bool kInterleaved = true;
  static constexpr bool kRagged = true;
  static constexpr bool kAnyRow = true;
  static constexpr bool kAccumulates = false;
  static constexpr bool kFed = true;
  static constexpr int kUnroll = 4;
  using Out = __nv_bfloat16;
  using Params = grouped::Params;
  struct Shared : SharedStorage<kConfig, Out, kColumnScales, kAnyRow> {
    GroupTable groups;
    TileFeed<GroupedTile> feed;
  };
  using Tile = GroupedTile;
  using Scheduler = GroupScheduler<kConfig.multicast, kNarrowCols>;

  __device__ static Scheduler scheduler(const Params& params, const Shared& shared) { return Scheduler(params, shared.groups); }
  __device__ static BlockRange blocks(const Params& params, const Shared&, const Tile&) { return {0, params.k_blocks}; }

  __device__ static uint32_t load_a(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    uint32_t bytes = 0;
#pragma unroll
    for (int part = 0; part * kCopyRows < kConfig.tile_m; ++part) {
      const int row = part * kCopyRows;
      if (part > 0 && tile.row + row >= tile.row_end) break;
      bytes += kCopyRows * kTileK;
      uint8_t* place = static_cast<uint8_t*>(target) + row * kTileK;
      if constexpr (kConfig.multicast > 1) {
        // The CTAs of a cluster have these rows in common, and each brings a part for all of them.
        static_assert(kConfig.tile_m == kConfig.multicast * kCopyRows, "a part a CTA");
        if (part != static_cast<int>(blockIdx.x % kConfig.multicast)) continue;
        constexpr uint16_t kAll = (1 << kConfig.multicast) - 1;
        cute::SM90_TMA_LOAD_MULTICAST_3D::copy(&params.a, barrier, kAll, kLoadHint, place, block * kTileK, tile.row + row, plane_index(params, tile));
      } else {
        cute::SM90_TMA_LOAD_3D::copy(&params.a, barrier, kLoadHint, place, block * kTileK, tile.row + row, plane_index(params, tile));
      }
    }
    return bytes;
  }
  __device__ static void load_b(const Params& params, uint64_t* barrier, void* target, const Tile& tile, int block) {
    cute::SM90_TMA_LOAD_3D::copy(is_narrow(tile) ? &params.b_narrow : &params.b, barrier, kLoadHint, target, block * kTileK, tile.col, tile.group);
  }
  __device__ static uint32_t b_bytes(const Tile& tile) { return is_narrow(tile) ? kNarrowCols * kTileK : kConfig.b_stage_bytes(); }
  __device__ static uint32_t load_a_scales(const Params& params, uint64_t* barrier, float* target, const Tile& tile, int block) {
    const int row = tile.row / kScaleSlack * kScaleSlack;
    uint32_t bytes = 0;
#pragma unroll
    for (int part = 0; part * kCopyRows < kConfig.tile_m; ++part) {
      cute::SM90_TMA_LOAD_3D::copy(&params.a_scales, barrier, kLoadHint, target + part * kSlackSegment, row + part * kCopyRows, block,
                                   plane_index(params, tile));
      bytes += (kCopyRows + kScaleSlack) * kConfig.strip_blocks() * 4;
    }
    return bytes;
  }
  // The 128x128 scales of a column; the last tile may reach past N.
  __device__ static const float* b_scale_row(const Params& params, const Tile& tile, int col) {
    return params.b_scales + tile.group * params.b_scales_group_ld + min(col, params.n - 1) / kTileK * params.b_scales_ld;
  }
  __device__ static void store_box(const Params& params, const void* source, const Tile& tile, int row, int col) {
    store_rows(params, kBoxRowsLog2, source, tile, row, col);
  }
  __device__ static void store_rows(const Params& params, int log2, const void* source, const Tile& tile, int row, int col) {
    cute::SM90_TMA_STORE_3D::copy(&params.d[log2], source, col, row, plane_index(params, tile));
  }
  __device__ static bool is_narrow(const Tile& tile) { return kNarrowCols > 0 && tile.narrow; }
  __device__ static int row_end(const Params&, const Tile& tile) { return tile.row_end; }
  __device__ static int64_t plane(const Params& params, const Tile& tile) { return tile.group * params.d_group_ld; }

 private:
  static constexpr int kCopyRows = copy_rows(kConfig);

  __device__ static int plane_index(const Params& params, const Tile& tile) { return params.planes ? tile.group : 0; }
};

// Numbers rather than a Config: nvcc 13.0 writes stubs that do not compile for a class-type template argument.
template <int kTileM, int kTileN, int kStages, int kGroups, int kMulticast>
__global__ void __launch_bounds__(config_of(kTileM, kTileN, kStages, kGroups, kMulticast).threads(), 1)
    grouped_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig = config_of(kTileM, kTileN, kStages, kGroups, kMulticast);
  using Op = Grouped<kConfig>;
  using Shared = typename Op::Shared;
  check_config<kConfig, Shared>();
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);

  if (threadIdx.x / 32 == 1) shared.groups.build(params, kTileM, Op::kNarrowCols > 0 ? static_cast<int>(gridDim.x) : 0);
  run_roles<Op>(params, shared, &params.a, &params.b, &params.b_narrow, &params.a_scales, &params.d[kBoxRowsLog2]);
}

}  // namespace h4j::gemm::grouped
