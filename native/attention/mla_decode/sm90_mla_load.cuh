// How cached tokens reach the shared memory of MLA decode: shared storage, the walk over a part's stretches, and the loading warp groups.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/memory_sm80.h>
#include <cutlass/cutlass.h>
#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

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

struct SharedStorage {
  alignas(1024) uint8_t q[kChunks][kChunkBytes];     // [chunk][64 rows, 64 dims], 128-byte swizzle
  alignas(1024) uint8_t k[2][kChunks][kChunkBytes];  // [buffer][chunk][64 tokens, 64 dims]; the last chunk is overwritten by P [64 rows, 64 tokens]
  float maximum[2][kRows];                           // of rows after a group's softmax, base 2
  float rescale[2][kRows];                           // exp2(old maximum - new maximum)
  float sum[2][kRows];                               // of a group's probabilities, at the end
  struct {
    Segment segment;
    int block;    // of the segment
    int request;  // of the walk
  } ahead[4];     // where each dequantising warp is, kept here for want of registers
  FilledBarrier q_filled;
  FreeBarrier q_free;
  FilledBarrier k_filled[2][kBarriersPerBlock];
  FreeBarrier k_free[2];
};

// The segments of this CTA's part, in the same order for every warp.
class SegmentWalk {
 public:
  __device__ explicit SegmentWalk(const Params& params) : params_(params), request_(entry()->x) {}
  // Goes on where another walk was.
  __device__ SegmentWalk(const Params& params, int request) : params_(params), request_(request) {}

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

  __device__ int request() const { return request_; }

  // Number of the partial result of a segment, -1 where its request is in one piece.
  __device__ int split(const Segment& segment) const {
    const int4 range = *entry();
    if (segment.request == range.x) return (range.w & kFirstCut) != 0 ? 2 * part() : -1;
    return segment.request == range.y && (range.w & kLastCut) != 0 ? 2 * part() + 1 : -1;
  }

 private:
  __device__ int part() const { return static_cast<int>(blockIdx.x) / params_.row_tiles; }
  __device__ const int4* entry() const { return reinterpret_cast<const int4*>(params_.schedule + params_.layout.parts_at()) + 2 * part(); }

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

__device__ inline int page_of(const Params& params, const Segment& segment, int token, int count = 1) {
  return checked_page(params, segment, token, count, table_entry(params, segment, token));
}

// What the loading warp groups have in common.
class LoaderBase {
 public:
  __device__ LoaderBase(const Params& params, SharedStorage& shared) : params_(params), shared_(shared) {}

 protected:
  static constexpr uint64_t kHint = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL);

  __device__ void load_q(int request) {
    shared_.q_free.wait(q_phase_ ^ 1);
    q_phase_ ^= 1;
    if (threadIdx.x == 0) {
      const int row = static_cast<int>(blockIdx.x) % params_.row_tiles * kRows;
      shared_.q_filled.arrive_and_expect_tx(kChunks * kChunkBytes);
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        cute::SM90_TMA_LOAD_3D::copy(&params_.q, reinterpret_cast<uint64_t*>(&shared_.q_filled), kHint, shared_.q[chunk], chunk * kChunk, row,
                                     request);
      }
    }
  }

  __device__ void wait_free(int buffer) {
    shared_.k_free[buffer].wait((k_phases_ >> buffer & 1) ^ 1);
    k_phases_ ^= 1 << buffer;
  }

  const Params& params_;
  SharedStorage& shared_;
  uint32_t q_phase_ = 0;
  uint32_t k_phases_ = 0;  // a bit a buffer: an array would keep the whole object out of registers
};

// --- BF16 pages by TMA -------------------------------------------------------------------------------------------------------------------------

// By all four warps: one warp issues a copy every 34 ns, whatever its size, which small pages would feel.
class BoxLoader : LoaderBase {
 public:
  static constexpr int kLoadRegisters = 40;
  static constexpr int kMathRegisters = 232;
  static constexpr int kFilledArrivals = 1;
  using LoaderBase::LoaderBase;

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    while (walk.next(segment)) {
      if (threadIdx.x < 32) load_q(segment.request);
      for (int block = 0; block < segment.blocks; ++block) load_block(segment, segment.first_block + block, block % 2);
    }
  }

 private:
  static constexpr int kWarps = 4;

  // Page numbers outside the cache read as zeros.
  __device__ void load_block(const Segment& segment, int block, int buffer) {
    const int first_token = block * kBlock;
    const int tokens = min(segment.length - first_token, kBlock);
    const int page_size = 1 << params_.page_shift;
    const int box_rows = min(page_size, kBlock);
    const int boxes = (tokens + box_rows - 1) / box_rows;
    // A warp's boxes are every fourth; their page numbers are read before the wait, one a lane.
    const int own_box = static_cast<int>(threadIdx.x / 32 + kWarps * (threadIdx.x % 32));
    const int own_page = own_box < boxes ? page_of(params_, segment, first_token + own_box * box_rows, box_rows) : 0;
    const int row = (first_token + own_box * box_rows) & (page_size - 1);
    wait_free(buffer);
    // Third by third of the dims, so that scores of the first can start early.
#pragma unroll
    for (int part = 0; part < kBarriersPerBlock; ++part) {
      // Copies of other warps may already have ended: the barrier waits for this arrival too.
      if (threadIdx.x == 0) shared_.k_filled[buffer][part].arrive_and_expect_tx(kChunksPerBarrier * boxes * box_rows * 128);
      if (own_box >= boxes) continue;
#pragma unroll
      for (int chunk = part * kChunksPerBarrier; chunk < (part + 1) * kChunksPerBarrier; ++chunk) {
        auto* barrier = reinterpret_cast<uint64_t*>(&shared_.k_filled[buffer][part]);
        uint8_t* target = shared_.k[buffer][chunk] + own_box * box_rows * 128;
        cute::SM90_TMA_LOAD_3D::copy(&params_.cache, barrier, kHint, target, chunk * kChunk, row, own_page);
      }
    }
  }
};

// --- BF16 tokens by threads --------------------------------------------------------------------------------------------------------------------

// For pages of one or two tokens, where a box is a single row or two and the TMA unit would be the limit: 16 bytes a thread and copy.
class TokenLoader : LoaderBase {
 public:
  static constexpr int kLoadRegisters = 40;
  static constexpr int kMathRegisters = 232;
  static constexpr int kFilledArrivals = 128;
  using LoaderBase::LoaderBase;

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    while (walk.next(segment)) {
      if (threadIdx.x < 32) load_q(segment.request);
      for (int block = 0; block < segment.blocks; ++block) load_block(segment, segment.first_block + block, block % 2);
    }
  }

 private:
  static constexpr int kRounds = kBlock / 16;  // 16 tokens at a time, 8 threads each

  __device__ void load_block(const Segment& segment, int block, int buffer) {
    const int unit = threadIdx.x % 8;  // of 16 bytes in a chunk's row
    const int first = threadIdx.x / 8;
    const uint8_t* source[kRounds];  // null: a token behind the length or on no page, which reads as zeros
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int token = block * kBlock + round * 16 + first;
      const int page = token < segment.length ? page_of(params_, segment, token) : -1;
      const int slot = token & ((1 << params_.page_shift) - 1);
      source[round] = page < 0 ? nullptr : params_.tokens + page * params_.page_bytes + slot * params_.token_bytes + unit * 16;
    }
    wait_free(buffer);
#pragma unroll
    for (int part = 0; part < kBarriersPerBlock; ++part) {
#pragma unroll
      for (int c = 0; c < kChunksPerBarrier; ++c) {
        const int chunk = part * kChunksPerBarrier + c;
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          const int row = round * 16 + first;
          cutlass::arch::cp_async_zfill<16, cutlass::arch::CacheOperation::Global>(
              shared_.k[buffer][chunk] + row * 128 + (unit ^ row % 8) * 16, source[round] == nullptr ? params_.tokens : source[round] + chunk * 128,
              source[round] != nullptr);
        }
      }
      cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&shared_.k_filled[buffer][part]));
    }
  }
};

// --- FP8 tokens --------------------------------------------------------------------------------------------------------------------------------

// Tokens come straight into registers, a warp's lanes side by side over the 512 bytes of a latent, and go to shared memory as BF16 once a buffer is
// free. Tokens of the blocks to come are called into the L2, so that registers wait for it only and not for memory.
class Dequantizer : LoaderBase {
 public:
  static constexpr int kWarps = 4;
  static constexpr int kFilledArrivals = kWarps;
  static constexpr int kLoadRegisters = 120;  // 82 of them hold tokens on their way
  static constexpr int kMathRegisters = 192;
  __device__ Dequantizer(const Params& params, SharedStorage& shared) : LoaderBase(params, shared) {}

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    bool more = walk.next(segment);
    if (more) go_to(segment, 0, walk.request());
    // One place in the code that fetches: tokens that came from two would be moved between registers, and moving waits for them.
    while (more) {
      const auto& ahead = shared_.ahead[warp()];
      const int buffer = ahead.block % 2;
      const int request = ahead.block == 0 ? ahead.segment.request : -1;  // whose Q goes with the block, -1: it is there
      Tokens tokens;
      uint32_t there;
      fetch(tokens, own_token(there));
      prefetch();
      more = advance();
      if (request >= 0 && warp() == 0) load_q(request);
      wait_free(buffer);
      if (there != ~0u) clear(tokens, there);
      store(tokens, buffer);
      cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary stores wrote
      __syncwarp();
      if (lane() < kBarriersPerBlock) shared_.k_filled[buffer][lane()].arrive();
    }
  }

 private:
  static constexpr int kTokens = kBlock / kWarps;  // of a warp
  static constexpr int kAhead = 2;                 // blocks that the L2 is ahead of the registers

  struct Tokens {
    uint4 latent[kTokens];     // 16 E4M3 values a lane: dims 16 * lane ...
    uint4 rope[kTokens / 4];   // of token 4 * i + lane / 8: BF16 values 8 * (lane % 8) ...
    float scale[kTokens / 8];  // of token 8 * i + lane / 4, scale lane % 4
  };

  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ static int warp() { return static_cast<int>(threadIdx.x / 32); }

  // Notes where the warp is and asks for the page of the token that is this lane's to know; higher lanes repeat those of the first.
  __device__ void go_to(const Segment& segment, int block, int request) {
    __syncwarp();  // all lanes have read what is overwritten
    if (lane() == 0) shared_.ahead[warp()] = {segment, block, request};
    __syncwarp();
    const int token = own_index(segment, block);
    page_ = token < segment.length ? table_entry(params_, segment, token) : 0;
    const int later = token + kAhead * kBlock;
    later_page_ = block + kAhead < segment.blocks && later < segment.length ? table_entry(params_, segment, later) : -1;
  }

  __device__ static int own_index(const Segment& segment, int block) {
    return (segment.first_block + block) * kBlock + warp() * kTokens + lane() % kTokens;
  }

  __device__ bool advance() {
    const auto& ahead = shared_.ahead[warp()];
    Segment segment = ahead.segment;
    const int block = ahead.block + 1;
    if (block < segment.blocks) {
      go_to(segment, block, ahead.request);
      return true;
    }
    SegmentWalk walk(params_, ahead.request);
    if (!walk.next(segment)) return false;
    go_to(segment, 0, walk.request());
    return true;
  }

  __device__ const uint8_t* token_at(int page, int token) const {
    return params_.tokens + page * params_.page_bytes + (token & ((1 << params_.page_shift) - 1)) * params_.token_bytes;
  }

  // Where the lane's token begins, and which lanes have one: the others' lie behind the length or on no page, and they read what is surely there.
  __device__ const uint8_t* own_token(uint32_t& there) const {
    const Segment segment = shared_.ahead[warp()].segment;
    const int token = own_index(segment, shared_.ahead[warp()].block);
    const int page = token < segment.length ? checked_page(params_, segment, token, 1, page_) : -1;
    there = __ballot_sync(0xffffffffu, page >= 0);
    return page < 0 ? params_.tokens : token_at(page, token);
  }

  // Calls tokens of a later block into the L2: those that lie one behind the other by one request.
  __device__ void prefetch() const {
    const int token = own_index(shared_.ahead[warp()].segment, shared_.ahead[warp()].block + kAhead);
    const int run = params_.token_bytes == kFp8TokenBytes ? min(1 << params_.page_shift, kTokens) : 1;
    if (lane() < kTokens && token % run == 0 && static_cast<unsigned>(later_page_) < static_cast<unsigned>(params_.pages)) {
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(token_at(later_page_, token)), "r"(run * kFp8TokenBytes) : "memory");
    }
  }

  // Volatile: the compiler must not gather addresses of many loads, since registers are short.
  __device__ static uint4 read(const uint8_t* source) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(source));
    return value;
  }

  __device__ static const uint8_t* token_of(const uint8_t* token, int lane) {
    return reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(token), lane));
  }

  __device__ void fetch(Tokens& tokens, const uint8_t* own) const {
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      const uint8_t* source = token_of(own, i * 8 + lane() / 4) + kFp8ScalesAt + (lane() & (params_.scales - 1)) * 4;
      asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(tokens.scale[i]) : "l"(source));
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) tokens.latent[t] = read(token_of(own, t) + lane() * 16);
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) tokens.rope[i] = read(token_of(own, i * 4 + lane() / 8) + kFp8RopeAt + lane() % 8 * 16);
  }

  // Zeros for tokens that are not there.
  __device__ static void clear(Tokens& tokens, uint32_t there) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if ((there >> t & 1) == 0) tokens.latent[t] = make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      if ((there >> (i * 4 + lane() / 8) & 1) == 0) tokens.rope[i] = make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      if ((there >> (i * 8 + lane() / 4) & 1) == 0) tokens.scale[i] = 0.0f;
    }
  }

  __device__ void store(const Tokens& tokens, int buffer) const {
    const int first = warp() * kTokens * 128;  // byte of the warp's first row in a chunk, whose rows take turns in the swizzle by eights
    // Dims 16 * lane ... are two 16-byte units of chunk lane / 4. Neighbouring chunks start with different ones, so that 8 lanes meet 8 different banks.
    uint8_t* chunk = shared_.k[buffer][lane() / 4] + first;
    const bool swap = lane() / 4 % 2 != 0;
    const int unit = (lane() % 4 * 2 + swap) * 16;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float scale = __shfl_sync(0xffffffffu, tokens.scale[t / 8], t % 8 * 4 + lane() / 8);
      const uint4 words = tokens.latent[t];
      uint8_t* row = chunk + t * 128;
      *reinterpret_cast<uint4*>(row + (unit ^ t % 8 * 16)) = to_bf16(swap ? words.z : words.x, swap ? words.w : words.y, scale);
      *reinterpret_cast<uint4*>(row + (unit ^ 16 ^ t % 8 * 16)) = to_bf16(swap ? words.x : words.z, swap ? words.y : words.w, scale);
    }
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      const int t = i * 4 + lane() / 8;
      *reinterpret_cast<uint4*>(shared_.k[buffer][kChunks - 1] + first + t * 128 + (lane() % 8 ^ t % 8) * 16) = tokens.rope[i];
    }
  }

  // Eight E4M3 values times their scale, rounded to BF16.
  __device__ static uint4 to_bf16(uint32_t low, uint32_t high, float scale) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>((i < 2 ? low : high) >> (16 * (i % 2)));
      const float2 values = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
      const __nv_bfloat162 scaled = __floats2bfloat162_rn(values.x * scale, values.y * scale);
      memcpy(&words[i], &scaled, sizeof scaled);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

  int page_ = 0;
  int later_page_ = -1;
};

}  // namespace h4j::mla
