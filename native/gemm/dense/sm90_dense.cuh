// D = A B^T (+ C) with 1x128 scales of A and 128x128 scales of B: a persistent grid; one warp loads by TMA into a ring of stages, one or two warp
// groups multiply on the tensor cores, promote each K block into F32 registers with its scales, and store.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>
#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include <cuda_bf16.h>

#include <numeric>
#include <type_traits>

#include "gemm/dense/dense_layout.h"
#include "tile/ring.cuh"
#include "tile/wgmma.cuh"

namespace h4j::gemm {

template <Config kConfig, class Out>
struct SharedStorage {
  static constexpr bool kStaged = std::is_same_v<Out, __nv_bfloat16> && kConfig.store_cols() > 0;
  static constexpr int kStoreBytes = kStaged ? kConfig.tile_m * kConfig.tile_n * 2 : 16;

  alignas(1024) uint8_t a[kConfig.stages][kConfig.tile_m * kTileK];  // [stage][tile_m, 128], 128-byte swizzle
  alignas(1024) uint8_t b[kConfig.stages][kConfig.tile_n * kTileK];  // [stage][tile_n, 128], 128-byte swizzle
  alignas(1024) uint8_t d[kStoreBytes];                              // [tile_m / 64][tile_n / store_cols][64, store_cols] BF16, swizzled by row width
  alignas(128) float a_scales[kConfig.stages][kConfig.tile_m];
  alignas(16) float b_scales[kConfig.stages][2];  // of the first and of the last column's scale row
  tile::Ring<kConfig.stages> ring;
};

struct Tile {
  int row;
  int col;
};

// The tiles of a CTA: every gridDim.x-th of an order that keeps the tiles of one wave close in both dimensions, for the L2's sake.
class TileScheduler {
 public:
  __device__ explicit TileScheduler(const Params& params) : params_(params), index_(blockIdx.x) {}

  __device__ bool next(int tile_m, int tile_n, Tile& tile) {
    if (index_ >= params_.tiles_m * params_.tiles_n) return false;
    const int grouped = params_.raster_along_m ? params_.tiles_m : params_.tiles_n;
    const int other = params_.raster_along_m ? params_.tiles_n : params_.tiles_m;
    const int group = index_ / (params_.raster_group * other);
    const int inside = index_ - group * params_.raster_group * other;
    const int first = group * params_.raster_group;
    const int size = min(params_.raster_group, grouped - first);
    const int x = first + inside % size;
    const int y = inside / size;
    tile.row = (params_.raster_along_m ? x : y) * tile_m;
    tile.col = (params_.raster_along_m ? y : x) * tile_n;
    index_ += gridDim.x;
    return true;
  }

 private:
  const Params& params_;
  int index_;
};

// Which 128x128 scale row a column belongs to; the last tile may reach past N.
__device__ inline int scale_row(const Params& params, int col) { return min(col, params.n - 1) / kTileK; }

template <Config kConfig, class Out>
struct Producer {
  using Shared = SharedStorage<kConfig, Out>;

  // By one warp.
  static __device__ void run(const Params& params, Shared& shared) {
    typename tile::Ring<kConfig.stages>::Position at;
    TileScheduler scheduler(params);
    Tile tile;
    while (scheduler.next(kConfig.tile_m, kConfig.tile_n, tile)) load_tile(params, shared, tile, at);
  }

 private:
  static __device__ void load_tile(const Params& params, Shared& shared, Tile tile, typename tile::Ring<kConfig.stages>::Position& at) {
    const int lane = threadIdx.x % 32;
    const float* first_row = params.b_scales + scale_row(params, tile.col) * params.b_scales_ld;
    const float* last_row = params.b_scales + scale_row(params, tile.col + kConfig.tile_n - 1) * params.b_scales_ld;
    // Each lane holds the scales of one K block, 32 blocks at a time and the next 32 under way, so that no copy waits for them.
    float2 scales{};
    float2 next = load_scales(params, first_row, last_row, lane);
    for (int block = 0; block < params.k_blocks; ++block) {
      if (block % 32 == 0) {
        scales = next;
        next = load_scales(params, first_row, last_row, block + 32 + lane);
      }
      const float first = __shfl_sync(0xffffffffu, scales.x, block % 32);
      const float last = __shfl_sync(0xffffffffu, scales.y, block % 32);
      shared.ring.wait_free(at);
      if (lane == 0) {
        auto* barrier = reinterpret_cast<uint64_t*>(&shared.ring.filled[at.stage]);
        constexpr auto kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);
        cute::SM90_TMA_LOAD_2D::copy(&params.a, barrier, kHint, shared.a[at.stage], block * kTileK, tile.row);
        cute::SM90_TMA_LOAD_2D::copy(&params.b, barrier, kHint, shared.b[at.stage], block * kTileK, tile.col);
        cute::SM90_TMA_LOAD_2D::copy(&params.a_scales, barrier, kHint, shared.a_scales[at.stage], tile.row, block);
        shared.b_scales[at.stage][0] = first;
        shared.b_scales[at.stage][1] = last;
        shared.ring.fill(at, kConfig.stage_bytes());
      }
      at.advance();
    }
  }

  static __device__ float2 load_scales(const Params& params, const float* first_row, const float* last_row, int block) {
    if (block >= params.k_blocks) return {};
    const float first = __ldg(first_row + block);
    return {first, kConfig.scale_rows() == 1 ? first : __ldg(last_row + block)};
  }
};

// One math warp group: group_rows rows of the tile, 64 at a time through the tensor core.
template <Config kConfig, class Out>
struct Consumer {
  using Shared = SharedStorage<kConfig, Out>;
  using Position = typename tile::Ring<kConfig.stages>::Position;
  static constexpr int kAtoms = kConfig.group_rows() / 64;
  static constexpr int kValues = kConfig.tile_n / 2;  // of a thread in a [64, tile_n] accumulator
  static constexpr int kStoreCols = kConfig.store_cols();

  const Params& params;
  Shared& shared;
  int group;    // 0-based among the math groups
  uint64_t a0;  // descriptors of stage 0
  uint64_t b0;
  int row;  // this thread's first row in the group: value i of an accumulator lies at row + 8 * (i / 2 % 2), col + 8 * (i / 4) + i % 2
  int col;
  float sum[kAtoms][kValues];

  __device__ Consumer(const Params& p, Shared& s, int math_group) : params(p), shared(s), group(math_group) {
    a0 = tile::swizzled_descriptor(shared.a[0] + group * kConfig.group_rows() * kTileK);
    b0 = tile::swizzled_descriptor(shared.b[0]);
    row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    col = threadIdx.x % 4 * 2;
  }

  __device__ void run() {
    Position at;
    TileScheduler scheduler(params);
    Tile tile;
    while (scheduler.next(kConfig.tile_m, kConfig.tile_n, tile)) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[atom][i] = 0.0f;
      }
      // Columns of the tile before this one take the first scale row, the rest the last.
      const int boundary = kConfig.scale_rows() == 1 ? kConfig.tile_n : kTileK - tile.col % kTileK;
#pragma unroll 1
      for (int block = 0; block < params.k_blocks; ++block) {
        multiply_block(at, boundary);
        at.advance();
      }
      store(tile);
    }
    if constexpr (Shared::kStaged) {
      if (threadIdx.x % 128 == 0) cute::tma_store_wait<0>();  // shared memory must outlive the copies that read it
    }
  }

 private:
  __device__ void multiply_block(Position at, int boundary) {
    shared.ring.wait_filled(at);
    const float b_first = shared.b_scales[at.stage][0];
    const float b_last = shared.b_scales[at.stage][1];
    float a_scale[kAtoms][2];  // read before the MMAs start, so that the wait for them hides the latency
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
      const float* scales = shared.a_scales[at.stage] + group * kConfig.group_rows() + atom * 64 + row;
      a_scale[atom][0] = scales[0];
      a_scale[atom][1] = scales[8];
    }
    const uint64_t a = a0 + at.stage * (kConfig.tile_m * kTileK / 16);
    const uint64_t b = b0 + at.stage * (kConfig.tile_n * kTileK / 16);
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
      float part[kValues];
      tile::fence_accumulators(part);
      cute::warpgroup_arrive();
      tile::fp8_mma_k128<kConfig.tile_n>(a + atom * (64 * kTileK / 16), b, part);
      cute::warpgroup_commit_batch();
      tile::fence_accumulators(part);
      cute::warpgroup_wait<0>();
      tile::fence_accumulators(part);
      if (atom == kAtoms - 1) shared.ring.release(at);
      promote(part, sum[atom], a_scale[atom], b_first, b_last, boundary);
    }
  }

  // The tensor core keeps about 13 fraction bits of a sum; from here on sums are F32.
  static __device__ void promote(const float (&part)[kValues], float (&total)[kValues], const float (&a_scale)[2], float b_first, float b_last,
                                 int boundary) {
    // The boundary between scale rows is a multiple of this many columns.
    constexpr int kStep = std::gcd(kConfig.tile_n, kTileK);
#pragma unroll
    for (int step = 0; step < kConfig.tile_n; step += kStep) {
      const float b_scale = kConfig.scale_rows() == 1 || step < boundary ? b_first : b_last;
      const float scale[2] = {a_scale[0] * b_scale, a_scale[1] * b_scale};
#pragma unroll
      for (int i = step / 2; i < (step + kStep) / 2; ++i) total[i] = fmaf(part[i], scale[i / 2 % 2], total[i]);
    }
  }

  __device__ void store(Tile tile) {
    if (params.c != nullptr) add_c(tile);
    if constexpr (Shared::kStaged) {
      store_staged(tile);
    } else {
      store_direct(tile);
    }
  }

  // Calls visit(row, col, first value, second value) for each pair of this thread that lies inside D.
  template <class Visit>
  __device__ void for_each_pair(Tile tile, Visit visit) {
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; i += 2) {
        const int r = tile.row + group * kConfig.group_rows() + atom * 64 + row + i / 2 % 2 * 8;
        const int c = tile.col + i / 4 * 8 + col;
        if (r < params.m && c < params.n) visit(r, c, sum[atom][i], sum[atom][i + 1]);
      }
    }
  }

  // C may be D: each element is read by the thread that holds it, before this tile's stores.
  __device__ void add_c(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      const Out* source = static_cast<const Out*>(params.c) + r * params.c_ld + c;
      if constexpr (std::is_same_v<Out, float>) {
        const float2 pair = *reinterpret_cast<const float2*>(source);
        first += pair.x, second += pair.y;
      } else {
        const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(source));
        first += pair.x, second += pair.y;
      }
    });
  }

  __device__ void store_direct(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      Out* target = static_cast<Out*>(params.d_pointer) + r * params.d_ld + c;
      if constexpr (std::is_same_v<Out, float>) {
        *reinterpret_cast<float2*>(target) = make_float2(first, second);
      } else {
        *reinterpret_cast<__nv_bfloat162*>(target) = __floats2bfloat162_rn(first, second);
      }
    });
  }

  __device__ void group_barrier() const { cutlass::arch::NamedBarrier::sync(128, group); }

  // Through shared memory to TMA: full lines, and rows and columns past D are clipped.
  __device__ void store_staged(Tile tile) {
    constexpr int kBoxes = kConfig.tile_n / kStoreCols;
    constexpr int kRowBytes = kStoreCols * 2;
    constexpr int kBoxBytes = 64 * kRowBytes;
    const bool issuer = threadIdx.x % 128 == 0;
    if (issuer) cute::tma_store_wait<0>();  // the previous tile's copies still read the staging area
    group_barrier();
    const int lane = threadIdx.x % 32;
    // stmatrix: lane l gives the row address of matrix l / 8: two matrices down, then two across.
    const int stage_row = threadIdx.x % 128 / 32 * 16 + lane % 16;
    uint8_t* area = shared.d + group * kAtoms * kBoxes * kBoxBytes;
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; i += 8) {  // 16 columns
        const int column = i * 2;
        const uint32_t inside = stage_row * kRowBytes + (column % kStoreCols + lane / 16 * 8) * 2;
        // The swizzles of 128, 64 and 32 bytes: 3, 2 and 1 bits from bit 7 up are folded onto bit 4 up.
        constexpr uint32_t kSwizzleMask = kRowBytes / 16 - 1;
        const uint32_t swizzled = inside ^ ((inside >> 7 & kSwizzleMask) << 4);
        uint8_t* target = area + (atom * kBoxes + column / kStoreCols) * kBoxBytes + swizzled;
        uint32_t words[4];
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const __nv_bfloat162 values = __floats2bfloat162_rn(sum[atom][i + 2 * pair], sum[atom][i + 2 * pair + 1]);
          memcpy(&words[pair], &values, sizeof values);
        }
        cute::SM90_U32x4_STSM_N::copy(words[0], words[1], words[2], words[3], *reinterpret_cast<cute::uint128_t*>(target));
      }
    }
    cute::tma_store_fence();  // the copy engine must see these ordinary stores
    group_barrier();
    if (issuer) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
        const int r = tile.row + group * kConfig.group_rows() + atom * 64;
#pragma unroll
        for (int box = 0; box < kBoxes; ++box) {
          const int c = tile.col + box * kStoreCols;
          if (r < params.m && c < params.n) cute::SM90_TMA_STORE_2D::copy(&params.d, area + (atom * kBoxes + box) * kBoxBytes, c, r);
        }
      }
      cute::tma_store_arrive();
    }
  }
};

// Numbers rather than a Config: nvcc 13.0 writes stubs that do not compile for a class-type template argument.
template <int kTileM, int kTileN, int kStages, class Out>
__global__ void __launch_bounds__(Config{kTileM, kTileN, kStages}.threads(), 1) dense_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig{kTileM, kTileN, kStages};
  using Shared = SharedStorage<kConfig, Out>;
  static_assert(sizeof(Shared) <= kSharedMemoryPerBlock, "stages and staging tile must fit the shared memory of a CTA");
  static_assert(kConfig.tile_m == 64 || kConfig.tile_m == 128 || kConfig.tile_m == 256, "a math group holds 64 or 128 rows");
  static_assert(kConfig.tile_n % 16 == 0, "stmatrix stores 16 columns at a time");
  static_assert(kConfig.tile_n <= 2 * kTileK, "a tile touches at most two rows of 128x128 scales");
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);

  if (threadIdx.x == 0) {
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.a));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.b));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.a_scales));
    if constexpr (Shared::kStaged) cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.d));
    shared.ring.init(4 * kConfig.math_groups());
  }
  tile::Ring<kConfig.stages>::publish();

  const int group = cutlass::canonical_warp_group_idx();
  if (group == 0) {
    // Two math groups of 232 registers a thread need what the loading group does not use.
    if constexpr (kConfig.math_groups() == 2) cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x < 32) Producer<kConfig, Out>::run(params, shared);
  } else {
    if constexpr (kConfig.math_groups() == 2) cutlass::arch::warpgroup_reg_alloc<232>();
    Consumer<kConfig, Out>(params, shared, group - 1).run();
  }
}

}  // namespace h4j::gemm
