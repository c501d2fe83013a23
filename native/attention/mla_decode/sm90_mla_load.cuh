// How cached tokens reach the shared memory of MLA decode: shared storage, the walk over a part's stretches, and the loading warp groups.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/memory_sm80.h>
#include <cutlass/cutlass.h>
#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include <cuda_bf16.h>

#include "attention/mla_decode/mla_decode_layout.h"

namespace h4j::mla {

using FilledBarrier = cutlass::arch::ClusterTransactionBarrier;
using FreeBarrier = cutlass::arch::ClusterBarrier;

// One request's stretch of blocks, as a part of the schedule sees it.
struct Segment {
  int request;
  int length;
  int tokens;       // of the query
  int first_block;  // absolute
  int blocks;
};

// Where the math groups meet with all that they wrote and read, other than in every block. An arrival a thread, where a named barrier would do: racecheck sees
// through this form only.
class MeetingPoint {
 public:
  __device__ void init(int threads) { barrier_.init(threads); }
  // The phase is the caller's, and all threads have the same.
  __device__ void meet(uint32_t& phase) {
    barrier_.arrive();
    barrier_.wait(phase);
    phase ^= 1;
  }

 private:
  FreeBarrier barrier_;
};

struct SharedStorage {
  alignas(1024) uint8_t q[kChunks][kChunkBytes];  // [chunk][64 rows, 64 dims], 128-byte swizzle
  // [buffer][chunk][64 tokens, 64 dims], or [buffer][8][chunk][8 tokens, 64 dims]; the last chunk is overwritten by P [64 rows, 64 tokens]
  alignas(1024) uint8_t k[2][kChunks * kChunkBytes];
  float maximum[2][kRows];  // of rows after a group's softmax, base 2
  float rescale[2][kRows];  // exp2(old maximum - new maximum)
  float sum[2][2][kRows];   // [turn][group]: of a group's probabilities, at the end of a segment
  MeetingPoint sums_ready;
  FilledBarrier q_filled;
  FreeBarrier q_free;
  FilledBarrier k_filled[2][kChunks];  // of what arrives together, by its first chunk
  FreeBarrier k_free[2][kFreeParts];
};

__device__ inline const int4* part_entry(const Params& params, int part) {
  return reinterpret_cast<const int4*>(params.schedule + params.layout.parts_at()) + 2 * part;
}

__device__ inline void prefetch_part(const Params& params) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(part_entry(params, static_cast<int>(blockIdx.x) / params.row_tiles)));
}

// Whether threads fetch this CTA's tokens, into places of boxes. The same for all threads.
template <Source kSource>
__device__ bool by_threads(const Params& params) {
  if constexpr (kSource != Source::kTokenBoxes) return false;
  return 1 << params.page_shift < kTokenBox || (part_entry(params, static_cast<int>(blockIdx.x) / params.row_tiles)->w & kLong) != 0;
}

// The segments of this CTA's part, in the same order for every warp.
class SegmentWalk {
 public:
  __device__ explicit SegmentWalk(const Params& params) : params_(params), request_(entry()->x) {}
  // Requests without work for this row tile are passed over.
  __device__ bool next(Segment& segment) {
    const int4 range = *entry();
    const int first_row = static_cast<int>(blockIdx.x) % params_.row_tiles * kRows;
    for (; request_ <= range.y; ++request_) {
      segment.request = request_;
      if (request_ == range.x) {
        const int4 stretch = entry()[1];
        segment.length = stretch.x;
        segment.tokens = stretch.y;
        segment.first_block = stretch.z;
        segment.blocks = stretch.w;
      } else {
        segment.tokens = params_.q_tokens != nullptr ? min(max(params_.q_tokens[request_], 0), params_.s_q) : params_.s_q;
        segment.length = min(max(params_.lengths[request_], 0), params_.max_length);
        const BlockRange blocks =
            segment.tokens > 0 ? block_range(segment.length, segment.tokens, params_.window, params_.max_length) : BlockRange{0, 0};
        segment.first_block = blocks.first;
        segment.blocks = request_ == range.y ? min(range.z, blocks.count) : blocks.count;
      }
      if (segment.blocks <= 0 || first_row >= segment.tokens * params_.heads) continue;
      ++request_;
      return true;
    }
    return false;
  }

  // Number of the partial result of a segment, -1 where its request is in one piece.
  __device__ int split(const Segment& segment) const {
    const int4 range = *entry();
    if (segment.request == range.x) return (range.w & kFirstCut) != 0 ? 2 * part() : -1;
    return segment.request == range.y && (range.w & kLastCut) != 0 ? 2 * part() + 1 : -1;
  }

 private:
  __device__ int part() const { return static_cast<int>(blockIdx.x) / params_.row_tiles; }
  __device__ const int4* entry() const { return part_entry(params_, part()); }

  const Params& params_;
  int request_;
};

// What the block table has for a token. Only pages that hold tokens are asked for: a block table is not defined behind the length.
__device__ inline int table_entry(const Params& params, const Segment& segment, int token) {
  return __ldg(params.block_table + segment.request * params.block_table_ld + (token >> params.page_shift));
}

// The page of `count` tokens from one on, -1 where it lies outside the cache.
__device__ inline int checked_page(const Params& params, const Segment& segment, int token, int count, int page) {
  if (static_cast<unsigned>(page) < static_cast<unsigned>(params.pages)) return page;
  // The first bad one of the step, whatever the order of the CTAs; the merging kernel reports it. Pages that the window has left may be gone.
  if (params.window == 0 || token + count > segment.length - (segment.tokens - 1) - params.window) {
    atomicMin(reinterpret_cast<unsigned long long*>(params.schedule + kBadPageAt),
              static_cast<unsigned long long>(segment.request) << 32 | token >> params.page_shift);
  }
  return -1;
}

// 2^x for arguments that are not tiny; denormal results are 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// How the L2 keeps tokens. With one row tile nobody reads them again: the first to go then, so that they do not drive out what others will read, nor
// have it written back on their way.
__device__ inline uint64_t token_hint(const Params& params) {
  return static_cast<uint64_t>(params.row_tiles == 1 ? cute::TMA::CacheHintSm90::EVICT_FIRST : cute::TMA::CacheHintSm90::EVICT_NORMAL);
}

// What the loading warp groups of BF16 tokens have in common.
class LoaderBase {
 public:
  __device__ LoaderBase(const Params& params, SharedStorage& shared) : params_(params), shared_(shared) {}

 protected:
  // Every block of the part, by `load_block(segment, block, buffer)`; `look_up(segment, block)` asks the block table, a block or two ahead of the copies: its
  // answer may come from memory, and copies that wait for it come as much later. `prepare(segment, block)` takes it for the first block of a segment.
  template <class LookUp, class Prepare, class LoadBlock>
  __device__ void walk(const LookUp& look_up, const Prepare& prepare, const LoadBlock& load_block) {
    SegmentWalk segments(params_);
    Segment segment;
    while (segments.next(segment)) {
      look_up(segment, segment.first_block);
      if (threadIdx.x < 32) load_q(segment.request);
      prepare(segment, segment.first_block);
      for (int block = 0; block < segment.blocks; ++block) load_block(segment, segment.first_block + block, block % 2);
    }
  }

  static constexpr uint64_t kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);

  __device__ void load_q(int request) {
    shared_.q_free.wait(q_phase_ ^ 1);
    q_phase_ ^= 1;
    if (threadIdx.x == 0) {
      const int row = static_cast<int>(blockIdx.x) % params_.row_tiles * kRows;
      shared_.q_filled.arrive_and_expect_tx(kChunks * kChunkBytes);
      cute::SM90_TMA_LOAD_4D::copy(&params_.q, reinterpret_cast<uint64_t*>(&shared_.q_filled), kHint, shared_.q[0], 0, row, 0, request);
    }
  }

  // The parts of a buffer in turn, where it is given back in parts.
  __device__ void wait_free(int buffer, int part) const { shared_.k_free[buffer][part].wait((k_phases_ >> buffer & 1) ^ 1); }
  __device__ void next_turn(int buffer) { k_phases_ ^= 1 << buffer; }

  const Params& params_;
  SharedStorage& shared_;
  uint32_t q_phase_ = 0;
  uint32_t k_phases_ = 0;  // a bit a buffer: an array would keep the whole object out of registers
};

// --- BF16 pages by TMA -------------------------------------------------------------------------------------------------------------------------

// By all four warps: one warp issues a copy every 34 ns, whatever its size, which small pages would feel.
template <Source kSource>
class BoxLoader : LoaderBase {
 public:
  static constexpr int kLoadRegisters = 40;
  static constexpr int kMathRegisters = 232;
  // Where threads may fetch instead, as many as they arrive: the barriers are made before the schedule has answered.
  static constexpr int kFilledArrivals = kSource == Source::kTokenBoxes ? 128 : 1;
  __device__ BoxLoader(const Params& params, SharedStorage& shared) : LoaderBase(params, shared), hint_(token_hint(params)) {}

  __device__ void run() {
    walk([this](const Segment& segment, int block) { look_up(segment, block); },
         [this](const Segment& segment, int block) { prepare(segment, block); },
         [this](const Segment& segment, int block, int buffer) { load_block(segment, block, buffer); });
  }

 private:
  static constexpr int kWarps = 4;

  __device__ static void arrive_for_others(FilledBarrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(cute::cast_smem_ptr_to_uint(&barrier)), "n"(kFilledArrivals - 1) : "memory");
  }

  // A warp's boxes are every fourth, one a lane.
  __device__ static int own_box() { return static_cast<int>(threadIdx.x / 32 + kWarps * (threadIdx.x % 32)); }
  static constexpr int kBoxShift = kSource == Source::kBoxes ? 6 : 3;  // log2 of a box's tokens
  static_assert(1 << kBoxShift == (kSource == Source::kBoxes ? kBlock : kTokenBox));

  __device__ void look_up(const Segment& segment, int block) {
    const int token = block * kBlock + (own_box() << kBoxShift);
    if (own_box() << kBoxShift < kBlock && token < segment.length) entry_ = table_entry(params_, segment, token);
  }

  // Where the block's boxes come from, and the block table's answer for the next. Page numbers outside the cache read as zeros.
  __device__ void prepare(const Segment& segment, int block) {
    const int first_token = block * kBlock;
    boxes_ = (min(segment.length - first_token, kBlock) + (1 << kBoxShift) - 1) >> kBoxShift;
    const int token = first_token + (own_box() << kBoxShift);
    page_ = own_box() < boxes_ ? checked_page(params_, segment, token, 1 << kBoxShift, entry_) : 0;
    row_ = token & ((1 << params_.page_shift) - 1);
    look_up(segment, block + 1);
  }

  // All that could be done before the place is free has been done: a place that is free waits for nothing but the copy.
  __device__ void load_block(const Segment& segment, int block, int buffer) {
    const int boxes = boxes_;
    const int page = page_;
    const int row = row_;
    const auto fetch = [&](const CUtensorMap& map, int begin, int chunks) {
      auto& barrier = shared_.k_filled[buffer][begin];
      // Copies of other warps may already have ended: the barrier waits for this arrival too.
      if (threadIdx.x == 0) {
        barrier.arrive_and_expect_tx(chunks * boxes * 128 << kBoxShift);
        if constexpr (kFilledArrivals > 1) arrive_for_others(barrier);
      }
      if (own_box() >= boxes) return;
      uint8_t* target = shared_.k[buffer] + own_box() * token_group_stride(kSource) + begin * chunk_stride(kSource);
      cute::SM90_TMA_LOAD_4D::copy(&map, reinterpret_cast<uint64_t*>(&barrier), hint_, target, 0, row, begin, page);
    };
    if constexpr (by_parts(kSource)) {
#pragma unroll
      for (int turn = 0; turn < kFreeParts; ++turn) {
        const int part = part_in_turn(buffer, turn);
        wait_free(buffer, part);
        constexpr int kHalf = kValueChunks / kRopePart;
        if (turn < kRopePart) {
          fetch(params_.cache, part * kHalf, kHalf);
        } else {
          fetch(params_.cache_chunk, kValueChunks, 1);
        }
        if (turn == 0) prepare(segment, block + 1);  // the next part is not free yet
      }
    } else {
      wait_free(buffer, kAllParts);
      fetch(params_.cache, 0, kChunks);
      prepare(segment, block + 1);
    }
    next_turn(buffer);
  }

  const uint64_t hint_;
  int entry_ = 0;  // of the block table, of this lane's box of the block after the one prepared
  int boxes_ = 0;  // of the block prepared, and this lane's page and row of it
  int page_ = 0;
  int row_ = 0;
};

// --- BF16 tokens by threads --------------------------------------------------------------------------------------------------------------------

// For long parts with one row tile, and for pages of a few tokens there: 16 bytes a thread and copy.
class TokenLoader : LoaderBase {
 public:
  static constexpr int kFilledArrivals = 128;
  __device__ TokenLoader(const Params& params, SharedStorage& shared) : LoaderBase(params, shared) {}

  __device__ void run() {
    walk([this](const Segment& segment, int block) { look_up(segment, block); }, [](const Segment&, int) {},
         [this](const Segment& segment, int block, int buffer) { load_block(segment, block, buffer); });
  }

 private:
  static constexpr Source kSource = Source::kTokenBoxes;
  static constexpr int kRounds = kBlock / 16;  // 16 tokens at a time, 8 threads each

  __device__ void look_up(const Segment& segment, int block) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int token = block * kBlock + round * 16 + static_cast<int>(threadIdx.x / 8);
      if (token < segment.length) entries_[round] = table_entry(params_, segment, token);
    }
  }

  __device__ void load_block(const Segment& segment, int block, int buffer) {
    const int unit = threadIdx.x % 8;  // of 16 bytes in a chunk's row
    const int first = threadIdx.x / 8;
    const uint8_t* source[kRounds];
    bool there[kRounds];  // not behind the length nor on no page, which read as zeros
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int token = block * kBlock + round * 16 + first;
      const int page = token < segment.length ? checked_page(params_, segment, token, 1, entries_[round]) : -1;
      const int slot = token & ((1 << params_.page_shift) - 1);
      there[round] = page >= 0;
      source[round] = params_.tokens + (page < 0 ? 0 : page * params_.page_bytes + slot * params_.token_bytes) + unit * 16;
    }
    look_up(segment, block + 1);
    const unsigned in_group = threadIdx.x / 8 % kTokenBox;
    uint8_t* const target = shared_.k[buffer] + threadIdx.x / 64 * token_group_stride(kSource) + in_group * 128 + (threadIdx.x % 8 ^ in_group) * 16;
    wait_free(buffer, kAllParts);
    next_turn(buffer);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        cutlass::arch::cp_async_zfill<16, cutlass::arch::CacheOperation::Global>(
            target + round * (16 / kTokenBox * token_group_stride(kSource)) + chunk * chunk_stride(kSource), source[round] + chunk * 128,
            there[round]);
      }
    }
    cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&shared_.k_filled[buffer][0]));
  }

  int entries_[kRounds] = {};  // of the block table, of this thread's tokens of the next block
};

// --- One row tile ------------------------------------------------------------------------------------------------------------------------------

// Boxes of whole tokens, or threads into the same places.
class PartLoader {
 public:
  static constexpr int kLoadRegisters = 40;
  static constexpr int kMathRegisters = 232;
  static constexpr int kFilledArrivals = BoxLoader<Source::kTokenBoxes>::kFilledArrivals;
  static_assert(kFilledArrivals == TokenLoader::kFilledArrivals, "either arrives at the same barriers");
  __device__ PartLoader(const Params& params, SharedStorage& shared) : params_(params), shared_(shared) {}

  __device__ void run() {
    if (by_threads<Source::kTokenBoxes>(params_)) {
      TokenLoader(params_, shared_).run();
    } else {
      BoxLoader<Source::kTokenBoxes>(params_, shared_).run();
    }
  }

 private:
  const Params& params_;
  SharedStorage& shared_;
};

// --- Small pages, several row tiles ------------------------------------------------------------------------------------------------------------

// Pages of a few tokens, where a box is a row or some and the TMA unit would be the limit. A warp has half of a buffer, by itself: it waits for what it asked
// for and makes it visible to the tensor core, which the math groups would otherwise have to wait for. The rope chunk comes free with the half that is the last
// to, and is wanted behind it, so that half's warp fetches it too.
class SmallPageLoader : LoaderBase {
 public:
  static constexpr int kLoadRegisters = 88;
  static constexpr int kMathRegisters = 208;
  static constexpr int kFilledArrivals = 32;
  __device__ SmallPageLoader(const Params& params, SharedStorage& shared)
      : LoaderBase(params, shared), buffer_(static_cast<int>(threadIdx.x) / 64), turn_(static_cast<int>(threadIdx.x) / 32 % 2) {}

  __device__ void run() {
    walk([this](const Segment& segment, int block) { look_up(segment, block + buffer_); }, [](const Segment&, int) {},
         [this](const Segment& segment, int block, int buffer) {
           if (buffer == buffer_) load_block(segment, block);
         });
  }

 private:
  static constexpr int kTokens = 4;  // of a round, 8 lanes each
  static constexpr int kRounds = kBlock / kTokens;

  __device__ static int token_of(int block, int round) { return block * kBlock + round * kTokens + static_cast<int>(threadIdx.x % 32 / 8); }

  __device__ void look_up(const Segment& segment, int block) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int token = token_of(block, round);
      if (token < segment.length) entries_[round] = table_entry(params_, segment, token);
    }
  }

  // When all but the last so many batches of copies are there.
  template <int kLeft>
  __device__ void tell(int chunk) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
    cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary writes brought
    shared_.k_filled[buffer_][chunk].arrive();
  }

  __device__ static void copy(uint8_t* target, const uint8_t* source, bool there) {
    cutlass::arch::cp_async_zfill<16, cutlass::arch::CacheOperation::Global>(target, source, there);
  }

  __device__ void load_block(const Segment& segment, int block) {
    const uint8_t* source[kRounds];
    uint32_t there = 0;                // a bit a round: not behind the length nor on no page, which read as zeros
    const int unit = threadIdx.x % 8;  // of 16 bytes in a chunk's row
    const int part = part_in_turn(buffer_, turn_);
    const int chunk = part_begin(part);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int token = token_of(block, round);
      const int page = token < segment.length ? checked_page(params_, segment, token, 1, entries_[round]) : -1;
      const int slot = token & ((1 << params_.page_shift) - 1);
      there |= page >= 0 ? 1u << round : 0u;
      source[round] = params_.tokens + (page < 0 ? 0 : page * params_.page_bytes + slot * params_.token_bytes) + chunk * 128 + unit * 16;
    }
    const int row = threadIdx.x % 32 / 8;
    uint8_t* const even = shared_.k[buffer_] + chunk * kChunkBytes + row * 128 + (unit ^ row) * 16;
    // The other half of eight rows, whose swizzle differs in one bit.
    uint8_t* const odd = even + kTokens * 128 + ((unit ^ row ^ kTokens) - (unit ^ row)) * 16;
    const auto target = [&](int round) { return (round % 2 == 0 ? even : odd) + round / 2 * 1024; };
    wait_free(buffer_, part);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
#pragma unroll
      for (int i = 0; i < kValueChunks / 2; ++i) copy(target(round) + i * kChunkBytes, source[round] + i * 128, (there >> round & 1) != 0);
    }
    cutlass::arch::cp_async_fence();
    if (turn_ == 1) {
      const int rope = kValueChunks - chunk;
      wait_free(buffer_, kRopePart);
#pragma unroll
      for (int round = 0; round < kRounds; ++round) copy(target(round) + rope * kChunkBytes, source[round] + rope * 128, (there >> round & 1) != 0);
      cutlass::arch::cp_async_fence();
    }
    next_turn(buffer_);
    look_up(segment, block + 2);
    if (turn_ == 1) {
      tell<1>(chunk);
      tell<0>(kValueChunks);
    } else {
      tell<0>(chunk);
    }
  }

  const int buffer_;
  const int turn_;             // of its half among those of a buffer
  int entries_[kRounds] = {};  // of the block table, of this lane's tokens of the buffer's next block
};

}  // namespace h4j::mla
