// MLA decode in the absorbed form: multi-query attention with keys of 576 and values of 512 dims, values being the first part of the keys.
//
// A CTA holds 64 query rows. A loading warp group brings cached tokens, 64 at a time, into two buffers; two math warp groups work on pairs of blocks:
//
//   group 0                                    group 1
//   S0 = Q K0^T                                S1 = Q K1^T, once S0 is nearly there
//   P0 = softmax(S0)
//   ------------ P0, maxima, rescale factors are ready -------------->
//   O[:, :256] += P0 V0                        O[:, 256:] += P0 V0, queued behind S1; meanwhile P1 = softmax(S1)
//                                              O[:, 256:] += P1 V1
//   <----------- P1, maxima, rescale factors are ready ---------------
//   O[:, :256] += P1 V1
//   next S0
//
// so that one group's softmax hides under the other's matrix products, the tensor core has work queued when it ends one, and the four halves of the two blocks come
// free one after the other: with room for two blocks, each has about as long to come as the products of a block take. A group has its own probabilities in
// registers; for the other they take the place of the block's rope chunk, which is dead once its scores are there. With one row tile memory decides, not the tensor
// core: blocks come and go as a whole then, and group 1 multiplies by P0 V0 before it waits for block 1.
#pragma once

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cutlass/arch/reg_reconfig.h>
#include <cute/arch/mma_sm90.hpp>

#include <type_traits>
#include <utility>

#include "attention/mla_decode/sm90_mla_load.cuh"
#include "tile/wgmma.cuh"

namespace h4j::mla {

// Named barriers, beyond those that CUTLASS reserves.
enum Barrier : uint32_t { kGroup0, kGroup1, kS0Done, kP0Ready, kP1Ready };

// --- matrix products -----------------------------------------------------------------------------------------------------------------------------

using ScoreAtom = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>;
using ValueAtom = cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::MN>;

using OwnValueAtom = cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::MN>;

template <class Atom, size_t... kIndex>
__device__ void mma(const uint32_t (&a)[4], uint64_t b, float (&d)[sizeof...(kIndex)], cute::SM90::GMMA::ScaleOut scale,
                    std::index_sequence<kIndex...>) {
  Atom::fma(a[0], a[1], a[2], a[3], b, d[kIndex]..., scale);
}

template <class Atom, size_t... kIndex>
__device__ void mma(uint64_t a, uint64_t b, float (&d)[sizeof...(kIndex)], cute::SM90::GMMA::ScaleOut scale, std::index_sequence<kIndex...>) {
  Atom::fma(a, b, d[kIndex]..., scale);
}

// A chunk of a block as an operand with contiguous K: groups of eight rows are so far apart as tokens are.
template <Source kSource>
__device__ uint64_t block_descriptor(const void* tile) {
  constexpr uint64_t kStride = uint64_t{token_group_stride(kSource) / 16} << 32;
  return (tile::swizzled_descriptor(tile) & ~(uint64_t{0x3fff} << 32)) | kStride;
}

// V as an operand whose N dimension is contiguous: 64-wide column groups a chunk apart (leading offset).
template <Source kSource>
__device__ uint64_t value_descriptor(const void* tile) {
  constexpr uint64_t kLeading = uint64_t{chunk_stride(kSource) / 16} << 16;
  return (block_descriptor<kSource>(tile) & ~(uint64_t{0x3fff} << 16)) | kLeading;
}

template <Source kSource>
class MathGroup {
 public:
  __device__ MathGroup(const Params& params, SharedStorage& shared, int group)
      : params_(params),
        shared_(shared),
        row_tile_(static_cast<int>(blockIdx.x) % params.row_tiles),
        group_(group),
        by_threads_(by_threads<kSource>(params)) {
    row_ = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  }

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    while (walk.next(segment)) {
      begin(segment);
      const int split = walk.split(segment);
      shared_.q_filled.wait(q_phase_);
      q_phase_ ^= 1;
      for (int block = 0; block < segment.blocks; block += 2) {
        const bool pair = block + 1 < segment.blocks;
        const bool last = block + 2 >= segment.blocks;  // Q is read no more once its scores are there: the next request's may come
        if (group_ == 0) {
          step_of_group_0(segment, segment.first_block + block, pair, last);
        } else {
          step_of_group_1(segment, segment.first_block + block, pair, last);
        }
      }
      finish(segment, split);
    }
  }

 private:
  static constexpr int kOut = 128;    // of a thread in O [64, 256]
  static constexpr int kScores = 32;  // of a thread in S [64, 64]
  static constexpr int kSteps = kBlock / 16;
  using Probabilities = uint32_t[kSteps][4];  // pairs of BF16, as the first operand of a step of the value product

  __device__ uint8_t* chunk_of(int buffer, int chunk) const { return shared_.k[buffer] + chunk * chunk_stride(kSource); }

  __device__ void begin(const Segment& segment) {
#pragma unroll
    for (int i = 0; i < kOut; ++i) out_[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      maximum_[i] = -INFINITY;
      sum_[i] = 0.0f;
      const int row = row_tile_ * kRows + row_ + 8 * i;
      const int token = row / params_.heads;
      // Bottom-right causal: the last query token sees all keys.
      limit_[i] = params_.causal ? segment.length - (segment.tokens - 1 - token) : segment.length;
      start_[i] = params_.window > 0 ? limit_[i] - params_.window : 0;
    }
  }

  __device__ void group_barrier() const { cutlass::arch::NamedBarrier::sync(128, group_ == 0 ? kGroup0 : kGroup1); }

  // Every lane for itself: what one arrival for a warp stands for, racecheck does not see.
  __device__ static void release(FreeBarrier& barrier) { barrier.arrive(); }

  __device__ void wait_filled(int buffer, int chunk) {
    shared_.k_filled[buffer][chunk].wait(k_phase_[buffer]);
    // Copies by threads are ordinary writes, and it is the tensor core that reads them.
    if (by_threads_) cutlass::arch::fence_view_async_shared();
  }

  // Before multiplying by values of a block that the other group has computed scores of: it has seen all of the block arrive, and its barrier told this group.
  // What was written as ordinary stores needs this group's fence too.
  __device__ void see_values(int buffer) {
    if (by_threads_) wait_filled(buffer, 0);
  }

  // S = Q K^T, started as chunks of the block arrive, each a batch of its own; not waited for.
  __device__ void start_scores(int buffer, float (&scores)[kScores]) {
    const uint64_t q = tile::swizzled_descriptor(shared_.q[0]);
    const uint64_t k = block_descriptor<kSource>(shared_.k[buffer]);
    tile::fence_accumulators(scores);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int chunk = by_parts(kSource) && i < kValueChunks ? (i + buffer * (kValueChunks / 2)) % kValueChunks : i;
      if (arrives_with(kSource, chunk)) wait_filled(buffer, chunk);
      cute::warpgroup_arrive();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const auto scale = i + step == 0 ? cute::SM90::GMMA::ScaleOut::Zero : cute::SM90::GMMA::ScaleOut::One;
        mma<ScoreAtom>(q + chunk * (kChunkBytes / 16) + step * 2, k + chunk * (chunk_stride(kSource) / 16) + step * 2, scores, scale,
                       std::make_index_sequence<kScores>{});
      }
      cute::warpgroup_commit_batch();
    }
    tile::fence_accumulators(scores);
  }

  // O += P V for this group's 256 columns, by probabilities that this group has or that the other one stored; started, not waited for.
  __device__ void start_own_values(int buffer, const Probabilities& p) {
    const uint64_t v = value_descriptor<kSource>(chunk_of(buffer, part_begin(group_)));
    tile::fence_accumulators(out_);
    cute::warpgroup_arrive();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      mma<OwnValueAtom>(p[step], v + step * (2 * token_group_stride(kSource) / 16), out_, cute::SM90::GMMA::ScaleOut::One,
                        std::make_index_sequence<kOut>{});
    }
    cute::warpgroup_commit_batch();
    tile::fence_accumulators(out_);
  }

  __device__ void start_values(int buffer) {
    const uint64_t p = block_descriptor<kSource>(chunk_of(buffer, kChunks - 1));
    const uint64_t v = value_descriptor<kSource>(chunk_of(buffer, part_begin(group_)));
    tile::fence_accumulators(out_);
    cute::warpgroup_arrive();
#pragma unroll
    for (int step = 0; step < kBlock / 16; ++step) {
      mma<ValueAtom>(p + step * 2, v + step * (2 * token_group_stride(kSource) / 16), out_, cute::SM90::GMMA::ScaleOut::One,
                     std::make_index_sequence<kOut>{});
    }
    cute::warpgroup_commit_batch();
    tile::fence_accumulators(out_);
  }

  // Waits for the products and gives the group's values and the probabilities back. The other group's values are its own to give back, and it may have
  // done so already.
  __device__ void finish_values(int buffer) {
    cute::warpgroup_wait<0>();
    tile::fence_accumulators(out_);
    if constexpr (by_parts(kSource)) release(shared_.k_free[buffer][group_]);
    release(shared_.k_free[buffer][kRopePart]);
    k_phase_[buffer] ^= 1;
  }

  // Rows of V behind the length hold whatever the cache held, NaN perhaps, and 0 * NaN is NaN.
  __device__ void clear_tail(int buffer, int tokens) {
    const int thread = threadIdx.x % 128;
    for (int row = tokens + thread / 8; row < kBlock; row += 16) {
#pragma unroll
      for (int chunk = 0; chunk < kValueChunks; ++chunk) {
        *reinterpret_cast<uint4*>(chunk_of(buffer, chunk) + row / 8 * token_group_stride(kSource) + row % 8 * 128 + thread % 8 * 16) =
            make_uint4(0, 0, 0, 0);
      }
    }
  }

  // Probabilities of this block; maxima and rescale factors are brought up to date.
  __device__ void softmax(const Segment& segment, int block, float (&scores)[kScores], float (&rescale)[2]) {
    const int first_token = block * kBlock;
    const int column = first_token + threadIdx.x % 4 * 2;
    const bool whole = first_token + kBlock <= segment.length - (params_.causal ? segment.tokens - 1 : 0) &&
                       (params_.window == 0 || first_token >= segment.length - params_.window);
    if (!whole) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int token = column + i / 4 * 8 + i % 2;
        const int row = i / 2 % 2;
        if (token >= limit_[row] || token < start_[row]) scores[i] = -INFINITY;
      }
    }
    float largest[2];
    // As a tree, and both rows side by side: what this takes is latencies, while the tensor core may have nothing to do.
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float pairs[kScores / 4];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) pairs[i] = fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]);
#pragma unroll
      for (int count = kScores / 8; count > 0; count /= 2) {
#pragma unroll
        for (int i = 0; i < count; ++i) pairs[i] = fmaxf(pairs[i], pairs[i + count]);
      }
      largest[row] = pairs[0];
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      const float other[2] = {__shfl_xor_sync(0xffffffffu, largest[0], distance), __shfl_xor_sync(0xffffffffu, largest[1], distance)};
      largest[0] = fmaxf(largest[0], other[0]);
      largest[1] = fmaxf(largest[1], other[1]);
    }
    float base[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      largest[row] *= params_.scale_log2;
      // A maximum that is up to 2^8 too small does no harm (probabilities are BF16 floats), and moving it seldom saves rescaling O.
      constexpr float kSlack = 8.0f;
      rescale[row] = 1.0f;
      if (largest[row] > maximum_[row] + kSlack || maximum_[row] == -INFINITY) {
        rescale[row] = maximum_[row] == -INFINITY ? 1.0f : exp2_fast(maximum_[row] - largest[row]);
        maximum_[row] = largest[row];
      }
      base[row] = maximum_[row] == -INFINITY ? 0.0f : maximum_[row];
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) scores[i] = exp2_fast(fmaf(scores[i], params_.scale_log2, -base[i / 2 % 2]));
  }

  // Of a block's probabilities: when others have got what they wait for.
  __device__ void add_sums(const float (&scores)[kScores], const float (&rescale)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float sums[4] = {};
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) sums[i % 4] += scores[4 * i + 2 * row] + scores[4 * i + 2 * row + 1];
      sum_[row] = sum_[row] * rescale[row] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
  }

  __device__ static void to_probabilities(const float (&scores)[kScores], Probabilities& p) {
#pragma unroll
    for (int i = 0; i < kScores; i += 2) {
      const __nv_bfloat162 values = __floats2bfloat162_rn(scores[i], scores[i + 1]);
      memcpy(&p[i / 8][i % 8 / 2], &values, sizeof values);
    }
  }

  __device__ void store_probabilities(int buffer, const Probabilities& p) {
    uint8_t* target = chunk_of(buffer, kChunks - 1);
    const int lane = threadIdx.x % 32;
    const int row = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t inside = row / 8 * token_group_stride(kSource) + row % 8 * 128 + ((step * 32 + lane / 16 * 16) ^ row % 8 << 4);
      cute::SM90_U32x4_STSM_N::copy(p[step][0], p[step][1], p[step][2], p[step][3], *reinterpret_cast<cute::uint128_t*>(target + inside));
    }
  }

  __device__ void scale_out(const float (&factor)[2]) {
    if (!__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kOut; ++i) out_[i] *= factor[i / 2 % 2];
  }

  // Takes over the other group's maxima after its softmax.
  __device__ void follow(int other) {
    float factor[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      maximum_[row] = shared_.maximum[other][row_ + 8 * row];
      factor[row] = shared_.rescale[other][row_ + 8 * row];
      sum_[row] *= factor[row];
    }
    scale_out(factor);
  }

  // Writes probabilities over the rope chunk, and maxima and rescale factors, for the other group. Zeros behind the length are for both.
  __device__ void store(const Segment& segment, int block, int buffer, const Probabilities& p, const float (&rescale)[2]) {
    store_probabilities(buffer, p);
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        shared_.maximum[group_][row_ + 8 * row] = maximum_[row];
        shared_.rescale[group_][row_ + 8 * row] = rescale[row];
      }
    }
    const int tokens = segment.length - block * kBlock;
    if (tokens < kBlock) {
      clear_tail(buffer, tokens);  // all of the block has come, since its scores are there
      cutlass::arch::fence_view_async_shared();
      group_barrier();
    }
    // Zeros may have gone into the half that the other group gives back. Boxes need not know: tokens by threads, racecheck watches.
    if constexpr (kSource == Source::kTokens) release(shared_.k_free[buffer][1 - group_]);
  }

  __device__ void tell() const {
    cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary stores wrote
    group_barrier();                           // racecheck does not see through arrivals of single warps
    cutlass::arch::NamedBarrier::arrive(256, group_ == 0 ? kP0Ready : kP1Ready);
  }

  __device__ void step_of_group_0(const Segment& segment, int block, bool pair, bool last) {
    float scores[kScores];
    float rescale[2];
    start_scores(0, scores);
    cute::warpgroup_wait<2>();  // but for two chunks: the other group's scores are queued behind those
    if (by_parts(kSource) && pair) cutlass::arch::NamedBarrier::arrive(256, kS0Done);
    cute::warpgroup_wait<0>();
    tile::fence_accumulators(scores);
    if (last) release(shared_.q_free);
    softmax(segment, block, scores, rescale);
    Probabilities p;
    to_probabilities(scores, p);
    store(segment, block, 0, p, rescale);
    tell();
    scale_out(rescale);
    start_own_values(0, p);
    add_sums(scores, rescale);
    finish_values(0);
    if (pair) {
      cutlass::arch::NamedBarrier::sync(256, kP1Ready);
      see_values(1);
      follow(1);
      start_values(1);
      finish_values(1);
    }
  }

  __device__ void step_of_group_1(const Segment& segment, int block, bool pair, bool last) {
    if (!pair) {
      if (last) release(shared_.q_free);
      cutlass::arch::NamedBarrier::sync(256, kP0Ready);
      see_values(0);
      follow(0);
      start_values(0);
      finish_values(0);
      return;
    }
    float scores[kScores];
    float rescale[2];
    const auto start_first_values = [&] {
      cutlass::arch::NamedBarrier::sync(256, kP0Ready);
      see_values(0);
      follow(0);
      start_values(0);
    };
    if constexpr (by_parts(kSource)) {
      // Started together, both groups' scores would end together, and the tensor core would have nothing to do during group 0's softmax.
      cutlass::arch::NamedBarrier::sync(256, kS0Done);
      start_scores(1, scores);
      start_first_values();
      cute::warpgroup_wait<1>();  // the scores are there
    } else {
      // Memory decides: block 0's place is wanted, whenever block 1 comes.
      start_first_values();
      finish_values(0);
      start_scores(1, scores);
      cute::warpgroup_wait<0>();
    }
    tile::fence_accumulators(scores);
    if (last) release(shared_.q_free);
    softmax(segment, block + 1, scores, rescale);  // under the product just started
    Probabilities p;
    to_probabilities(scores, p);
    store(segment, block + 1, 1, p, rescale);
    if constexpr (by_parts(kSource)) finish_values(0);
    scale_out(rescale);
    start_own_values(1, p);
    tell();  // after that: it takes as long as the product
    add_sums(scores, rescale);
    finish_values(1);
  }

  // Both groups' sums together, then the result or a partial one.
  __device__ void finish(const Segment& segment, int split) {
    float sums[2];
    auto& shared_sums = shared_.sum[sums_phase_];  // in turns: those of the segment before may still be read
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      sum_[row] += __shfl_xor_sync(0xffffffffu, sum_[row], 1);
      sum_[row] += __shfl_xor_sync(0xffffffffu, sum_[row], 2);
      if (threadIdx.x % 4 == 0) shared_sums[group_][row_ + 8 * row] = sum_[row];
    }
    shared_.sums_ready.meet(sums_phase_);
#pragma unroll
    for (int row = 0; row < 2; ++row) sums[row] = shared_sums[0][row_ + 8 * row] + shared_sums[1][row_ + 8 * row];

#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int r = row_tile_ * kRows + row_ + 8 * row;
      const int token = r / params_.heads;
      const int head = r % params_.heads;
      if (token >= segment.tokens) continue;
      const float lse = sums[row] > 0.0f ? maximum_[row] + log2f(sums[row]) : -INFINITY;
      if (split >= 0) {
        const int64_t slot = (int64_t{split} * params_.row_tiles + row_tile_) * kRows + row_ + 8 * row;
        const float factor = sums[row] > 0.0f ? 1.0f / sums[row] : 0.0f;
        float* target = params_.partial_out + slot * kValueDim + group_ * 256 + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < kOut; i += 4) {
          *reinterpret_cast<float2*>(target + i * 2) = make_float2(out_[i + 2 * row] * factor, out_[i + 2 * row + 1] * factor);
        }
        if (group_ == 0 && threadIdx.x % 4 == 0) params_.partial_lse[slot] = lse;
      } else {
        float total = sums[row];
        if (params_.sink != nullptr && total > 0.0f) total += exp2f(params_.sink[head] * 1.44269504f - maximum_[row]);
        const float factor = total > 0.0f ? 1.0f / total : 0.0f;
        auto* target = static_cast<__nv_bfloat16*>(params_.out) +
                       ((int64_t{segment.request} * params_.s_q + token) * params_.heads + head) * kValueDim + group_ * 256 + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < kOut; i += 4) {
          *reinterpret_cast<__nv_bfloat162*>(target + i * 2) = __floats2bfloat162_rn(out_[i + 2 * row] * factor, out_[i + 2 * row + 1] * factor);
        }
        if (group_ == 0 && threadIdx.x % 4 == 0) {
          params_.lse[(int64_t{segment.request} * params_.heads + head) * params_.s_q + token] = sums[row] > 0.0f ? lse * 0.693147181f : INFINITY;
        }
      }
    }
  }

  const Params& params_;
  SharedStorage& shared_;
  int row_tile_;
  int group_;
  const bool by_threads_;
  int row_;  // this thread's first row of the tile; the second is 8 further down
  uint32_t q_phase_ = 0;
  uint32_t sums_phase_ = 0;
  uint32_t k_phase_[2] = {0, 0};
  float out_[kOut];
  float maximum_[2];
  float sum_[2];
  int limit_[2];
  int start_[2];
};

template <Source kSource>
using LoaderOf = std::conditional_t<kSource == Source::kTokens, SmallPageLoader,
                                    std::conditional_t<kSource == Source::kTokenBoxes, PartLoader, BoxLoader<kSource>>>;

template <Source kSource>
__global__ void __launch_bounds__(kThreads, 1) decode_kernel(const __grid_constant__ Params params) {
  using Loader = LoaderOf<kSource>;
  extern __shared__ __align__(1024) uint8_t memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);
  // What a part does first comes from memory: asked for before the barriers are made.
  if (threadIdx.x == 32) prefetch_part(params);
  if (threadIdx.x == 0) {
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.q));
    if (kSource != Source::kTokens) cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&params.cache));
    shared.sums_ready.init(256);
    shared.q_filled.init(1);
    shared.q_free.init(256);
    for (int buffer = 0; buffer < 2; ++buffer) {
      for (int chunk = 0; chunk < kChunks; ++chunk) shared.k_filled[buffer][chunk].init(Loader::kFilledArrivals);
      for (int part = 0; part < kFreeParts; ++part) {
        // Both groups', or the one's whose values they are.
        shared.k_free[buffer][part].init(part == kRopePart || (kSource == Source::kTokens && part != buffer) ? 256 : 128);
      }
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  cudaTriggerProgrammaticLaunchCompletion();  // the merging kernel may take SMs as they become free
  const int group = cutlass::canonical_warp_group_idx();
  if (group == 0) {
    cutlass::arch::warpgroup_reg_dealloc<Loader::kLoadRegisters>();
    Loader(params, shared).run();
  } else {
    cutlass::arch::warpgroup_reg_alloc<Loader::kMathRegisters>();
    MathGroup<kSource>(params, shared, group - 1).run();
  }
}

}  // namespace h4j::mla
