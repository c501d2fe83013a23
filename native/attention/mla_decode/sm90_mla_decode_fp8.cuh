// MLA decode over FP8 caches, with the roles of the matrix products turned round: cached tokens are the M side and query rows the N side.
//
//   S^T [64 tokens, rows] = K Q^T        O^T [512 dims, rows] += V^T P^T
//
// K and V^T are then the first operands of WGMMA, which may come from registers: E4M3 values are read from where the copies put them, become F16 in registers,
// exactly, and go into the tensor core without another way through shared memory. V^T comes by transposing loads of pairs of dims.
//
// Scales: of K they are applied to the scores in F32, a row of which is a token's. V takes a token's scales over a power of two that makes the largest of
// them 32 to 64, and the power goes into the probabilities, over the largest such power so far, which the output is in units of. A row of Q is F16 over a
// power of two of its own, exact in 28 binades; its rope part is BF16, as that of the tokens.
//
// A loading warp group keeps up to kStages blocks of 64 tokens on their way. With 32 query rows or fewer the two math warp groups take blocks in turn and have
// nothing to do with each other until they put their results together at the end, so that one's softmax runs under the other's products. With 64 rows a
// group's registers hold half of the output's dims, and blocks go in pairs:
//
//   group 0                               group 1
//   S0^T = K0 Q^T                         S1^T = K1 Q^T
//   --------- does anything exceed the maxima by more than 2^8? then both bring them up to date ---------
//   P0                                    P1
//   --------------------------------- P0, P1 are ready ---------------------------------------------------
//   O^T[:256] += V0^T P0^T + V1^T P1^T    O^T[256:] += V0^T P0^T + V1^T P1^T
#pragma once

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cutlass/arch/reg_reconfig.h>
#include <cute/arch/copy_sm75.hpp>
#include <cute/arch/mma_sm90.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <utility>

#include "attention/mla_decode/sm90_mla_load.cuh"
#include "tile/wgmma.cuh"

namespace h4j::mla {

inline constexpr int kMathThreads = 256;
inline constexpr int kScaleGroups = 4;
inline constexpr int kScaleDims = kValueDim / kScaleGroups;

template <int kTile>
struct Fp8Storage {
  static constexpr int kStages = kTile == 64 ? 3 : 4;
  static constexpr bool kTogether = kTile == 64;      // the math warp groups have half of the dims each, else blocks
  static constexpr int kReaders = kTogether ? 8 : 4;  // warps that read a block

  // [chunk][rows, 64 dims], 128-byte swizzle; F16 in the order of K's fragments, the last chunk BF16. At the end the groups exchange results here.
  alignas(1024) uint8_t q[kChunks][kTile * 128];
  alignas(1024) uint8_t p[2][kTile * 128];  // [group][rows, 64 tokens] F16, 128-byte swizzle
  alignas(128) uint8_t tokens[kStages][kBlock * kFp8TokenBytes];
  alignas(16) __half2 norms[2][kScaleGroups][4][kBlock / 8];  // [group][scale group][lane % 4]: scales of tokens 8 i + 2 * (lane % 4) and the next
  float score_scale[kTile];                                   // softmax scale * log2(e) * the row's power of two
  float maximum[2][kTile];     // [group] base 2, of its blocks so far, up to 2^8 too small; the first is both's if together
  int limit[kTile];            // tokens from here on are not seen
  float largest[2][4][kTile];  // [group][warp] of its tokens
  int exponents[2][4];
  float sums[2][4][kTile];
  MeetingPoint all;
  FilledBarrier filled[kStages];
  FreeBarrier free[kStages];
};

// --- loading -----------------------------------------------------------------------------------------------------------------------------------

// Tokens as they are, by bulk copies of what lies one behind the other; a warp has 16 tokens of a block.
template <int kTile>
class Fp8Loader {
 public:
  using Storage = Fp8Storage<kTile>;
  static constexpr int kArrivals = 128;
  __device__ Fp8Loader(const Params& params, Storage& shared) : params_(params), shared_(shared), hint_(token_hint(params)) {}

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    while (walk.next(segment)) {
      look_up(segment, segment.first_block);
      for (int block = 0; block < segment.blocks; ++block) load_block(segment, segment.first_block + block);
    }
  }

 private:
  static constexpr int kWarpTokens = kBlock / 4;

  __device__ static int own_token(int block) {
    return block * kBlock + static_cast<int>(threadIdx.x / 32) * kWarpTokens + static_cast<int>(threadIdx.x % 32);
  }

  // A block ahead of the copies: the answer may come from memory.
  __device__ void look_up(const Segment& segment, int block) {
    if (threadIdx.x % 32 < kWarpTokens && own_token(block) < segment.length) entry_ = table_entry(params_, segment, own_token(block));
  }

  __device__ void load_block(const Segment& segment, int block) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int run = params_.token_bytes == kFp8TokenBytes ? min(1 << params_.page_shift, kWarpTokens) : 1;
    const int token = own_token(block);
    const bool leads = lane < kWarpTokens && lane % run == 0 && token < segment.length;
    const int count = leads ? min(run, segment.length - token) : 0;
    const int page = leads ? checked_page(params_, segment, token, count, entry_) : -1;
    look_up(segment, block + 1);
    const int there = page < 0 ? 0 : count;
    const auto missing = kWarpTokens - static_cast<int>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(there)));
    shared_.free[stage_].wait(phase_ ^ 1);
    uint8_t* target = shared_.tokens[stage_] + (warp * kWarpTokens + lane) * kFp8TokenBytes;
    if (missing > 0) clear(shared_.tokens[stage_] + warp * kWarpTokens * kFp8TokenBytes, lane, run, there);
    // Every lane arrives, having written zeros perhaps.
    if (lane == 0) {
      shared_.filled[stage_].arrive_and_expect_tx((kWarpTokens - missing) * kFp8TokenBytes);
    } else {
      shared_.filled[stage_].arrive();
    }
    if (there > 0) {
      const uint8_t* source = params_.tokens + page * params_.page_bytes + (token & ((1 << params_.page_shift) - 1)) * params_.token_bytes;
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
                   :
                   : "r"(cute::cast_smem_ptr_to_uint(target)), "l"(source), "r"(there * kFp8TokenBytes),
                     "r"(cute::cast_smem_ptr_to_uint(&shared_.filled[stage_])), "l"(hint_)
                   : "memory");
    }
    if (++stage_ == Storage::kStages) stage_ = 0, phase_ ^= 1;
  }

  // Zeros for tokens behind the length or on no page: whatever a stage held, NaN perhaps, would count with a probability of 0.
  __device__ static void clear(uint8_t* tokens, int lane, int run, int there) {
    for (int t = 0; t < kWarpTokens; ++t) {
      if (t % run < __shfl_sync(0xffffffffu, there, t / run * run)) continue;
      for (int unit = lane; unit < kFp8TokenBytes / 16; unit += 32)
        *reinterpret_cast<uint4*>(tokens + t * kFp8TokenBytes + unit * 16) = make_uint4(0, 0, 0, 0);
    }
    cutlass::arch::fence_view_async_shared();  // copies to come write here too
    __syncwarp();
  }

  const Params& params_;
  Storage& shared_;
  const uint64_t hint_;
  int entry_ = 0;  // of the block table, of this lane's token of the next block
  int stage_ = 0;
  uint32_t phase_ = 0;
};

// --- matrix products -----------------------------------------------------------------------------------------------------------------------------

template <int kTile>
struct KeyAtoms;
#define H4J_KEY_ATOMS(n)                                                                                                   \
  template <>                                                                                                              \
  struct KeyAtoms<n> {                                                                                                     \
    using F16 = cute::SM90::GMMA::MMA_64x##n##x16_F32F16F16_RS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>;    \
    using Bf16 = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>; \
  };
H4J_KEY_ATOMS(16)
H4J_KEY_ATOMS(32)
H4J_KEY_ATOMS(64)
#undef H4J_KEY_ATOMS

// A descriptor so many 16-byte units on; without a carry into its upper half.
__device__ inline uint64_t advance(uint64_t descriptor, uint32_t units) {
  return (descriptor & 0xffffffff00000000u) | (static_cast<uint32_t>(descriptor) + units);
}

template <class Atom, size_t... kIndex>
__device__ void register_mma(const uint32_t (&a)[4], uint64_t b, float (&d)[sizeof...(kIndex)], cute::SM90::GMMA::ScaleOut scale,
                             std::index_sequence<kIndex...>) {
  Atom::fma(a[0], a[1], a[2], a[3], b, d[kIndex]..., scale);
}

__device__ inline void load_matrices(const uint8_t* row, uint32_t (&d)[4]) {
  cute::SM75_U32x4_LDSM_N::copy(*reinterpret_cast<const cute::uint128_t*>(row), d[0], d[1], d[2], d[3]);
}

__device__ inline void load_matrices_transposed(const uint8_t* row, uint32_t (&d)[4]) {
  cute::SM75_U16x8_LDSM_T::copy(*reinterpret_cast<const cute::uint128_t*>(row), d[0], d[1], d[2], d[3]);
}

// Four E4M3 values; every one is an F16 number.
__device__ inline void to_halves(uint32_t word, uint32_t& low, uint32_t& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\ncvt.rn.f16x2.e4m3x2 %1, h;\n}" : "=r"(low), "=r"(high) : "r"(word));
}

__device__ inline uint32_t times(uint32_t halves, __half2 factor) {
  __half2 value;
  memcpy(&value, &halves, sizeof value);
  value = __hmul2(value, factor);
  memcpy(&halves, &value, sizeof halves);
  return halves;
}

__device__ inline float power_of_two(int exponent) { return exponent < -126 ? 0.0f : __int_as_float((min(exponent, 127) + 127) << 23); }

// --- mathematics -------------------------------------------------------------------------------------------------------------------------------

template <int kTile>
class KeyMathGroup {
 public:
  using Storage = Fp8Storage<kTile>;
  __device__ KeyMathGroup(const Params& params, Storage& shared, int group)
      : params_(params),
        shared_(shared),
        row_tile_(static_cast<int>(blockIdx.x) % params.row_tiles),
        group_(group),
        warp_(static_cast<int>(threadIdx.x % 128 / 32)),
        lane_(static_cast<int>(threadIdx.x % 32)) {}

  __device__ void run() {
    SegmentWalk walk(params_);
    Segment segment;
    while (walk.next(segment)) {
      const int split = walk.split(segment);
      begin(segment);
      if constexpr (kTogether) {
        for (int block = 0; block < segment.blocks; block += 2) step_of_pair(segment, block, block + 1 < segment.blocks);
      } else {
        for (int block = group_; block < segment.blocks; block += 2) step(segment, block);
      }
      first_ += segment.blocks;
      finish(segment, split);
    }
  }

 private:
  static constexpr bool kTogether = Storage::kTogether;
  // Separate sums of the scale groups and the rope part, or, where registers are short, one that is brought from one scale to the next.
  static constexpr bool kSeparate = kTile <= 16;
  static constexpr int kSums = kSeparate ? kScaleGroups + 1 : 1;
  static constexpr int kScores = kTile / 2;   // of a thread in S^T [64, rows]
  static constexpr int kColumns = kTile / 4;  // rows of Q that a thread has scores of: 8 j + 2 * (lane % 4) + b is number 2 j + b
  // Sums of probabilities are a thread's own until the end, or, where registers are short, added up for every block and then a row's are one lane's.
  static constexpr bool kOwnSums = kTile <= 32;
  static constexpr int kKeptSums = kOwnSums ? kColumns : 2;
  static constexpr int kOutTiles = kTogether ? kValueChunks / 2 : kValueChunks;  // of 64 dims
  static constexpr float kSlack = 8.0f;     // a maximum that is 2^8 too small does no harm, and moving it seldom saves rescaling O
  static constexpr int kExponentSlack = 2;  // likewise of the powers of two of V's scales
  static constexpr int kNormExponent = 5;
  enum Barrier : uint32_t { kVote, kVoteOfGroup1, kGroup, kGroup1 };

  using Scores = float[kScores];

  __device__ static int column(int i, int lane) { return i / 2 * 8 + lane % 4 * 2 + i % 2; }
  __device__ void sync_all() { shared_.all.meet(all_phase_); }
  // The warps that have maxima and probabilities in common: the group's, or all.
  static constexpr int kPeers = kTogether ? kMathThreads : kMathThreads / 2;
  __device__ int peers() const { return kTogether ? 0 : group_; }
  __device__ void sync_peers() const { cutlass::arch::NamedBarrier::sync(kPeers, kGroup + peers()); }
  __device__ bool any_peer(bool value) const {
    uint32_t result;
    asm volatile("{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\nbarrier.cta.red.or.pred q, %2, %3, p;\nselp.u32 %0, 1, 0, q;\n}"
                 : "=r"(result)
                 : "r"(static_cast<uint32_t>(value)), "r"(cutlass::arch::NamedBarrier::ReservedNamedBarrierCount + kVote + peers()), "r"(kPeers)
                 : "memory");
    return result != 0;
  }

  __device__ void begin(const Segment& segment) {
#pragma unroll
    for (int tile = 0; tile < kOutTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) out_[tile][i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kKeptSums; ++i) sum_[i] = 0.0f;
    exponent_ = -1000;
    sync_all();  // nobody reads the last segment's rows any more
    for (int row = group_ * 4 + warp_; row < kTile; row += 8) load_row(segment, row);
    cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary stores wrote
    sync_all();
  }

  // A row of Q, by a warp: 16 dims a lane, which are one step of WGMMA along K.
  __device__ void load_row(const Segment& segment, int row) {
    const int r = row_tile_ * kRows + row;
    const int token = r / params_.heads;
    uint4 latent[2] = {};
    uint4 rope = {};
    if (token < segment.tokens) {
      const uint8_t* source = params_.q_rows + (int64_t{segment.request} * params_.s_q * params_.heads + r) * params_.q_row_bytes;
      latent[0] = __ldg(reinterpret_cast<const uint4*>(source + lane_ * 32));
      latent[1] = __ldg(reinterpret_cast<const uint4*>(source + lane_ * 32 + 16));
      if (lane_ < 8) rope = __ldg(reinterpret_cast<const uint4*>(source + kValueDim * 2 + lane_ * 16));
    }
    const uint32_t words[8] = {latent[0].x, latent[0].y, latent[0].z, latent[0].w, latent[1].x, latent[1].y, latent[1].z, latent[1].w};
    uint32_t largest = 0;  // magnitudes of BF16 compare as integers
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = max(largest, max(words[i] & 0x7fff, words[i] >> 16 & 0x7fff));
    largest = __reduce_max_sync(0xffffffffu, largest);
    const int exponent = largest == 0 ? 0 : max(static_cast<int>(largest >> 7) - 127 - 14, -60);
    const float factor = power_of_two(-exponent);
    uint32_t halves[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const __half2 pair = __floats2half2_rn(__uint_as_float(words[i] << 16) * factor, __uint_as_float(words[i] & 0xffff0000u) * factor);
      memcpy(&halves[i], &pair, sizeof pair);
    }
    // A fragment's thread has four dims one behind the other, the first two of which count as the first half of a step's 16.
    uint8_t* target = shared_.q[lane_ / 4] + row * 128;
    const int unit = lane_ % 4 * 2;
    *reinterpret_cast<uint4*>(target + (unit ^ row % 8) * 16) = make_uint4(halves[0], halves[2], halves[4], halves[6]);
    *reinterpret_cast<uint4*>(target + ((unit + 1) ^ row % 8) * 16) = make_uint4(halves[1], halves[3], halves[5], halves[7]);
    if (lane_ < 8) {
      const uint32_t in[4] = {rope.x, rope.y, rope.z, rope.w};
      uint32_t scaled[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(__uint_as_float(in[i] << 16) * factor, __uint_as_float(in[i] & 0xffff0000u) * factor);
        memcpy(&scaled[i], &pair, sizeof pair);
      }
      *reinterpret_cast<uint4*>(shared_.q[kChunks - 1] + row * 128 + (lane_ ^ row % 8) * 16) = make_uint4(scaled[0], scaled[1], scaled[2], scaled[3]);
    }
    if (lane_ == 0) {
      shared_.score_scale[row] = params_.scale_log2 * power_of_two(exponent);
      shared_.maximum[0][row] = shared_.maximum[1][row] = -INFINITY;
      // Bottom-right causal: the last query token sees all keys.
      shared_.limit[row] = params_.causal ? segment.length - (segment.tokens - 1 - token) : segment.length;
    }
  }

  // S^T = K Q^T of 64 tokens: sums over the scale groups, in units of their scales, and over the rope part.
  __device__ void compute_scores(const uint8_t* tokens, float (&scores)[kSums][kScores], const float (&scales)[2][kScaleGroups]) {
    using cute::SM90::GMMA::ScaleOut;
    const uint8_t* own = tokens + (warp_ * 16 + lane_ % 16) * kFp8TokenBytes + lane_ / 16 * 16;
    const uint64_t q = tile::swizzled_descriptor(shared_.q[0]);
    constexpr uint32_t kChunkStep = kTile * 128 / 16;
    constexpr auto kIndices = std::make_index_sequence<kScores>{};
    uint32_t rope[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) load_matrices(own + kFp8RopeAt + step * 32, rope[step]);
    uint32_t words[2][4];  // of the chunk to come
    load_matrices(own, words[0]);
    load_matrices(own + 32, words[1]);
    constexpr int kRope = kSums - 1;
    tile::fence_accumulators(scores[kRope]);
    cute::warpgroup_arrive();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      register_mma<typename KeyAtoms<kTile>::Bf16>(rope[step], advance(q, (kChunks - 1) * kChunkStep + step * 2), scores[kRope],
                                                   step == 0 ? ScaleOut::Zero : ScaleOut::One, kIndices);
    }
    cute::warpgroup_commit_batch();
    tile::fence_accumulators(scores[kRope]);
#pragma unroll
    for (int chunk = 0; chunk < kValueChunks; ++chunk) {
      uint32_t keys[4][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to_halves(words[half][i], keys[half * 2 + i / 2][i % 2], keys[half * 2 + i / 2][2 + i % 2]);
        if (chunk + 1 < kValueChunks) load_matrices(own + (chunk + 1) * 64 + half * 32, words[half]);
      }
      const int group = chunk * kChunk / kScaleDims;
      auto& sum = scores[kSeparate ? group : 0];
      const bool first = chunk * kChunk % kScaleDims == 0;
      if (!kSeparate && first) rescale(sum, scales, group);
      tile::fence_accumulators(sum);
      cute::warpgroup_arrive();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        register_mma<typename KeyAtoms<kTile>::F16>(keys[step], advance(q, chunk * kChunkStep + step * 2), sum,
                                                    kSeparate && first && step == 0 ? ScaleOut::Zero : ScaleOut::One, kIndices);
      }
      cute::warpgroup_commit_batch();
      tile::fence_accumulators(sum);
      cute::warpgroup_wait<1>();  // fragments of the chunk before may be overwritten
    }
    cute::warpgroup_wait<0>();
#pragma unroll
    for (int i = 0; i < kSums; ++i) tile::fence_accumulators(scores[i]);
  }

  // From the scale of the group before, or that of the rope part, which is 1, to that of a group.
  __device__ static void rescale(Scores& scores, const float (&scales)[2][kScaleGroups], int group) {
    cute::warpgroup_wait<0>();
    tile::fence_accumulators(scores);
    float factor[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) factor[row] = __fdividef(group == 0 ? 1.0f : scales[row][group == 0 ? 0 : group - 1], scales[row][group]);
#pragma unroll
    for (int i = 0; i < kScores; ++i) scores[i] *= factor[i / 2 % 2];
  }

  __device__ static float4 scales_at(const uint8_t* tokens, int token, int scales) {
    const float4 all = *reinterpret_cast<const float4*>(tokens + token * kFp8TokenBytes + kFp8ScalesAt);
    return scales == 1 ? make_float4(all.x, all.x, all.x, all.x) : all;
  }

  // Exponent of the largest scale.
  __device__ static int exponent_of(float4 scales) {
    const float largest = fmaxf(fmaxf(scales.x, scales.y), fmaxf(scales.z, scales.w));
    return max((__float_as_int(largest) >> 23) - 127, -100);
  }

  // Waits for a block, by its number in the segment.
  __device__ const uint8_t* tokens_of(int block) const {
    const uint32_t number = first_ + static_cast<uint32_t>(block);
    shared_.filled[number % Storage::kStages].wait(number / Storage::kStages % 2);
    return shared_.tokens[number % Storage::kStages];
  }

  __device__ void release(int block) const { shared_.free[(first_ + static_cast<uint32_t>(block)) % Storage::kStages].arrive(); }

  __device__ void step(const Segment& segment, int block) {
    const uint8_t* tokens = tokens_of(block);
    float scores[kScores];
    int exponents[2];
    scores_of_block(segment, segment.first_block + block, tokens, scores, exponents);
    if (any_peer(exceeds(scores, exponents))) raise_maxima(scores, exponents);
    store_norms(tokens);
    store_probabilities(scores, exponents);
    cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary stores wrote
    sync_peers();
    add_values(tokens, group_, 0);
    release(block);
  }

  __device__ void step_of_pair(const Segment& segment, int block, bool pair) {
    const bool own = group_ == 0 || pair;
    float scores[kScores];
    int exponents[2] = {-1000, -1000};
    const uint8_t* tokens = nullptr;
    if (own) {
      tokens = tokens_of(block + group_);
      scores_of_block(segment, segment.first_block + block + group_, tokens, scores, exponents);
    } else {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[i] = -INFINITY;
    }
    if (any_peer(exceeds(scores, exponents))) raise_maxima(scores, exponents);
    if (own) {
      store_norms(tokens);
      store_probabilities(scores, exponents);
      cutlass::arch::fence_view_async_shared();  // the tensor core reads what ordinary stores wrote
    }
    sync_peers();
    add_values(tokens_of(block), 0, group_);
    release(block);
    if (pair) {
      add_values(tokens_of(block + 1), 1, group_);
      release(block + 1);
    }
  }

  // Whether maxima or the exponent of V's scales must be raised.
  __device__ bool exceeds(const Scores& scores, const int (&exponents)[2]) const {
    bool result = max(exponents[0], exponents[1]) > exponent_ + kExponentSlack;
#pragma unroll
    for (int i = 0; i < kScores; ++i) result |= scores[i] > shared_.maximum[peers()][column(i / 4 * 2 + i % 2, lane_)] + kSlack;
    return result;
  }

  // Scores of a block, base 2 and masked, and the exponents of its two tokens' scales.
  __device__ void scores_of_block(const Segment& segment, int block, const uint8_t* tokens, Scores& scores, int (&exponents)[2]) {
    const int row = warp_ * 16 + lane_ / 4;
    float scales[2][kScaleGroups];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 all = scales_at(tokens, row + 8 * i, params_.scales);
      exponents[i] = exponent_of(all);
      scales[i][0] = all.x, scales[i][1] = all.y, scales[i][2] = all.z, scales[i][3] = all.w;
      if constexpr (!kSeparate) {
        // A divisor must not be 0; what this adds to a score is lost beside the other groups' share anyway.
        const float least = power_of_two(max(exponents[i], 0) - 40);
#pragma unroll
        for (int g = 0; g < kScaleGroups; ++g) scales[i][g] = fmaxf(scales[i][g], least);
      }
    }
    if constexpr (kSeparate) {
      float sums[kSums][kScores];
      compute_scores(tokens, sums, scales);
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        float score = sums[kSums - 1][i];
#pragma unroll
        for (int g = 0; g < kScaleGroups; ++g) score = fmaf(sums[g][i], scales[i / 2 % 2][g], score);
        scores[i] = score;
      }
    } else {
      float sums[kSums][kScores];
      compute_scores(tokens, sums, scales);
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[i] = sums[0][i] * scales[i / 2 % 2][kScaleGroups - 1];
    }
    const int first_token = block * kBlock;
    const bool whole = first_token + kBlock <= segment.length - (params_.causal ? segment.tokens - 1 : 0) &&
                       (params_.window == 0 || first_token >= segment.length - params_.window);
#pragma unroll
    for (int i = 0; i < kScores; ++i) scores[i] *= shared_.score_scale[column(i / 4 * 2 + i % 2, lane_)];
    if (!whole) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int limit = shared_.limit[column(i / 4 * 2 + i % 2, lane_)];
        const int token = first_token + row + i / 2 % 2 * 8;
        if (token >= limit || (params_.window > 0 && token < limit - params_.window)) scores[i] = -INFINITY;
      }
    }
  }

  // Maxima and the exponent of V's scales; output and sums follow.
  __device__ void raise_maxima(const Scores& scores, const int (&exponents)[2]) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int at = i / 2 * 4 + i % 2;
      float largest = fmaxf(scores[at], scores[at + 2]);
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
      if (lane_ < 4) shared_.largest[group_][warp_][column(i, lane_)] = largest;
    }
    const int exponent = __reduce_max_sync(0xffffffffu, max(exponents[0], exponents[1]));
    if (lane_ == 0) shared_.exponents[group_][warp_] = exponent;
    sync_peers();
    int new_exponent = exponent_;
#pragma unroll
    for (int w = 0; w < kPeers / 32; ++w) new_exponent = max(new_exponent, shared_.exponents[peers() + w / 4][w % 4]);
    const float unit = power_of_two(max(exponent_ - new_exponent, -127));
    float raised[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int row = column(i, lane_);
      const float old = shared_.maximum[peers()][row];
      float largest = old;
#pragma unroll
      for (int w = 0; w < kPeers / 32; ++w) largest = fmaxf(largest, shared_.largest[peers() + w / 4][w % 4][row]);
      raised[i] = largest;
      const float factor = old == -INFINITY ? 1.0f : exp2_fast(old - largest);
      if (kOwnSums) {
        sum_[i % kKeptSums] *= factor;
      } else if (i / 2 == lane_ / 4) {
        sum_[i % 2] *= factor;
      }
      const float both = factor * (old == -INFINITY ? 1.0f : unit);
#pragma unroll
      for (int tile = 0; tile < kOutTiles; ++tile) {
        out_[tile][i / 2 * 4 + i % 2] *= both;
        out_[tile][i / 2 * 4 + i % 2 + 2] *= both;
      }
    }
    exponent_ = new_exponent;
    sync_peers();
    if (warp_ == 0 && lane_ < 4 && peers() == group_) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) shared_.maximum[peers()][column(i, lane_)] = raised[i];
    }
    sync_peers();
  }

  // Scales of a token over their power of two, for V; two of a token a thread.
  __device__ void store_norms(const uint8_t* tokens) {
    const int token = static_cast<int>(threadIdx.x % 128 / 2);
    const int first = static_cast<int>(threadIdx.x % 2) * 2;
    const float4 scales = scales_at(tokens, token, params_.scales);
    const float factor = power_of_two(kNormExponent - exponent_of(scales));
    auto* target = reinterpret_cast<__half*>(shared_.norms[group_]);
    const int at = (token % 8 / 2 * (kBlock / 8) + token / 8) * 2 + token % 2;
    target[first * kBlock + at] = __float2half_rn((first == 0 ? scales.x : scales.z) * factor);
    target[(first + 1) * kBlock + at] = __float2half_rn((first == 0 ? scales.y : scales.w) * factor);
  }

  __device__ void store_probabilities(const Scores& scores, const int (&exponents)[2]) {
    float unit[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) unit[row] = power_of_two(exponents[row] - exponent_);
    uint8_t* target = shared_.p[group_];
    const int row_in_pair = lane_ / 16 * 8 + lane_ % 8;
    const int token_unit = warp_ * 2 + lane_ / 8 % 2;
    float sums[kColumns] = {};
#pragma unroll
    for (int j = 0; j < kTile / 8; j += 2) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // 8 tokens and 8 rows each: tokens first
        const int at = (j + i / 2) * 4 + i % 2 * 2;
        float values[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const int c = (j + i / 2) * 2 + b;
          const float maximum = shared_.maximum[peers()][column(c, lane_)];
          values[b] = exp2_fast(scores[at + b] - (maximum == -INFINITY ? 0.0f : maximum));
          sums[c] += values[b];
        }
        const __half2 pair = __floats2half2_rn(values[0] * unit[i % 2], values[1] * unit[i % 2]);
        memcpy(&words[i], &pair, sizeof pair);
      }
      const int row = j * 8 + row_in_pair;
      cute::SM90_U16x8_STSM_T::copy(words[0], words[1], words[2], words[3],
                                    *reinterpret_cast<cute::uint128_t*>(target + row * 128 + (token_unit ^ row % 8) * 16));
    }
    if constexpr (kOwnSums) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum_[i] += sums[i];
    } else {
      // Of eight lanes with the same rows each gives away half of what it has, three times: lane l keeps numbers 2 * (l / 4) and the next.
      halve<8>(sums);
      halve<4>(sums);
      halve<2>(sums);
      sum_[0] += sums[0];
      sum_[1] += sums[1];
    }
  }

  template <int kKept>
  __device__ void halve(float (&sums)[kColumns]) const {
    const bool upper = (lane_ & kKept * 2) != 0;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const float given = upper ? sums[i] : sums[i + kKept];
      const float kept = upper ? sums[i + kKept] : sums[i];
      sums[i] = kept + __shfl_xor_sync(0xffffffffu, given, kKept * 2);
    }
  }

  // O^T += V^T P^T, with the probabilities of a group, for a part of the dims that this group's registers hold.
  __device__ void add_values(const uint8_t* tokens, int group, int part) {
    const uint8_t* own = tokens + lane_ * kFp8TokenBytes + part * kOutTiles * kChunk + warp_ * 16;
    const uint64_t p = tile::swizzled_descriptor(shared_.p[group]);
    __half2 norms[kBlock / 8];
    uint32_t words[2][4];  // of the tile to come: tokens 8 i + 2 * (lane % 4) and the next, two dims each
    load_matrices_transposed(own, words[0]);
    load_matrices_transposed(own + 32 * kFp8TokenBytes, words[1]);
#pragma unroll
    for (int tile = 0; tile < kOutTiles; ++tile) {
      if (tile * kChunk % kScaleDims == 0) {
        const auto* source = reinterpret_cast<const uint4*>(shared_.norms[group][(part * kOutTiles + tile) * kChunk / kScaleDims][lane_ % 4]);
        memcpy(norms, source, 16);
        memcpy(norms + 4, source + 1, 16);
      }
      uint32_t values[4][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t even;  // dim of both tokens
          uint32_t odd;
          to_halves(__byte_perm(words[half][i], 0, 0x3120), even, odd);
          uint32_t (&step)[4] = values[half * 2 + i / 2];
          step[i % 2 * 2] = times(even, norms[half * 4 + i]);
          step[i % 2 * 2 + 1] = times(odd, norms[half * 4 + i]);
        }
        if (tile + 1 < kOutTiles) load_matrices_transposed(own + half * 32 * kFp8TokenBytes + (tile + 1) * kChunk, words[half]);
      }
      tile::fence_accumulators(out_[tile]);
      cute::warpgroup_arrive();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        register_mma<typename KeyAtoms<kTile>::F16>(values[step], advance(p, step * 2), out_[tile], cute::SM90::GMMA::ScaleOut::One,
                                                    std::make_index_sequence<kScores>{});
      }
      cute::warpgroup_commit_batch();
      tile::fence_accumulators(out_[tile]);
      cute::warpgroup_wait<1>();  // fragments of the tile before may be overwritten
    }
    cute::warpgroup_wait<0>();
#pragma unroll
    for (int tile = 0; tile < kOutTiles; ++tile) tile::fence_accumulators(out_[tile]);
  }

  // The group's sums and, where blocks were divided, what the groups have together; then the result or a partial one.
  __device__ void finish(const Segment& segment, int split) {
#pragma unroll
    for (int i = 0; i < kKeptSums; ++i) {
      if constexpr (kOwnSums) {
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2) sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], distance);
        if (lane_ < 4) shared_.sums[group_][warp_][column(i, lane_)] = sum_[i];
      } else {
        shared_.sums[group_][warp_][column(lane_ / 4 * 2 + i, lane_)] = sum_[i];
      }
    }
    sync_all();
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int row = column(i, lane_);
      const Total total = total_of(row);
      float sum = total.sum;
      const int r = row_tile_ * kRows + row;
      if (split < 0 && params_.sink != nullptr && sum > 0.0f && r < segment.tokens * params_.heads) {
        sum += exp2f(params_.sink[r % params_.heads] * 1.44269504f - total.maximum);
      }
      const float own = kTogether ? 1.0f : share(shared_.maximum[group_][row], total.maximum);
      const float factor = sum > 0.0f ? own * power_of_two(exponent_ - kNormExponent) / sum : 0.0f;
#pragma unroll
      for (int tile = 0; tile < kOutTiles; ++tile) {
        out_[tile][i / 2 * 4 + i % 2] *= factor;
        out_[tile][i / 2 * 4 + i % 2 + 2] *= factor;
      }
    }
    if constexpr (kTogether) {
      write<0, kOutTiles>(segment, split, group_ * (kValueDim / 2));
    } else {
      // Each takes half of the dims from the other.
      if (group_ == 1) give<0>();
      sync_all();
      if (group_ == 0) take<0>();
      sync_all();
      if (group_ == 0) give<kOutTiles / 2>();
      sync_all();
      if (group_ == 0) {
        write<0, kOutTiles / 2>(segment, split, 0);
      } else {
        take<kOutTiles / 2>();
        write<kOutTiles / 2, kOutTiles>(segment, split, 0);
      }
    }
    write_lse(segment, split);
  }

  struct Total {
    float maximum;
    float sum;
  };

  // What a result counts for whose maximum was `maximum`.
  __device__ static float share(float maximum, float largest) { return maximum == -INFINITY ? 0.0f : exp2_fast(maximum - largest); }

  __device__ Total total_of(int row) const {
    const float first = shared_.maximum[0][row];
    Total total = {kTogether ? first : fmaxf(first, shared_.maximum[1][row]), 0.0f};
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < 4; ++w) sum += shared_.sums[group][w][row];
      total.sum += kTogether ? sum : sum * share(shared_.maximum[group][row], total.maximum);
    }
    return total;
  }

  // A thread's counterpart in the other group has the same places of the output.
  template <int kFirst>
  __device__ void give() const {
    auto* target = reinterpret_cast<float4*>(shared_.q) + threadIdx.x % 128;
#pragma unroll
    for (int tile = 0; tile < kOutTiles / 2; ++tile) {
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        const float* values = &out_[kFirst + tile][i];
        target[(tile * kScores + i) / 4 * 128] = make_float4(values[0], values[1], values[2], values[3]);
      }
    }
  }

  template <int kFirst>
  __device__ void take() {
    const auto* source = reinterpret_cast<const float4*>(shared_.q) + threadIdx.x % 128;
#pragma unroll
    for (int tile = 0; tile < kOutTiles / 2; ++tile) {
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        const float4 values = source[(tile * kScores + i) / 4 * 128];
        float* target = &out_[kFirst + tile][i];
        target[0] += values.x, target[1] += values.y, target[2] += values.z, target[3] += values.w;
      }
    }
  }

  template <int kFirst, int kEnd>
  __device__ void write(const Segment& segment, int split, int first_dim) const {
    const int first = row_tile_ * kRows;
    const int dim = first_dim + warp_ * 16 + lane_ / 4 * 2;
    const int64_t slot = (int64_t{split} * params_.row_tiles + row_tile_) * kRows;
    const int64_t out_row = int64_t{segment.request} * params_.s_q * params_.heads + first;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int row = column(i, lane_);
      const int at = i / 2 * 4 + i % 2;
      if (first + row >= segment.tokens * params_.heads) continue;
#pragma unroll
      for (int tile = kFirst; tile < kEnd; ++tile) {
        const float2 pair = make_float2(out_[tile][at], out_[tile][at + 2]);
        if (split >= 0) {
          *reinterpret_cast<float2*>(params_.partial_out + (slot + row) * kValueDim + dim + tile * kChunk) = pair;
        } else {
          *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(params_.out) + (out_row + row) * kValueDim + dim + tile * kChunk) =
              __float22bfloat162_rn(pair);
        }
      }
    }
  }

  __device__ void write_lse(const Segment& segment, int split) const {
    const int row = static_cast<int>(threadIdx.x % 128);
    const int r = row_tile_ * kRows + row;
    if (row >= kTile || r >= segment.tokens * params_.heads || group_ != 0) return;
    const Total total = total_of(row);
    const float lse = total.sum > 0.0f ? total.maximum + log2f(total.sum) : -INFINITY;
    if (split >= 0) {
      params_.partial_lse[(int64_t{split} * params_.row_tiles + row_tile_) * kRows + row] = lse;
    } else {
      const int token = r / params_.heads;
      params_.lse[(int64_t{segment.request} * params_.heads + r % params_.heads) * params_.s_q + token] =
          total.sum > 0.0f ? lse * 0.693147181f : INFINITY;
    }
  }

  const Params& params_;
  Storage& shared_;
  int row_tile_;
  int group_;
  int warp_;
  int lane_;
  uint32_t first_ = 0;  // number of the segment's first block among all of the part
  uint32_t all_phase_ = 0;
  int exponent_;  // of the power of two that output values are in units of
  float out_[kOutTiles][kScores];
  float sum_[kKeptSums];
};

template <int kTile>
__global__ void __launch_bounds__(kThreads, 1) fp8_decode_kernel(const __grid_constant__ Params params) {
  using Storage = Fp8Storage<kTile>;
  extern __shared__ __align__(1024) uint8_t memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);
  if (threadIdx.x == 0) {
    shared.all.init(kMathThreads);
    for (int stage = 0; stage < Storage::kStages; ++stage) {
      shared.filled[stage].init(Fp8Loader<kTile>::kArrivals);
      shared.free[stage].init(32 * Storage::kReaders);  // an arrival a lane: racecheck sees through no other form
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  cudaTriggerProgrammaticLaunchCompletion();  // the merging kernel may take SMs as they become free
  const int group = cutlass::canonical_warp_group_idx();
  if (group == 0) {
    cutlass::arch::warpgroup_reg_dealloc<24>();
    Fp8Loader<kTile>(params, shared).run();
  } else {
    cutlass::arch::warpgroup_reg_alloc<240>();
    KeyMathGroup<kTile>(params, shared, group - 1).run();
  }
}

}  // namespace h4j::mla
