// D = A B^T (+ C) of BF16 matrices, one product, a batch of them, or groups of rows with a B each: a persistent grid; a thread loads by TMA into a ring
// of stages, one to three warp groups multiply on the tensor cores straight into their registers, and store.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include <cuda_bf16.h>

#include <type_traits>

#include "gemm/bf16/bf16_layout.h"
#include "gemm/scheduler.cuh"
#include "gemm/store.cuh"
#include "tile/fault.cuh"
#include "tile/ring.cuh"
#include "tile/wgmma_bf16.cuh"

namespace h4j::gemm::bf16 {

template <Config kConfig, class Out>
struct SharedStorage {
  static constexpr bool kStaged = std::is_same_v<Out, __nv_bfloat16> && !kConfig.swapped;
  static constexpr int kBoxBytes = 64 * kConfig.store_cols() * 2;
  static constexpr int kStoreBytes = kStaged ? kConfig.math_groups() * kConfig.store_buffers() * kBoxBytes : 16;
  static constexpr int kSumRows = kConfig.swapped ? kConfig.tile_m : 1;
  // Four floats more than the tile is wide: the lanes of a warp, which hold 8 columns of 4 rows two apart, then write to 32 banks.
  static constexpr int kSumPitch = kConfig.swapped ? kConfig.tile_n + 4 : 4;

  alignas(1024) uint8_t first[kConfig.stages][kConfig.first_stage_bytes()];    // [stage][first_rows, 64] BF16, 128-byte swizzle
  alignas(1024) uint8_t second[kConfig.stages][kConfig.second_stage_bytes()];  // [stage][second_rows, 64] BF16, 128-byte swizzle
  alignas(1024) uint8_t d[kStoreBytes];  // [math group][store_buffers][64, store_cols] BF16, swizzled by row width
  alignas(16) float sums[kSumRows][kSumPitch];
  tile::Ring<kConfig.stages> ring;
};

struct BatchTile : Tile {
  int row_end;  // rows from here on are of another group, or not in use
  int batch;    // which product of A, C and D
  int weights;  // which matrix of B
};

// CTAs of a cluster that share a tile's K.
template <Config kConfig>
__device__ int slices(const Params& params) {
  return kConfig.swapped ? params.slices : 1;
}

// The tiles of a CTA, or of the cluster that shares them: every so-many-th of the rasters of the products or groups, one after the other.
template <Config kConfig>
class BatchScheduler {
 public:
  __device__ explicit BatchScheduler(const Params& params)
      : params_(params),
        step_(gridDim.x / slices<kConfig>(params)),
        index_(blockIdx.x / slices<kConfig>(params)),
        tiles_m_(params.raster.tiles_m),
        end_(params.m) {
    if (params_.group_ends != nullptr) enter_group(0);
  }

  __device__ bool next(BatchTile& tile) {
    if (params_.group_ends == nullptr) {
      const int tiles = tiles_m_ * params_.raster.tiles_n;
      if (index_ >= tiles) {
        group_ += index_ / tiles;
        index_ %= tiles;
      }
    } else {
      while (group_ < params_.groups && index_ >= tiles_m_ * params_.raster.tiles_n) {
        index_ -= tiles_m_ * params_.raster.tiles_n;
        if (++group_ < params_.groups) enter_group(end_);
      }
    }
    if (group_ >= params_.groups) return false;
    const Tile at = tile_at(index_, tiles_m_, params_.raster.tiles_n, params_.raster.group, params_.raster.along_m);
    tile.row = begin_ + at.row * kConfig.tile_m;
    tile.col = at.col * kConfig.tile_n;
    tile.row_end = end_;
    tile.batch = params_.group_ends != nullptr ? 0 : group_;
    tile.weights = group_;
    index_ += step_;
    return true;
  }

 private:
  // Whatever the ends hold, groups stay in order and inside the rows in use.
  __device__ void enter_group(int begin) {
    begin_ = begin;
    end_ = min(max(__ldg(params_.group_ends + group_), begin), params_.m);
    tiles_m_ = (end_ - begin_ + kConfig.tile_m - 1) / kConfig.tile_m;
  }

  const Params& params_;
  int step_;
  int index_;      // among the tiles of this group and those after it
  int group_ = 0;  // or product
  int tiles_m_;
  int begin_ = 0;
  int end_;
};

// The K blocks of this CTA: all, or its slice's share.
struct BlockRange {
  int begin;
  int end;
};

template <Config kConfig>
__device__ BlockRange k_range(const Params& params) {
  const int count = slices<kConfig>(params);
  const int share = (params.k_blocks + count - 1) / count;
  const int begin = min(static_cast<int>(blockIdx.x % count) * share, params.k_blocks);
  return {begin, min(begin + share, params.k_blocks)};
}

// One thread. The scheduler cuts bad ends to the nearest good ones; this tells of the first.
__device__ inline void check_group_ends(const Params& params) {
  int begin = 0;
  for (int group = 0; group < params.groups; ++group) {
    const int end = __ldg(params.group_ends + group);
    if (end < begin || end > params.m) {
      tile::report_fault(params.faults, group, end, begin, params.m);
      return;
    }
    begin = end;
  }
}

// One thread.
template <Config kConfig, class Out>
__device__ void load(const Params& params, SharedStorage<kConfig, Out>& shared) {
  constexpr auto kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);
  BatchScheduler<kConfig> scheduler(params);
  const BlockRange range = k_range<kConfig>(params);
  typename tile::Ring<kConfig.stages>::Position at;
  BatchTile tile;
  while (scheduler.next(tile)) {
    const int first_row = kConfig.swapped ? tile.col : tile.row;
    const int first_batch = kConfig.swapped ? tile.weights : tile.batch;
    const int second_row = kConfig.swapped ? tile.row : tile.col;
    const int second_batch = kConfig.swapped ? tile.batch : tile.weights;
    for (int block = range.begin; block < range.end; ++block, at.advance()) {
      shared.ring.wait_free(at);
      auto* filled = reinterpret_cast<uint64_t*>(&shared.ring.filled[at.stage]);
      shared.ring.fill(at, kConfig.stage_bytes());
      cute::SM90_TMA_LOAD_3D::copy(&params.first, filled, kHint, shared.first[at.stage], block * kTileK, first_row, first_batch);
      cute::SM90_TMA_LOAD_3D::copy(&params.second, filled, kHint, shared.second[at.stage], block * kTileK, second_row, second_batch);
    }
  }
}

// One math warp group: 64 rows of the first operand times all of the second.
template <Config kConfig, class Out>
struct Consumer {
  using Shared = SharedStorage<kConfig, Out>;
  using Position = typename tile::Ring<kConfig.stages>::Position;
  static constexpr int kValues = kConfig.second_rows() / 2;  // of a thread in a [64, second_rows] accumulator
  static constexpr int kMathThreads = 128 * kConfig.math_groups();
  enum Barrier { kOfGroup, kOfAllGroups = kConfig.math_groups() };

  const Params& params;
  Shared& shared;
  int group;
  uint64_t first0;  // descriptors of stage 0
  uint64_t second0;
  int row = first_row();  // in the group; where a value lies, store.cuh says
  int col = first_col();
  float sum[kValues];

  __device__ Consumer(const Params& p, Shared& s, int math_group) : params(p), shared(s), group(math_group) {
    first0 = tile::swizzled_descriptor(shared.first[0] + group * 64 * kRowBytes);
    second0 = tile::swizzled_descriptor(shared.second[0]);
  }

  __device__ void run() {
    Position at;
    BatchScheduler<kConfig> scheduler(params);
    const BlockRange range = k_range<kConfig>(params);
    BatchTile tile;
    while (scheduler.next(tile)) {
      multiply(range.end - range.begin, at);
      store(tile);
    }
    if constexpr (Shared::kStaged) {
      if (threadIdx.x % 128 == 0) cute::tma_store_wait<0>();  // shared memory must outlive the copies that read it
    }
  }

 private:
  __device__ void multiply(int blocks, Position& at) {
    if constexpr (kConfig.swapped) {
      if (blocks <= 0) {  // a slice may be empty
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[i] = 0.0f;
        return;
      }
    }
    Position previous = at;
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
      shared.ring.wait_filled(at);
      tile::fence_accumulators(sum);
      cute::warpgroup_arrive();
      tile::bf16_mma_k64<kConfig.second_rows()>(first0 + at.stage * (kConfig.first_stage_bytes() / 16),
                                                second0 + at.stage * (kConfig.second_stage_bytes() / 16), sum, block > 0);
      cute::warpgroup_commit_batch();
      tile::fence_accumulators(sum);
      // One batch stays under way, so that the tensor core never waits for this group to come round; the one before it has read its stage.
      cute::warpgroup_wait<1>();
      if (block > 0) shared.ring.release(previous);
      previous = at;
      at.advance();
    }
    cute::warpgroup_wait<0>();
    tile::fence_accumulators(sum);
    shared.ring.release(previous);
  }

  __device__ void store(BatchTile tile) {
    if constexpr (kConfig.swapped) {
      store_swapped(tile);
    } else {
      if (params.c != nullptr) add_c(tile);
      // A box that reaches into the next group's rows, or rows not in use, leaves from registers.
      const bool whole = tile.row + group * 64 + 64 <= tile.row_end;
      if (Shared::kStaged && whole) {
        store_staged(tile);
      } else {
        store_direct(tile);
      }
    }
  }

  __device__ Out* d_row(BatchTile tile, int r) const {
    return static_cast<Out*>(params.d_pointer) + tile.batch * params.d_batch_ld + r * params.d_ld;
  }
  __device__ const Out* c_row(BatchTile tile, int r) const {
    return static_cast<const Out*>(params.c) + tile.batch * params.c_batch_ld + r * params.c_ld;
  }

  // Calls visit(row, col, first value, second value) for each pair of this thread that lies inside D.
  template <class Visit>
  __device__ void for_each_pair(BatchTile tile, Visit visit) {
#pragma unroll
    for (int i = 0; i < kValues; i += 2) {
      const int r = tile.row + group * 64 + row + i / 2 % 2 * 8;
      const int c = tile.col + i / 4 * 8 + col;
      if (r < tile.row_end && c < params.n) visit(r, c, sum[i], sum[i + 1]);
    }
  }

  // C may be D: each element is read by the thread that holds it, before this tile's stores.
  __device__ void add_c(BatchTile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      const float2 old = load_pair(c_row(tile, r) + c);
      first += old.x, second += old.y;
    });
  }

  __device__ void store_direct(BatchTile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) { write_pair(d_row(tile, r) + c, make_float2(first, second)); });
  }

  __device__ void group_barrier() const { cutlass::arch::NamedBarrier::arrive_and_wait(128, kOfGroup + group); }

  // Box by box through shared memory to TMA: full lines, and columns past N are clipped.
  __device__ void store_staged(BatchTile tile) {
    constexpr int kCols = kConfig.store_cols();
    constexpr int kBuffers = kConfig.store_buffers();
    constexpr int kPitch = kCols * 2;
    const bool issuer = threadIdx.x % 128 == 0;
    const int lane = threadIdx.x % 32;
    // stmatrix: lane l gives the row address of matrix l / 8: two matrices down, then two across.
    const int box_row = threadIdx.x % 128 / 32 * 16 + lane % 16;
    uint8_t* area = shared.d + group * kBuffers * Shared::kBoxBytes;
#pragma unroll
    for (int box = 0; box < kConfig.tile_n / kCols; ++box) {
      uint8_t* buffer = area + box % kBuffers * Shared::kBoxBytes;
      if (issuer) cute::tma_store_wait<kBuffers - 1>();  // the copy that last left this buffer has read it
      group_barrier();
#pragma unroll
      for (int column = 0; column < kCols; column += 16) {
        const uint32_t inside = box_row * kPitch + (column + lane / 16 * 8) * 2;
        const uint32_t swizzled = StagedRows<kCols>::swizzled(inside);
        uint32_t words[4];
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const int i = (box * kCols + column) / 2 + 2 * pair;
          const __nv_bfloat162 values = __floats2bfloat162_rn(sum[i], sum[i + 1]);
          memcpy(&words[pair], &values, sizeof values);
        }
        cute::SM90_U32x4_STSM_N::copy(words[0], words[1], words[2], words[3], *reinterpret_cast<cute::uint128_t*>(buffer + swizzled));
      }
      cute::tma_store_fence();  // the copy engine must see these ordinary stores
      group_barrier();
      if (issuer) {
        const int c = tile.col + box * kCols;
        if (c < params.n) cute::SM90_TMA_STORE_3D::copy(&params.d, buffer, c, tile.row + group * 64, tile.batch);
        cute::tma_store_arrive();
      }
    }
  }

  __device__ static void all_groups_barrier() { cutlass::arch::NamedBarrier::arrive_and_wait(kMathThreads, kOfAllGroups); }

  __device__ void everyone_with_sums_barrier() const {
    if (params.slices > 1) {
      // Waits for all threads of the cluster that have not left, so a cluster has one tile only and the loading threads leave after it.
      cute::cluster_arrive();
      cute::cluster_wait();
    } else {
      all_groups_barrier();
    }
  }

  // The tile is turned in shared memory, every CTA of the cluster adds up a share of it over all slices, in the order of K, and stores it.
  __device__ void store_swapped(BatchTile tile) {
    constexpr int kQuads = kConfig.tile_n / 4;
#pragma unroll
    for (int i = 0; i < kValues; ++i) shared.sums[col + i / 4 * 8 + i % 2][group * 64 + row + i / 2 % 2 * 8] = sum[i];
    everyone_with_sums_barrier();
    const int rank = static_cast<int>(cute::block_rank_in_cluster());
    const int quads = min(kConfig.tile_m, tile.row_end - tile.row) * kQuads;
    for (int quad = rank * kMathThreads + group * 128 + static_cast<int>(threadIdx.x % 128); quad < quads; quad += params.slices * kMathThreads) {
      const int m = quad / kQuads;
      const int n = quad % kQuads * 4;
      if (tile.col + n >= params.n) continue;
      float4 total = read_sums(&shared.sums[m][n], 0);
      for (int slice = 1; slice < params.slices; ++slice) {
        const float4 other = read_sums(&shared.sums[m][n], slice);
        total.x += other.x, total.y += other.y, total.z += other.z, total.w += other.w;
      }
      store_quad(tile, tile.row + m, tile.col + n, total);
    }
    // Nobody may leave, or overwrite its sums, while another still reads them.
    everyone_with_sums_barrier();
  }

  // Four sums of a CTA of the cluster.
  __device__ static float4 read_sums(const float* own, uint32_t rank) {
    const uint32_t address = cute::set_block_rank(cute::cast_smem_ptr_to_uint(own), rank);
    float4 values;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
                 : "r"(address)
                 : "memory");
    return values;
  }

  __device__ void store_quad(BatchTile tile, int r, int c, float4 value) const {
    if (params.c != nullptr) {
      const float2 low = load_pair(c_row(tile, r) + c);
      const float2 high = load_pair(c_row(tile, r) + c + 2);
      value.x += low.x, value.y += low.y, value.z += high.x, value.w += high.y;
    }
    Out* target = d_row(tile, r) + c;
    if constexpr (std::is_same_v<Out, float>) {
      *reinterpret_cast<float4*>(target) = value;
    } else {
      const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(value.x, value.y), __floats2bfloat162_rn(value.z, value.w)};
      uint2 words;
      memcpy(&words, pairs, sizeof words);
      *reinterpret_cast<uint2*>(target) = words;
    }
  }
};

// Numbers rather than a Config: nvcc 13.0 writes stubs that do not compile for a class-type template argument.
template <int kTileM, int kTileN, int kStages, bool kSwapped, class Out>
__global__ void __launch_bounds__(Config{kTileM, kTileN, kStages, kSwapped}.threads(), 1) bf16_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig{kTileM, kTileN, kStages, kSwapped};
  using Shared = SharedStorage<kConfig, Out>;
  static_assert(sizeof(Shared) <= kSharedMemoryPerBlock, "stages and the staging area or sums must fit the shared memory of a CTA");
  static_assert(kConfig.math_groups() <= 3, "one to three math groups of 64 rows of the first operand");
  static_assert(kConfig.second_rows() % (kSwapped ? 8 : 16) == 0, "stmatrix stores 16 columns at a time");
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);

  if (threadIdx.x == 0) {
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.first));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.second));
    if constexpr (Shared::kStaged) cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.d));
    shared.ring.init(4 * kConfig.math_groups());
  }
  tile::Ring<kStages>::publish();

  const int group = cutlass::canonical_warp_group_idx();
  if (group == 0) {
    // Two math groups of 232 registers a thread, or three of 160, need what the loading group does not use.
    if constexpr (kConfig.math_groups() > 1) cutlass::arch::warpgroup_reg_dealloc<kConfig.math_groups() == 2 ? 40 : 32>();
    if (threadIdx.x == 0) load<kConfig, Out>(params, shared);
    if (blockIdx.x == 0 && threadIdx.x == 32 && params.group_ends != nullptr) check_group_ends(params);
  } else {
    if constexpr (kConfig.math_groups() > 1) cutlass::arch::warpgroup_reg_alloc<kConfig.math_groups() == 2 ? 232 : 160>();
    Consumer<kConfig, Out>(params, shared, group - 1).run();
  }
}

}  // namespace h4j::gemm::bf16
