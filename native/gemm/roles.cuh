// The roles of a block-scaled FP8 GEMM's CTA: two or three warps load by TMA into a ring of stages, one to four warp groups multiply on the tensor cores,
// promote each K block into F32 registers with its scales, and store.
//
// What sets one GEMM apart from another is its Op, a type with
//   kConfig, Out, Params, Shared, Tile, Scheduler
//   kColumnScales   B has a scale for each column and K block instead of one for 128 columns
//   kNarrowCols     a tile may be of so many of its first columns only, where is_narrow(tile); 0: all tiles are whole
//   kShares         a tile may be of some of its K blocks only, from `begin` to `end`; the other sums go through params.shared_sums
//   kInterleaved    the math groups hold every other 64 rows of the tile instead of a half each
//   kRagged         a tile may end before tile_m rows, at a row that is not the last of D
//   kAnyRow         a tile may begin at any row of A, not only at multiples of tile_m
//   kAccumulates    params.c, where it is not null, is added
//   kFed            looking a tile up takes long, so that a warp of its own does it for all roles, through shared.feed; its scheduler may read what the kernel
//                   has begun to write to shared memory
//   kUnroll         K blocks of the main loop's body
// and static functions of params and tile (and some of shared memory): scheduler, blocks, load_a, load_b, b_bytes, load_a_scales, load_b_scales or b_scale_row,
// store_box, store_rows where tiles are ragged, is_narrow, row_end, plane and c_plane (elements before the tile's matrix in D and C).
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

#include "gemm/config.h"
#include "gemm/store.cuh"
#include "tile/fp8.cuh"
#include "tile/ring.cuh"
#include "tile/wgmma.cuh"

namespace h4j::gemm {

template <Config kConfig, class Out, bool kColumnScales = false, bool kAnyRow = false>
struct SharedStorage {
  static constexpr bool kStaged = std::is_same_v<Out, __nv_bfloat16> && kConfig.slices == 1;
  // F32 of 64 rows of each math group at a time, which leaves by TMA too.
  static constexpr bool kStagedF32 = kColumnScales;
  static constexpr bool kQuantized = std::is_same_v<Out, __nv_fp8_e4m3>;
  static constexpr int kStoreBytes = kStaged || kQuantized ? kConfig.tile_m * kConfig.tile_n * static_cast<int>(sizeof(Out))
                                     : kStagedF32          ? kConfig.row_groups() * 64 * kConfig.f32_staged_cols() * 4
                                                           : 16;
  static constexpr int kValues = kConfig.tile_n / 2;  // of a thread in a [64, tile_n] accumulator
  // Column scales are read while the stage that they came with is filled anew, but before the stage after that is released.
  static constexpr int kAScales = !kAnyRow           ? kConfig.tile_m
                                  : kConfig.strips() ? kConfig.tile_m + kScaleSlack
                                                     : kSlackSegment * (kConfig.tile_m == 256 ? 2 : 1);
  static constexpr int kBScaleStages = kColumnScales ? 2 * kConfig.stages : kConfig.scale_stages();

  alignas(1024) uint8_t a[kConfig.stages][kConfig.tile_m * kTileK];  // [stage][tile_m, 128], 128-byte swizzle
  alignas(1024) uint8_t b[kConfig.stages][kConfig.tile_n * kTileK];  // [stage][tile_n, 128], 128-byte swizzle
  alignas(1024) uint8_t d[kStoreBytes];                              // [tile_m / 64][tile_n / store_cols][64, store_cols] BF16, swizzled by row width
                                                                     // or [tile_m / 64][64, 128] E4M3, 128-byte swizzle
  alignas(128) float a_scales[kConfig.scale_stages()][kConfig.strip_blocks()][kAScales];
  float b_scales[kBScaleStages][kConfig.strip_blocks()][kColumnScales ? kConfig.tile_n : kConfig.scale_rows()];
  static constexpr int kThreads = 128 * kConfig.row_groups();  // that hold a tile's sums
  // Partial sums that leave the registers: of all K groups but the first, and those that other slices send.
  float partial[kConfig.k_groups > 1 ? kConfig.k_groups - 1 : 1][kConfig.k_groups > 1 ? kValues : 1][kThreads];
  static constexpr int kSent = kConfig.slice_values() % 4 == 0 ? 4 : 2;  // values that a thread sends at a time
  alignas(16) float sent[kConfig.slices][kConfig.slices > 1 ? kConfig.slice_values() / kSent : 1][kConfig.slices > 1 ? kThreads : 1][kSent];
  cutlass::arch::ClusterTransactionBarrier all_sent;
  tile::Ring<kConfig.stages> ring;
  tile::Ring<2> scale_ring;  // of strips
};

// K blocks of 128.
struct BlockRange {
  int begin;
  int end;
};

// Scales of B that a tile may need for one K block, from its first column's scale row on.
template <Config kConfig>
struct RowScales {
  float of[kConfig.scale_rows()]{};
};

inline constexpr auto kLoadHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);

// The tiles of a CTA, the first one looked up. Every role has its own, copied from one that is made before the roles part: looking up costs a fetch of cold code
// and constants, which so hides behind the making of the barriers.
template <class Op>
struct OwnWalk {
  typename Op::Scheduler scheduler;
  typename Op::Tile tile{};
  bool more = true;

  __device__ explicit OwnWalk(typename Op::Scheduler at_start) : scheduler(at_start) { advance(); }

  __device__ void advance() {
    constexpr Config kConfig = Op::kConfig;
    more = scheduler.next(kConfig.tile_m, kConfig.cluster_cols(), tile);
    if constexpr (kConfig.multicast > 1) tile.col += static_cast<int>(blockIdx.x % kConfig.multicast) * kConfig.tile_n;
  }
};

// Tiles on their way from the warp that looks them up to the roles, which read each once and so in the same order.
template <class Tile>
struct TileFeed {
  static constexpr int kAhead = 8;  // producers of tiles of one K block may be a ring of stages ahead
  using Ring = tile::Ring<kAhead>;
  struct Entry {
    Tile tile;
    bool more;  // or there is no tile
  };

  Entry entries[kAhead];
  Ring ring;  // given back by every lane
};

template <class Op>
struct FedWalk {
  using Feed = TileFeed<typename Op::Tile>;

  typename Op::Shared& shared;
  typename Op::Tile tile{};
  bool more = true;
  uint32_t seen = 0;

  __device__ explicit FedWalk(typename Op::Shared& from) : shared(from) { advance(); }

  __device__ void advance() {
    const typename Feed::Ring::Position at{static_cast<int>(seen % Feed::kAhead), seen / Feed::kAhead % 2};
    shared.feed.ring.wait_filled(at);
    tile = shared.feed.entries[at.stage].tile;
    more = shared.feed.entries[at.stage].more;
    shared.feed.ring.release_by_lane(at);
    ++seen;
  }
};

template <class Op>
using Walk = std::conditional_t<Op::kFed, FedWalk<Op>, OwnWalk<Op>>;

// By the warp that looks tiles up.
template <class Op>
__device__ void feed_tiles(OwnWalk<Op> walk, typename Op::Shared& shared) {
  for (typename TileFeed<typename Op::Tile>::Ring::Position at;; at.advance()) {
    shared.feed.ring.wait_free(at);
    if (threadIdx.x % 32 == 0) {
      shared.feed.entries[at.stage] = {walk.tile, walk.more};
      shared.feed.ring.fill_by_stores(at);
    }
    if (!walk.more) return;
    walk.advance();
  }
}

// Several warps load, since issuing copies takes a warp longer than narrow tiles take to multiply: one A, one B, and a third the strips of scales; without
// strips the scales go with the values they belong to.
template <class Op>
class Producer {
 public:
  using Params = typename Op::Params;
  using Shared = typename Op::Shared;
  using Tile = typename Op::Tile;
  static constexpr Config kConfig = Op::kConfig;
  static constexpr int kWarps = kConfig.strips() ? 3 : 2;

  __device__ Producer(const Params& params, Shared& shared) : params_(params), shared_(shared) {}

  __device__ void run(Walk<Op> walk) {
    const int warp = threadIdx.x / 32;
    // A and its scales may be what the kernel ahead writes; B is not, where this kernel was allowed to start before the other's end.
    if (warp != 1) cudaGridDependencySynchronize();
    if (warp == 1) {
      load_b(walk);
      return;
    }
    for (; walk.more; walk.advance()) {
      if (warp == 0) {
        load_a(walk.tile);
      } else if constexpr (kConfig.strips()) {
        load_strips(walk.tile);
      }
    }
  }

 private:
  static constexpr bool kStageScales = !kConfig.strips() && !Op::kColumnScales;
  static constexpr int kScaleRows = kConfig.scale_rows();
  using BScales = RowScales<kConfig>;

  __device__ uint64_t* filled_barrier() { return reinterpret_cast<uint64_t*>(&shared_.ring.filled[at_.stage]); }

  __device__ void load_a(Tile tile) {
    const BlockRange range = Op::blocks(params_, shared_, tile);
    for (int block = range.begin; block < range.end; ++block, at_.advance()) {
      shared_.ring.wait_free(at_);
      if (threadIdx.x % 32 == 0) {
        uint32_t bytes = Op::load_a(params_, filled_barrier(), shared_.a[at_.stage], tile, block);
        if constexpr (!kConfig.strips()) {
          bytes += Op::load_a_scales(params_, filled_barrier(), shared_.a_scales[at_.stage][0], tile, block);
        }
        shared_.ring.fill(at_, bytes);
      }
    }
  }

  // Each lane holds the scales of one K block, 32 blocks at a time and the next 32, or the next tile's first, under way, so that no copy waits for them.
  __device__ void load_b(Walk<Op> walk) {
    const int lane = threadIdx.x % 32;
    BScales ahead = walk.more ? first_scales(walk.tile) : BScales{};
    while (walk.more) {
      const Tile tile = walk.tile;
      const BlockRange range = Op::blocks(params_, shared_, tile);
      BScales scales{};
      for (int block = range.begin; block < range.end; ++block, at_.advance()) {
        shared_.ring.wait_free(at_);
        if (lane == 0) Op::load_b(params_, filled_barrier(), shared_.b[at_.stage], tile, block);
        BScales own{};
        if constexpr (kStageScales) {
          const int index = (block - range.begin) % 32;
          if (index == 0) {
            scales = ahead;
            if (block + 32 < range.end) {
              ahead = read_scales(tile, block + 32 + lane, range.end);
            } else {
              walk.advance();
              if (walk.more) ahead = first_scales(walk.tile);
            }
          }
#pragma unroll
          for (int row = 0; row < kScaleRows; ++row) own.of[row] = __shfl_sync(0xffffffffu, scales.of[row], index);
        }
        if (lane == 0) {
          uint32_t bytes = Op::b_bytes(tile);
          if constexpr (Op::kColumnScales) {
            auto& target = shared_.b_scales[at_.stage + at_.phase * kConfig.stages];
            bytes += sizeof target;
            Op::load_b_scales(params_, filled_barrier(), target, tile, block);
          } else if constexpr (kStageScales) {
#pragma unroll
            for (int row = 0; row < kScaleRows; ++row) shared_.b_scales[at_.stage][0][row] = own.of[row];
          }
          shared_.ring.fill(at_, bytes);
        }
      }
      if constexpr (!kStageScales) walk.advance();
    }
  }

  // Of a tile's first 32 K blocks, one a lane.
  __device__ BScales first_scales(Tile tile) const {
    const BlockRange range = Op::blocks(params_, shared_, tile);
    return read_scales(tile, range.begin + static_cast<int>(threadIdx.x % 32), range.end);
  }

  __device__ BScales read_scales(Tile tile, int block, int end) const {
    BScales scales{};
    if constexpr (kStageScales) {
      if (block < end) {
#pragma unroll
        for (int row = 0; row < kScaleRows; ++row) scales.of[row] = __ldg(Op::b_scale_row(params_, tile, tile.col + row * kTileK) + block);
      }
    }
    return scales;
  }

  __device__ void load_strips(Tile tile) {
    constexpr int kBlocks = kConfig.strip_blocks();
    static_assert(kScaleRows * kBlocks <= 32, "a lane a scale of B");
    const int lane = threadIdx.x % 32;
    const BlockRange range = Op::blocks(params_, shared_, tile);
    const float* row = Op::b_scale_row(params_, tile, tile.col + lane / kBlocks * kTileK);
    for (int block = range.begin; block < range.end; block += kBlocks, strips_at_.advance()) {
      // Lanes read B's scales before they wait: the first the first row's, the next as many the next row's.
      const int own_block = block + lane % kBlocks;
      const float own = lane < kScaleRows * kBlocks && own_block < range.end ? __ldg(row + own_block) : 0.0f;
      shared_.scale_ring.wait_free(strips_at_);
      // A's copy does not wait for B's scales to arrive from device memory.
      if (lane == 0) {
        auto* barrier = reinterpret_cast<uint64_t*>(&shared_.scale_ring.filled[strips_at_.stage]);
        shared_.scale_ring.expect(strips_at_, Op::load_a_scales(params_, barrier, shared_.a_scales[strips_at_.stage][0], tile, block));
      }
      if (lane < kScaleRows * kBlocks) shared_.b_scales[strips_at_.stage][lane % kBlocks][lane / kBlocks] = own;
      shared_.scale_ring.fill_by_stores(strips_at_);  // every lane for its own store
    }
  }

  const Params& params_;
  Shared& shared_;
  typename tile::Ring<kConfig.stages>::Position at_;
  tile::RingPosition<2> strips_at_;
};

// One math warp group: group_rows rows of the tile, 64 at a time through the tensor core.
template <class Op>
struct Consumer {
  using Params = typename Op::Params;
  using Shared = typename Op::Shared;
  using Tile = typename Op::Tile;
  using Out = typename Op::Out;
  static constexpr Config kConfig = Op::kConfig;
  using Position = typename tile::Ring<kConfig.stages>::Position;
  static constexpr int kAtoms = kConfig.group_rows() / 64;
  static constexpr int kValues = kConfig.tile_n / 2;  // of a thread in a [64, tile_n] accumulator
  using Staged = StagedRows<kConfig.store_cols()>;
  // Fewer than 64 rows of a box leave by TMA where rows are 128 bytes, to which its addresses in shared memory are aligned; by the threads elsewhere.
  static constexpr bool kStoresParts = Op::kRagged && Staged::kRowBytes == 128;
  // The next tile's sums are cleared between the stores to shared memory, which would have to be waited for.
  static constexpr bool kClearsWhileStaging = Shared::kStaged && kConfig.k_groups == 1;
  // Between two of a group's 64 rows in the tile.
  static constexpr int kAtomRows = Op::kInterleaved ? 64 * kConfig.row_groups() : 64;

  const Params& params;
  Shared& shared;
  int row_group;              // which rows of the tile
  int k_group;                // which stages, and so which K blocks
  int group_row;              // the first row of the group in the tile
  tile::MovingDescriptor a0;  // of stage 0
  tile::MovingDescriptor b0;
  int row;  // this thread's first in an accumulator, see store.cuh
  int col;
  float sum[kAtoms][kValues];
  Position at;
  tile::RingPosition<2> strips_at;
  Walk<Op> walk;

  __device__ Consumer(const Params& p, Shared& s, int math_group, Walk<Op> from)
      : params(p),
        shared(s),
        row_group(math_group % kConfig.row_groups()),
        k_group(math_group / kConfig.row_groups()),
        group_row(row_group * (Op::kInterleaved ? 64 : kConfig.group_rows())),
        a0(s.a[0] + group_row * kTileK),
        b0(s.b[0]),
        walk(from) {
    row = first_row();
    col = first_col();
  }

  __device__ void run() {
    if constexpr (kClearsWhileStaging) clear_sums();
    while (walk.more) {
      const Tile tile = walk.tile;
      if constexpr (!kClearsWhileStaging) clear_sums();
      const BlockRange range = Op::blocks(params, shared, tile);
      if constexpr (kConfig.strips()) {
        multiply_strips(range, tile);
      } else {
        with_extent(tile, [&]<int kUsed, int kWidth>() { multiply_stages<kUsed, kWidth>(range, tile); });
      }
      walk.advance();  // ahead of the store, whose barriers hide its latency
      store(tile);
    }
    if constexpr (Shared::kStaged || Shared::kStagedF32 || Shared::kQuantized) {
      if (k_group == 0 && threadIdx.x % 128 == 0) cute::tma_store_wait<0>();  // shared memory must outlive the copies that read it
    }
  }

 private:
  __device__ void clear_sums() {
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum[atom][i] = 0.0f;
    }
  }

  // The stage at hand may be filled anew, here or also where this CTA's copies go.
  __device__ void release() {
    if constexpr (kConfig.multicast > 1) {
      shared.ring.template release_to_cluster<kConfig.multicast>(at);
    } else {
      shared.ring.release(at);
    }
  }

  // The first row of an atom in D.
  __device__ int atom_row(Tile tile, int atom) const { return tile.row + group_row + atom * kAtomRows; }

  // Atoms of this group that hold rows of D. The rest of a ragged tile is neither copied nor multiplied.
  __device__ int atoms_in_use(Tile tile) const {
    const int rows = Op::row_end(params, tile) - atom_row(tile, 0);
    return min(max((rows + kAtomRows - 1) / kAtomRows, 0), kAtoms);
  }

  // Calls work<atoms, columns>() with what of the tile is to be multiplied.
  template <class Work>
  __device__ void with_extent(Tile tile, Work work) {
    constexpr int kWidth = kConfig.tile_n;
    // With one atom nothing is skipped: CTAs that stay in step ask for the same B at the same time, which saves more.
    if constexpr (Op::kRagged && kAtoms > 1) {
      const int used = atoms_in_use(tile);
      if (used == 1) {
        work.template operator()<1, kWidth>();
        return;
      }
      if (used == 0) {
        work.template operator()<0, kWidth>();
        return;
      }
    }
    if constexpr (Op::kNarrowCols > 0) {
      if (Op::is_narrow(tile)) {
        work.template operator()<kAtoms, Op::kNarrowCols>();
        return;
      }
    }
    work.template operator()<kAtoms, kWidth>();
  }

  // Columns of the tile before this one take the first row of B's scales, the next 128 the next.
  __device__ static int scale_boundary(Tile tile) { return kConfig.scale_rows() == 1 ? kConfig.tile_n : kTileK - tile.col % kTileK; }
  // Where a tile's scales of A begin in what was copied.
  __device__ static int scale_shift(Tile tile) { return Op::kAnyRow ? tile.row % kScaleSlack : 0; }

  using AScales = std::remove_reference_t<decltype(Shared::a_scales[0][0])>;
  using BScales = std::remove_reference_t<decltype(Shared::b_scales[0][0])>;

  // What a thread's part of one K block is scaled with.
  struct Scales {
    float a[kAtoms][2];
    float b[kConfig.scale_rows()];
    const float* b_columns;  // with column scales: this thread's first
  };

  template <int kUsed>
  __device__ Scales read_scales(const AScales& a_scales, const BScales& b_scales, int shift) const {
    Scales scales{};
    if constexpr (Op::kColumnScales) {
      scales.b_columns = b_scales + col;
    } else {
#pragma unroll
      for (int i = 0; i < kConfig.scale_rows(); ++i) scales.b[i] = b_scales[i];
    }
#pragma unroll
    for (int atom = 0; atom < kUsed; ++atom) {
      const float* own = a_scales + group_row + atom * (Op::kAnyRow ? kSlackSegment : kAtomRows) + row + shift;
      scales.a[atom][0] = own[0];
      scales.a[atom][1] = own[8];
    }
    return scales;
  }

  template <int kUsed, int kWidth>
  __device__ void multiply_stages(BlockRange range, Tile tile) {
    const int boundary = scale_boundary(tile);
    const int shift = scale_shift(tile);
#pragma unroll Op::kUnroll
    for (int left = range.end - range.begin; left > 0; --left) {
      shared.ring.wait_filled(at);
      const int scale_stage = Op::kColumnScales ? at.stage + at.phase * kConfig.stages : at.stage;
      multiply_block<kUsed, kWidth>([&] { return read_scales<kUsed>(shared.a_scales[at.stage][0], shared.b_scales[scale_stage][0], shift); },
                                    boundary);
      at.advance();
    }
  }

  __device__ void multiply_strips(BlockRange range, Tile tile) {
    const int boundary = scale_boundary(tile);
    const int shift = scale_shift(tile);
    for (int strip = range.begin; strip < range.end; strip += kConfig.strip_blocks()) {
      const int count = min(kConfig.strip_blocks(), range.end - strip);
      shared.scale_ring.wait_filled(strips_at);
#pragma unroll 1
      for (int block = 0; block < count; ++block) {
        // A stage is always of the same K group. Were it of all in turn, a group that runs ahead would take the fill before last of a stage, which has the
        // same phase parity, for the one it waits for.
        if (kConfig.k_groups == 1 || at.stage % kConfig.k_groups == k_group) {
          const Scales scales = read_scales<kAtoms>(shared.a_scales[strips_at.stage][block], shared.b_scales[strips_at.stage][block], shift);
          shared.ring.wait_filled(at);
          multiply_block<kAtoms, kConfig.tile_n>([&] { return scales; }, boundary);
        }
        at.advance();
      }
      shared.scale_ring.release_by_lane(strips_at);
      strips_at.advance();
    }
  }

  // One K block of the stage at hand: the group's first atoms by the tile's first columns. The wait for the first MMAs hides the latency of the scales. With
  // two atoms they are read when those have been issued, which then begin sooner; with one that measures slower.
  template <int kUsed, int kWidth, class Read>
  __device__ void multiply_block(Read read, int boundary) {
    if constexpr (kUsed == 0) {
      release();
      return;
    }
    const uint32_t a = at.stage * (kConfig.a_stage_bytes() / 16);
    const uint32_t b = at.stage * (kConfig.b_stage_bytes() / 16);
    Scales scales;
    if constexpr (kAtoms == 1) scales = read();
#pragma unroll
    for (int atom = 0; atom < kUsed; ++atom) {
      float part[kWidth / 2];
      tile::fence_accumulators(part);
      cute::warpgroup_arrive();
      tile::fp8_mma_k128<kWidth>(a0, a + atom * (kAtomRows * kTileK / 16), b0, b, part);
      cute::warpgroup_commit_batch();
      if constexpr (kAtoms > 1) {
        if (atom == 0) scales = read();
      }
      ColumnScales first_columns{};
      if constexpr (Op::kColumnScales) first_columns.read(scales.b_columns);
      tile::fence_accumulators(part);
      cute::warpgroup_wait<0>();
      tile::fence_accumulators(part);
      if (atom == kUsed - 1) release();
      if constexpr (Op::kColumnScales) {
        promote_columns(part, sum[atom], scales.a[atom], scales.b_columns, first_columns);
      } else {
        promote<kWidth>(part, sum[atom], scales.a[atom], scales.b, boundary);
      }
    }
  }

  // The tensor core keeps about 13 fraction bits of a sum; from here on sums are F32.
  template <int kWidth>
  static __device__ void promote(const float (&part)[kWidth / 2], float (&total)[kValues], const float (&a_scale)[2],
                                 const float (&b_scales)[kConfig.scale_rows()], int boundary) {
    // The boundary between scale rows is a multiple of this many columns.
    constexpr int kStep = std::gcd(kWidth, kTileK);
#pragma unroll
    for (int step = 0; step < kWidth; step += kStep) {
      float b_scale = b_scales[0];
#pragma unroll
      for (int i = 1; i < kConfig.scale_rows(); ++i) {
        // The first boundary is kStep to 128, so most columns' scale is known to the compiler.
        const int past = step - (i - 1) * kTileK;
        if (past >= kTileK || (past >= kStep && past >= boundary)) b_scale = b_scales[i];
      }
      const float scale[2] = {a_scale[0] * b_scale, a_scale[1] * b_scale};
#pragma unroll
      for (int i = step / 2; i < (step + kStep) / 2; ++i) total[i] = fmaf(part[i], scale[i / 2 % 2], total[i]);
    }
  }

  // Scales of this thread's first columns, read while the products are on their way. Volatile, so that the compiler does not move them behind the wait.
  struct ColumnScales {
    static constexpr int kCount = 4;  // pairs; with 8 registers run out
    float2 of[kCount];

    __device__ void read(const float* b_scales) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(of[i].x), "=f"(of[i].y) : "r"(cute::cast_smem_ptr_to_uint(b_scales + 8 * i)));
      }
    }
  };

  // The same with a scale for each column; `b_scales` is that of this thread's first. A's scale first: those products need none of B's, which are still coming.
  static __device__ void promote_columns(const float (&part)[kValues], float (&total)[kValues], const float (&a_scale)[2], const float* b_scales,
                                         const ColumnScales& first) {
#pragma unroll
    for (int i = 0; i < kValues; i += 4) {
      const float2 scales =
          i / 4 < ColumnScales::kCount ? first.of[i / 4 % ColumnScales::kCount] : *reinterpret_cast<const float2*>(b_scales + 2 * i);
      total[i] = fmaf(part[i] * a_scale[0], scales.x, total[i]);
      total[i + 1] = fmaf(part[i + 1] * a_scale[0], scales.y, total[i + 1]);
      total[i + 2] = fmaf(part[i + 2] * a_scale[1], scales.x, total[i + 2]);
      total[i + 3] = fmaf(part[i + 3] * a_scale[1], scales.y, total[i + 3]);
    }
  }

  __device__ void store(Tile tile) {
    cudaGridDependencySynchronize();  // the kernel ahead may still read what D replaces, or write C
    if constexpr (kConfig.k_groups > 1) {
      add_k_groups();
      if (k_group > 0) return;
    }
    if constexpr (kConfig.slices > 1) {
      store_slices(tile);
      return;
    }
    if constexpr (Op::kShares) {
      if (tile.begin > 0) {
        leave_sums();
        if constexpr (kClearsWhileStaging) clear_sums();
        return;
      }
      if (tile.end < params.k_blocks) add_shared_sums(tile);
    }
    if constexpr (Shared::kStagedF32) {
      if (params.c != nullptr && params.c != params.d_pointer) add_c(tile);
      store_staged_f32(tile);
      return;
    }
    if constexpr (Op::kAccumulates) {
      if (params.c != nullptr) add_c(tile);
    }
    if constexpr (Shared::kQuantized) {
      store_quantized(tile);
    } else if constexpr (Shared::kStaged) {
      store_staged(tile);
    } else {
      store_direct(tile);
    }
  }

  // Sums of K blocks that are not a tile's first, for the CTA that has those: read there by the same threads. One at a time: sums that leave 8 or 16 bytes
  // at a time are given registers of the same parity as the MMA's, and then every other promotion reads three registers of one bank.
  __device__ float* shared_sums(int cta) const {
    return params.shared_sums + int64_t{cta} * kConfig.tile_m * kConfig.tile_n + row_group * 128 + threadIdx.x % 128;
  }
  __device__ uint64_t* shared_ready(int cta) const { return params.shared_ready + cta * kConfig.row_groups() + row_group; }

  __device__ void leave_sums() const {
    float* place = shared_sums(static_cast<int>(blockIdx.x));
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) place[(atom * kValues + i) * Shared::kThreads] = sum[atom][i];
    }
    group_barrier();
    if (threadIdx.x % 128 == 0) {
      asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(shared_ready(static_cast<int>(blockIdx.x))), "l"(params.ready) : "memory");
    }
  }

  // Adds what other CTAs have of this tile, in the order of K.
  __device__ void add_shared_sums(Tile tile) {
    const auto last = static_cast<int>(gridDim.x) - 1;
    int sharer = last - static_cast<int>(blockIdx.x);
    int at = params.order.share_begin(sharer + 1);
    const int tile_end = at - tile.end + params.k_blocks;
    while (at < tile_end) {
      ++sharer;
      if (threadIdx.x % 128 == 0) {
        uint64_t* ready = shared_ready(last - sharer);
        uint64_t seen;
        do {
          asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(ready) : "memory");
        } while (seen != params.ready);
        *ready = 0;  // for the next launch, which writes when this one has ended
      }
      group_barrier();
      const float* place = shared_sums(last - sharer);
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[atom][i] += __ldcg(place + (atom * kValues + i) * Shared::kThreads);
      }
      at = params.order.share_begin(sharer + 1);
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

  // Every CTA of the cluster adds up a share of the tile over all slices, in the order of K, and stores it. The others' sums are sent to its shared memory, which
  // it leaves when all have come; what it sends goes to CTAs that wait for it. A cluster has one tile only.
  __device__ void store_slices(Tile tile) {
    constexpr int kShare = kConfig.slice_values();
    constexpr int kSent = Shared::kSent;
    const int thread = row_group * 128 + threadIdx.x % 128;
    const auto rank = static_cast<int>(cute::block_rank_in_cluster());
    cute::cluster_wait();  // for the barriers of the others, which were made at the start
    float own[kShare];
#pragma unroll
    for (int slice = 0; slice < kConfig.slices; ++slice) {
#pragma unroll
      for (int i = 0; i < kShare; i += kSent) {
        const float* values = sum[0] + slice * kShare + i;
        if (slice == rank) {
#pragma unroll
          for (int j = 0; j < kSent; ++j) own[i + j] = values[j];
        } else {
          send(values, shared.sent[rank][i / kSent][thread], slice);
        }
      }
    }
    shared.all_sent.wait(0);
#pragma unroll
    for (int i = 0; i < kShare; i += 2) {
      float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int slice = 0; slice < kConfig.slices; ++slice) {
        const float2 theirs = *reinterpret_cast<const float2*>(shared.sent[slice][i / kSent][thread] + i % kSent);
        total.x += slice == rank ? own[i] : theirs.x;
        total.y += slice == rank ? own[i + 1] : theirs.y;
      }
      const int value = rank * kShare + i;
      const int r = tile.row + row_group * 64 + row + value / 2 % 2 * 8;
      const int c = tile.col + value / 4 * 8 + col;
      if (r < Op::row_end(params, tile) && c < params.n) store_pair(r, c, total);
    }
  }

  // To the same place in the shared memory of another CTA of the cluster, which counts the bytes.
  __device__ void send(const float* values, float* place, int rank) const {
    const uint32_t target = cute::set_block_rank(cute::cast_smem_ptr_to_uint(place), rank);
    const uint32_t barrier = cute::set_block_rank(cute::cast_smem_ptr_to_uint(&shared.all_sent), rank);
    if constexpr (Shared::kSent == 4) {
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(target), "f"(values[0]),
                   "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(barrier)
                   : "memory");
    } else {
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(target), "f"(values[0]), "f"(values[1]),
                   "r"(barrier)
                   : "memory");
    }
  }

  __device__ void store_pair(int r, int c, float2 value) const {
    if (params.c != nullptr) {
      const float2 old = load_pair(static_cast<const Out*>(params.c) + r * params.c_ld + c);
      value.x += old.x, value.y += old.y;
    }
    write_pair(static_cast<Out*>(params.d_pointer) + r * params.d_ld + c, value);
  }

  // The column behind the tile's last in D.
  __device__ int col_end(Tile tile) const { return Op::is_narrow(tile) ? min(tile.col + Op::kNarrowCols, params.n) : params.n; }

  // Calls visit(row, col, first value, second value) for each pair of this thread that lies inside D.
  template <class Visit>
  __device__ void for_each_pair(Tile tile, Visit visit) {
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int i = 0; i < kValues; i += 2) {
        const int r = atom_row(tile, atom) + row + i / 2 % 2 * 8;
        const int c = tile.col + i / 4 * 8 + col;
        if (r < Op::row_end(params, tile) && c < col_end(tile)) visit(r, c, sum[atom][i], sum[atom][i + 1]);
      }
    }
  }

  // C may be D: each element is read by the thread that holds it, before this tile's stores.
  __device__ void add_c(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) {
      const float2 old = load_pair(static_cast<const Out*>(params.c) + Op::c_plane(params, tile) + r * params.c_ld + c);
      first += old.x, second += old.y;
    });
  }

  __device__ void store_direct(Tile tile) {
    for_each_pair(tile, [&](int r, int c, float& first, float& second) { write_pair(d_row(tile, r) + c, make_float2(first, second)); });
  }

  __device__ void group_barrier() const { cutlass::arch::NamedBarrier::sync(128, row_group); }

  // Through shared memory to TMA: full lines, and rows and columns past D are clipped.
  __device__ void store_staged(Tile tile) {
    constexpr int kBoxes = kConfig.tile_n / kConfig.store_cols();
    const bool issuer = threadIdx.x % 128 == 0;
    uint8_t* area = shared.d + row_group * kAtoms * kBoxes * Staged::kBoxBytes;
    if (issuer) cute::tma_store_wait<0>();  // the copies of the tile before read it
    group_barrier();
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) Staged::stage(sum[atom], area + atom * kBoxes * Staged::kBoxBytes);
    if constexpr (kClearsWhileStaging) {
      clear_sums();
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) tile::fence_accumulators(sum[atom]);
    }
    cute::tma_store_fence();  // the copy engine must see these ordinary stores
    group_barrier();
    const int row_end = Op::row_end(params, tile);
    // Between two tiles code is cold, and each instruction takes several clocks: whole boxes come first.
    if (issuer) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
        const int r = atom_row(tile, atom);
        if (Op::kRagged && r + 64 > row_end) [[unlikely]] {
          if constexpr (kStoresParts) {
            if (r < row_end) store_part(area + atom * kBoxes * Staged::kBoxBytes, tile, r);
          }
          continue;
        }
#pragma unroll
        for (int box = 0; box < kBoxes; ++box) {
          if (Op::kNarrowCols > 0 && box * kConfig.store_cols() >= Op::kNarrowCols && Op::is_narrow(tile)) break;
          Op::store_box(params, area + (atom * kBoxes + box) * Staged::kBoxBytes, tile, r, tile.col + box * kConfig.store_cols());
        }
      }
      cute::tma_store_arrive();
    }
    if constexpr (Op::kRagged && !kStoresParts) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
        const int r = atom_row(tile, atom);
        if (r >= row_end || r + 64 <= row_end) continue;
        Staged::template copy_rows<kConfig.tile_n>(area + atom * kBoxes * Staged::kBoxBytes, row_end - r, col_end(tile) - tile.col,
                                                   d_row(tile, r) + tile.col, params.d_ld);
      }
    }
  }

  // The first rows of an atom, fewer than 64: the next group's follow. Two copies of a power of two of rows, of which those in the middle leave twice.
  __device__ void store_part(const uint8_t* boxes, Tile tile, int first) const {
    const int rows = Op::row_end(params, tile) - first;
    const int log2 = 31 - __clz(rows);
    const int second = rows - (1 << log2);
#pragma unroll
    for (int box = 0; box < kConfig.tile_n / kConfig.store_cols(); ++box, boxes += Staged::kBoxBytes) {
      const int c = tile.col + box * kConfig.store_cols();
      if (c >= col_end(tile)) break;
      Op::store_rows(params, log2, boxes, tile, first, c);
      Op::store_rows(params, log2, boxes + second * Staged::kRowBytes, tile, first + second, c);
    }
  }

  // The same for E4M3: a row's block of 128 columns is in the hands of four lanes, who make its scale.
  __device__ void store_quantized(Tile tile) {
    constexpr int kAtomBytes = 64 * kTileK;
    const bool issuer = threadIdx.x % 128 == 0;
    if (issuer) cute::tma_store_wait<0>();  // the previous tile's copies still read the staging area
    group_barrier();
    uint8_t* area = shared.d + row_group * kAtoms * kAtomBytes;
    const int row_end = Op::row_end(params, tile);
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // rows `row` and `row` + 8
        float largest = 0.0f;
#pragma unroll
        for (int i = 2 * half; i < kValues; i += 4) largest = fmaxf(largest, fmaxf(fabsf(sum[atom][i]), fabsf(sum[atom][i + 1])));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        const float scale = tile::block_scale(largest, params.d_power_of_two != 0);
        const int r = atom_row(tile, atom) + row + 8 * half;
        if (threadIdx.x % 4 == 0 && r < row_end) params.d_scales[tile.col / kTileK * params.d_scales_ld + r] = scale;
        const tile::Divider by = tile::Divider::of(scale);
        // The lanes of a warp write to 8 rows, whose 16-byte chunks the swizzle spreads over all banks.
        uint8_t* target = area + atom * kAtomBytes + (row + 8 * half) * kTileK;
        const int swizzle = (row & 7) << 4;
#pragma unroll
        for (int i = 2 * half; i < kValues; i += 4) {
          *reinterpret_cast<uint16_t*>(target + (i / 4 * 8 + col ^ swizzle)) =
              static_cast<uint16_t>(tile::to_e4m3(by(sum[atom][i]), by(sum[atom][i + 1])));
        }
      }
    }
    cute::tma_store_fence();  // the copy engine must see these ordinary stores
    group_barrier();
    if (issuer) {
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
        const int r = atom_row(tile, atom);
        if (r < row_end) Op::store_box(params, area + atom * kAtomBytes, tile, r, tile.col);
      }
      cute::tma_store_arrive();
    }
  }

  // The same for F32, 64 rows at a time. Where C is D, the copy engine adds: each element once, so results stay deterministic.
  __device__ void store_staged_f32(Tile tile) {
    constexpr int kBoxCols = 32;  // 128 bytes
    constexpr int kBoxBytes = 64 * 128;
    const bool issuer = threadIdx.x % 128 == 0;
    constexpr int kTurnCols = kConfig.f32_staged_cols();
    uint8_t* area = shared.d + row_group * (kTurnCols / kBoxCols) * kBoxBytes;
#pragma unroll
    for (int turn = 0; turn < kAtoms * (kConfig.tile_n / kTurnCols); ++turn) {
      const int atom = turn % kAtoms;
      const int first_col = turn / kAtoms * kTurnCols;
      if (issuer) cute::tma_store_wait<0>();  // the copies before still read the staging area
      group_barrier();
#pragma unroll
      for (int i = first_col / 2; i < (first_col + kTurnCols) / 2; i += 2) {
        const int r = row + i / 2 % 2 * 8;
        const int c = i / 4 * 8 + col - first_col;
        const uint32_t inside = r * 128 + c % kBoxCols * 4;
        const uint32_t swizzled = inside ^ ((inside >> 7 & 7) << 4);
        *reinterpret_cast<float2*>(area + c / kBoxCols * kBoxBytes + swizzled) = make_float2(sum[atom][i], sum[atom][i + 1]);
      }
      cute::tma_store_fence();  // the copy engine must see these ordinary stores
      group_barrier();
      if (issuer) {
        const int r = atom_row(tile, atom);
#pragma unroll
        for (int box = 0; box < kTurnCols / kBoxCols; ++box) {
          const int c = tile.col + first_col + box * kBoxCols;
          if (r < Op::row_end(params, tile) && c < params.n) Op::store_box(params, area + box * kBoxBytes, tile, r, c);
        }
        cute::tma_store_arrive();
      }
    }
  }

  __device__ Out* d_row(Tile tile, int r) const { return static_cast<Out*>(params.d_pointer) + Op::plane(params, tile) + r * params.d_ld; }
};

template <Config kConfig, class Shared>
__device__ constexpr void check_config() {
  static_assert(sizeof(Shared) <= kSharedMemoryPerBlock, "stages, staging tile and partial sums must fit the shared memory of a CTA");
  static_assert(kConfig.tile_m % 64 == 0 && kConfig.tile_m <= 256, "a math group holds 64 or 128 rows");
  static_assert(kConfig.tile_m <= 128 || (kConfig.k_groups == 1 && kConfig.slices == 1), "a math group that shares its K holds 64 rows");
  static_assert(kConfig.stages % kConfig.k_groups == 0, "a stage is always of the same K group");
  static_assert(kConfig.tile_n % 16 == 0, "stmatrix stores 16 columns at a time");
  static_assert(kConfig.slices * kConfig.multicast <= 8, "a cluster has at most 8 CTAs");
  static_assert(kConfig.slices == 1 || (kConfig.multicast == 1 && kConfig.slice_values() % 2 == 0 && kConfig.tile_n / 2 % kConfig.slices == 0),
                "slices share a tile's pairs of columns evenly");
  static_assert(!Shared::kQuantized || kConfig.quantizes(), "a CTA must hold whole blocks of 128 columns");
}

// The kernel's body: sets the barriers up and splits the roles.
template <class Op, class... Descriptors>
__device__ void run_roles(const typename Op::Params& params, typename Op::Shared& shared, const Descriptors*... descriptors) {
  constexpr Config kConfig = Op::kConfig;
  // By a warp that has nothing else to do, while the others look up their first tile.
  if (threadIdx.x == 96) {
    (cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(descriptors)), ...);
    shared.ring.init(4 * kConfig.row_groups() * kConfig.multicast, 2);
    if constexpr (kConfig.strips()) shared.scale_ring.init(128 * kConfig.math_groups(), 32);
    if constexpr (Op::kFed) shared.feed.ring.init(32 * Producer<Op>::kWarps + 128 * kConfig.math_groups());
    if constexpr (kConfig.slices > 1) {
      shared.all_sent.init(1);
      shared.all_sent.arrive_and_expect_tx(sizeof shared.sent / kConfig.slices * (kConfig.slices - 1));
    }
    cutlass::arch::fence_barrier_init();
  }
  const auto split = [&](auto walk) {
    const int group = cutlass::canonical_warp_group_idx();
    if (group == 0) {
      // The math groups need what the loading group does not use.
      if constexpr (Op::kConfig.moves_registers()) cutlass::arch::warpgroup_reg_dealloc<kConfig.loading_registers()>();
      const int warp = static_cast<int>(threadIdx.x) / 32;
      if (warp < Producer<Op>::kWarps) Producer<Op>(params, shared).run(walk());
      if constexpr (Op::kFed) {
        if (warp == Producer<Op>::kWarps) feed_tiles<Op>(OwnWalk<Op>(Op::scheduler(params, shared)), shared);
      }
    } else {
      if constexpr (Op::kConfig.moves_registers()) cutlass::arch::warpgroup_reg_alloc<kConfig.math_registers()>();
      Consumer<Op>(params, shared, group - 1, walk()).run();
      if constexpr (Op::kConfig.multicast > 1) {
        cute::cluster_arrive();  // other CTAs of the cluster still count on this one's barriers
        cute::cluster_wait();
      }
    }
  };
  const auto publish = [] {
    if constexpr (Op::kConfig.multicast > 1) {
      cute::cluster_arrive();
      cute::cluster_wait();
    } else {
      __syncthreads();
      if constexpr (Op::kConfig.slices > 1) cute::cluster_arrive();  // waited for where it matters
    }
  };
  if constexpr (Op::kFed) {
    publish();
    split([&] { return FedWalk<Op>(shared); });
  } else {
    const OwnWalk<Op> walk(Op::scheduler(params, shared));
    publish();
    split([&] { return walk; });
  }
}

}  // namespace h4j::gemm
