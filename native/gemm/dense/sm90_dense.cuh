// D = A B^T (+ C) with 1x128 scales of A and 128x128 scales of B: a persistent grid; two or three warps load by TMA into a ring of stages, one to four
// warp groups multiply on the tensor cores, promote each K block into F32 registers with its scales, and store.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>
#include <cute/arch/cluster_sm90.hpp>
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
  static constexpr bool kStaged = std::is_same_v<Out, __nv_bfloat16> && kConfig.slices == 1;
  static constexpr int kStoreBytes = kStaged ? kConfig.tile_m * kConfig.tile_n * 2 : 16;
  static constexpr int kValues = kConfig.tile_n / 2;  // of a thread in a [64, tile_n] accumulator

  alignas(1024) uint8_t a[kConfig.stages][kConfig.tile_m * kTileK];  // [stage][tile_m, 128], 128-byte swizzle
  alignas(1024) uint8_t b[kConfig.stages][kConfig.tile_n * kTileK];  // [stage][tile_n, 128], 128-byte swizzle
  alignas(1024) uint8_t d[kStoreBytes];                              // [tile_m / 64][tile_n / store_cols][64, store_cols] BF16, swizzled by row width
  alignas(128) float a_scales[kConfig.scale_stages()][kConfig.strip_blocks()][kConfig.tile_m];
  float b_scales[kConfig.scale_stages()][kConfig.strip_blocks()][2];  // of the first and of the last column's scale row
  float partial[kConfig.partial_tiles() > 0 ? kConfig.partial_tiles() : 1][kConfig.partial_tiles() > 0 ? kValues : 1]
               [128 * kConfig.row_groups()];  // [.][value][thread]
  tile::Ring<kConfig.stages> ring;
  tile::Ring<2> scale_ring;  // of strips
};

struct Tile {
  int row;
  int col;
};

// The tiles of a CTA, or of the cluster that shares them: every so-many-th of an order that keeps the tiles of one wave close in both dimensions, for the
// L2's sake.
template <int kSlices>
class TileScheduler {
 public:
  __device__ explicit TileScheduler(const Params& params) : params_(params), index_(blockIdx.x / kSlices) {}

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
    index_ += gridDim.x / kSlices;
    return true;
  }

 private:
  const Params& params_;
  int index_;
};

// The K blocks of this CTA: all, or its slice's share.
struct BlockRange {
  int begin;
  int end;
};

template <int kSlices>
__device__ BlockRange k_range(const Params& params) {
  if constexpr (kSlices == 1) return {0, params.k_blocks};
  const int share = (params.k_blocks + kSlices - 1) / kSlices;
  const int begin = min(static_cast<int>(blockIdx.x % kSlices) * share, params.k_blocks);
  return {begin, min(begin + share, params.k_blocks)};
}

// Which 128x128 scale row a column belongs to; the last tile may reach past N.
__device__ inline const float* scale_row(const Params& params, int col) {
  return params.b_scales + min(col, params.n - 1) / kTileK * params.b_scales_ld;
}

// Several warps load, since issuing copies takes a warp longer than narrow tiles take to multiply: one A, one B, and a third the strips of scales; without
// strips the scales go with the values they belong to.
template <Config kConfig, class Out>
class Producer {
 public:
  using Shared = SharedStorage<kConfig, Out>;
  static constexpr int kWarps = kConfig.strips() ? 3 : 2;

  __device__ Producer(const Params& params, Shared& shared) : params_(params), shared_(shared), range_(k_range<kConfig.slices>(params)) {}

  __device__ void run() {
    const int warp = threadIdx.x / 32;
    // A and its scales may be what the kernel ahead writes; B is not, where this kernel was allowed to start before the other's end.
    if (warp != 1) cudaGridDependencySynchronize();
    TileScheduler<kConfig.slices> scheduler(params_);
    Tile tile;
    while (scheduler.next(kConfig.tile_m, kConfig.tile_n, tile)) {
      if (warp == 0) {
        load_a(tile);
      } else if (warp == 1) {
        load_b(tile);
      } else {
        load_strips(tile);
      }
    }
  }

 private:
  static constexpr auto kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);

  __device__ uint64_t* filled_barrier() { return reinterpret_cast<uint64_t*>(&shared_.ring.filled[at_.stage]); }

  __device__ void load_a(Tile tile) {
    for (int block = range_.begin; block < range_.end; ++block, at_.advance()) {
      shared_.ring.wait_free(at_);
      if (threadIdx.x % 32 == 0) {
        uint32_t bytes = kConfig.a_stage_bytes();
        cute::SM90_TMA_LOAD_2D::copy(&params_.a, filled_barrier(), kHint, shared_.a[at_.stage], block * kTileK, tile.row);
        if constexpr (!kConfig.strips()) {
          bytes += sizeof(shared_.a_scales[0]);
          cute::SM90_TMA_LOAD_2D::copy(&params_.a_scales, filled_barrier(), kHint, shared_.a_scales[at_.stage], tile.row, block);
        }
        shared_.ring.fill(at_, bytes);
      }
    }
  }

  __device__ void load_b(Tile tile) {
    const int lane = threadIdx.x % 32;
    // Each lane holds the scales of one K block, 32 blocks at a time and the next 32 under way, so that no copy waits for them.
    float2 scales{};
    float2 next{};
    if constexpr (!kConfig.strips()) next = read_scales(tile, range_.begin + lane);
    for (int block = range_.begin; block < range_.end; ++block, at_.advance()) {
      float2 own{};
      if constexpr (!kConfig.strips()) {
        const int index = (block - range_.begin) % 32;
        if (index == 0) {
          scales = next;
          next = read_scales(tile, block + 32 + lane);
        }
        own = make_float2(__shfl_sync(0xffffffffu, scales.x, index), __shfl_sync(0xffffffffu, scales.y, index));
      }
      shared_.ring.wait_free(at_);
      if (lane == 0) {
        cute::SM90_TMA_LOAD_2D::copy(&params_.b, filled_barrier(), kHint, shared_.b[at_.stage], block * kTileK, tile.col);
        if constexpr (!kConfig.strips()) {
          shared_.b_scales[at_.stage][0][0] = own.x;
          shared_.b_scales[at_.stage][0][1] = own.y;
        }
        shared_.ring.fill(at_, kConfig.b_stage_bytes());
      }
    }
  }

  __device__ float2 read_scales(Tile tile, int block) const {
    if (block >= range_.end) return {};
    return {__ldg(scale_row(params_, tile.col) + block), __ldg(scale_row(params_, tile.col + kConfig.tile_n - 1) + block)};
  }

  __device__ void load_strips(Tile tile) {
    constexpr int kBlocks = kConfig.strip_blocks();
    static_assert(2 * kBlocks <= 32, "a lane a scale of B");
    const int lane = threadIdx.x % 32;
    const float* row = scale_row(params_, lane < kBlocks ? tile.col : tile.col + kConfig.tile_n - 1);
    for (int block = range_.begin; block < range_.end; block += kBlocks, strips_at_.advance()) {
      // Lanes read B's scales before they wait: the first the first row's, the next as many the last row's.
      const int own_block = block + lane % kBlocks;
      const float own = lane < 2 * kBlocks && own_block < range_.end ? __ldg(row + own_block) : 0.0f;
      shared_.scale_ring.wait_free(strips_at_);
      if (lane < 2 * kBlocks) shared_.b_scales[strips_at_.stage][lane % kBlocks][lane / kBlocks] = own;
      // Every lane arrives for its own store.
      if (lane == 0) {
        auto* barrier = reinterpret_cast<uint64_t*>(&shared_.scale_ring.filled[strips_at_.stage]);
        cute::SM90_TMA_LOAD_2D::copy(&params_.a_scales, barrier, kHint, shared_.a_scales[strips_at_.stage], tile.row, block);
        shared_.scale_ring.fill(strips_at_, sizeof(shared_.a_scales[0]));
      } else {
        shared_.scale_ring.fill_by_stores(strips_at_);
      }
    }
  }

  const Params& params_;
  Shared& shared_;
  BlockRange range_;
  typename tile::Ring<kConfig.stages>::Position at_;
  tile::RingPosition<2> strips_at_;
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
  int row_group;  // which rows of the tile
  int k_group;    // which stages, and so which K blocks
  uint64_t a0;    // descriptors of stage 0
  uint64_t b0;
  int row;  // this thread's first row in the group: value i of an accumulator lies at row + 8 * (i / 2 % 2), col + 8 * (i / 4) + i % 2
  int col;
  float sum[kAtoms][kValues];

  __device__ Consumer(const Params& p, Shared& s, int math_group)
      : params(p), shared(s), row_group(math_group % kConfig.row_groups()), k_group(math_group / kConfig.row_groups()) {
    a0 = tile::swizzled_descriptor(shared.a[0] + row_group * kConfig.group_rows() * kTileK);
    b0 = tile::swizzled_descriptor(shared.b[0]);
    row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    col = threadIdx.x % 4 * 2;
  }

  __device__ void run() {
    Position at;
    tile::RingPosition<2> strips_at;
    TileScheduler<kConfig.slices> scheduler(params);
    const BlockRange range = k_range<kConfig.slices>(params);
    Tile tile;
    while (scheduler.next(kConfig.tile_m, kConfig.tile_n, tile)) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[atom][i] = 0.0f;
      }
      // Columns of the tile before this one take the first scale row, the rest the last.
      const int boundary = kConfig.scale_rows() == 1 ? kConfig.tile_n : kTileK - tile.col % kTileK;
      if constexpr (kConfig.strips()) {
        multiply_strips(range, at, strips_at, boundary);
      } else {
#pragma unroll 1
        for (int block = range.begin; block < range.end; ++block) {
          shared.ring.wait_filled(at);
          multiply_block(at, shared.a_scales[at.stage][0], shared.b_scales[at.stage][0], boundary);
          at.advance();
        }
      }
      store(tile);
    }
    if constexpr (Shared::kStaged) {
      if (k_group == 0 && threadIdx.x % 128 == 0) cute::tma_store_wait<0>();  // shared memory must outlive the copies that read it
    }
  }

 private:
  __device__ void multiply_strips(BlockRange range, Position& at, tile::RingPosition<2>& strips_at, int boundary) {
    for (int strip = range.begin; strip < range.end; strip += kConfig.strip_blocks()) {
      const int count = min(kConfig.strip_blocks(), range.end - strip);
      shared.scale_ring.wait_filled(strips_at);
#pragma unroll 1
      for (int block = 0; block < count; ++block) {
        // A stage is always of the same K group. Were it of all in turn, a group that runs ahead would take the fill before last of a stage, which has the
        // same phase parity, for the one it waits for.
        if (kConfig.k_groups == 1 || at.stage % kConfig.k_groups == k_group) {
          const float (&a_scales)[kConfig.tile_m] = shared.a_scales[strips_at.stage][block];
          const float (&b_scales)[2] = shared.b_scales[strips_at.stage][block];
          shared.ring.wait_filled(at);
          multiply_block(at, a_scales, b_scales, boundary);
        }
        at.advance();
      }
      shared.scale_ring.release_by_lane(strips_at);
      strips_at.advance();
    }
  }

  __device__ void multiply_block(Position at, const float (&a_scales)[kConfig.tile_m], const float (&b_scales)[2], int boundary) {
    // Read before the MMAs start, so that the wait for them hides the latency.
    const float b_first = b_scales[0];
    const float b_last = b_scales[1];
    float a_scale[kAtoms][2];
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
      const float* own = a_scales + row_group * kConfig.group_rows() + atom * 64 + row;
      a_scale[atom][0] = own[0];
      a_scale[atom][1] = own[8];
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
    cudaGridDependencySynchronize();  // the kernel ahead may still read what D replaces, or write C
    if constexpr (kConfig.k_groups > 1) {
      add_k_groups();
      if (kConfig.slices == 1 && k_group > 0) return;
    }
    if constexpr (kConfig.slices > 1) {
      store_slices(tile);
      return;
    }
    if (params.c != nullptr) add_c(tile);
    if constexpr (Shared::kStaged) {
      store_staged(tile);
    } else {
      store_direct(tile);
    }
  }

  __device__ static void all_math_groups_barrier() { cutlass::arch::NamedBarrier::sync(128 * kConfig.math_groups(), kConfig.row_groups()); }

  // The first K group adds the others' sums to its own, in their order.
  __device__ void add_k_groups() {
    const int thread = row_group * 128 + threadIdx.x % 128;
    if (k_group > 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) shared.partial[k_group - 1][i][thread] = sum[0][i];
    }
    all_math_groups_barrier();
    if (k_group == 0) {
#pragma unroll
      for (int other = 0; other < kConfig.k_groups - 1; ++other) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[0][i] += shared.partial[other][i][thread];
      }
    }
    all_math_groups_barrier();  // without it the next tile's sums could overwrite these before they are added
  }

  // Every CTA of the cluster adds up a share of the tile over all slices, in the order of K, and stores it. A cluster has one tile only: its barriers wait
  // for all threads that have not left, so loading warps must have left.
  __device__ void store_slices(Tile tile) {
    constexpr int kPairs = kValues / 2;  // of a thread: two neighbouring columns each
    const int thread = row_group * 128 + threadIdx.x % 128;
    if (k_group == 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) shared.partial[0][i][thread] = sum[0][i];
    }
    cute::cluster_arrive();
    cute::cluster_wait();
    const uint32_t rank = cute::block_rank_in_cluster();
    for (int pair = static_cast<int>(rank) * kConfig.k_groups + k_group; pair < kPairs; pair += kConfig.slices * kConfig.k_groups) {
      const int r = tile.row + row_group * 64 + row + pair % 2 * 8;
      const int c = tile.col + pair / 2 * 8 + col;
      float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int slice = 0; slice < kConfig.slices; ++slice) {
        total.x += read_remote(&shared.partial[0][2 * pair][thread], slice);
        total.y += read_remote(&shared.partial[0][2 * pair + 1][thread], slice);
      }
      if (r < params.m && c < params.n) store_pair(r, c, total);
    }
    // No CTA may leave, or overwrite its partial sums, while another still reads them.
    cute::cluster_arrive();
    cute::cluster_wait();
  }

  // A value in the shared memory of another CTA of the cluster.
  __device__ static float read_remote(const float* own, uint32_t rank) {
    const uint32_t address = cute::set_block_rank(cute::cast_smem_ptr_to_uint(own), rank);
    float value;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
  }

  __device__ void store_pair(int r, int c, float2 value) const {
    if (params.c != nullptr) {
      const float2 old = load_pair(static_cast<const Out*>(params.c) + r * params.c_ld + c);
      value.x += old.x, value.y += old.y;
    }
    write_pair(static_cast<Out*>(params.d_pointer) + r * params.d_ld + c, value);
  }

  __device__ static float2 load_pair(const float* source) { return *reinterpret_cast<const float2*>(source); }
  __device__ static float2 load_pair(const __nv_bfloat16* source) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(source)); }
  __device__ static void write_pair(float* target, float2 value) { *reinterpret_cast<float2*>(target) = value; }
  __device__ static void write_pair(__nv_bfloat16* target, float2 value) {
    *reinterpret_cast<__nv_bfloat162*>(target) = __float22bfloat162_rn(value);
  }

  // Calls visit(row, col, first value, second value) for each pair of this thread that lies inside D.
  template <class Visit>
  __device__ void for_each_pair(Tile tile, Visit visit) {
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; i += 2) {
        const int r = tile.row + row_group * kConfig.group_rows() + atom * 64 + row + i / 2 % 2 * 8;
        const int c = tile.col + i / 4 * 8 + col;
        if (r < params.m && c < params.n) visit(r, c, sum[atom][i], sum[atom][i + 1]);
      }
    }
  }

  // C may be D: each element is read by the thread that holds it, before this tile's stores.
  __device__ void add_c(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      const float2 old = load_pair(static_cast<const Out*>(params.c) + r * params.c_ld + c);
      first += old.x, second += old.y;
    });
  }

  __device__ void store_direct(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      write_pair(static_cast<Out*>(params.d_pointer) + r * params.d_ld + c, make_float2(first, second));
    });
  }

  __device__ void group_barrier() const { cutlass::arch::NamedBarrier::sync(128, row_group); }

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
    uint8_t* area = shared.d + row_group * kAtoms * kBoxes * kBoxBytes;
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
        const int r = tile.row + row_group * kConfig.group_rows() + atom * 64;
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
template <int kTileM, int kTileN, int kStages, int kGroups, int kSlices, class Out>
__global__ void __launch_bounds__(Config{kTileM, kTileN, kStages, kGroups, kSlices}.threads(), 1)
    dense_kernel(const __grid_constant__ Params params) {
  constexpr Config kConfig{kTileM, kTileN, kStages, kGroups, kSlices};
  using Shared = SharedStorage<kConfig, Out>;
  static_assert(sizeof(Shared) <= kSharedMemoryPerBlock, "stages, staging tile and partial sums must fit the shared memory of a CTA");
  static_assert(kTileM == 64 || kTileM == 128 || kTileM == 256, "a math group holds 64 or 128 rows");
  static_assert(kTileM < 256 || (kGroups == 1 && kSlices == 1), "a math group that shares its K holds 64 rows");
  static_assert(kStages % kGroups == 0, "a stage is always of the same K group");
  static_assert(kTileN % 16 == 0, "stmatrix stores 16 columns at a time");
  static_assert(kTileN <= 2 * kTileK, "a tile touches at most two rows of 128x128 scales");
  static_assert(kSlices <= 8, "a cluster has at most 8 CTAs");
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  cudaTriggerProgrammaticLaunchCompletion();  // the kernel behind, if it may, takes SMs as soon as they are free, and waits itself for what is written here

  if (threadIdx.x == 0) {
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.a));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.b));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.a_scales));
    if constexpr (Shared::kStaged) cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.d));
    shared.ring.init(4 * kConfig.row_groups(), 2);
    if constexpr (kConfig.strips()) shared.scale_ring.init(128 * kConfig.math_groups(), 32);
  }
  tile::Ring<kStages>::publish();

  const int group = cutlass::canonical_warp_group_idx();
  if (group == 0) {
    // Two math groups of 232 registers a thread need what the loading group does not use.
    if constexpr (kConfig.moves_registers()) cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x < 32 * Producer<kConfig, Out>::kWarps) Producer<kConfig, Out>(params, shared).run();
  } else {
    if constexpr (kConfig.moves_registers()) cutlass::arch::warpgroup_reg_alloc<232>();
    Consumer<kConfig, Out>(params, shared, group - 1).run();
  }
}

}  // namespace h4j::gemm
