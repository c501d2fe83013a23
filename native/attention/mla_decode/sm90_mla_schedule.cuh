// The schedule of a decode step: equal shares of all requests' blocks, by a prefix sum, with no serial walk.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"
#include "tile/fault.cuh"

namespace h4j::mla {

inline constexpr int kScheduleThreads = 512;
inline constexpr int kScheduleWarps = kScheduleThreads / 32;
// Blocks and beginnings of the first requests are kept in shared memory; those of later ones are computed and read again.
inline constexpr int kCached = 2048;

struct ScheduleStorage {
  int blocks[kCached];
  int begins[kCached];
  int warp_sums[2][kScheduleWarps];  // rounds take turns, so that one barrier a round is enough
  int warp_largest[2][kScheduleWarps];
  int pieces[kShares];  // of requests that a share cuts
  int bad_length;       // first request whose length lies outside its bounds, and whose query tokens do
  int bad_q_tokens;
};

class Requests {
 public:
  __device__ Requests(const ScheduleParams& params, ScheduleStorage& shared)
      : params_(params), shared_(shared), table_(params.schedule + params.layout.requests_at()) {}

  __device__ int tokens(int request) const { return params_.q_tokens != nullptr ? min(max(params_.q_tokens[request], 0), params_.s_q) : params_.s_q; }

  __device__ BlockRange range(int request) const {
    if (request >= params_.batch) return {0, 0};
    const int used = tokens(request);
    return used > 0 ? block_range(params_.lengths[request], used, params_.window, params_.max_length) : BlockRange{0, 0};
  }

  __device__ int blocks(int request) const { return request < kCached ? shared_.blocks[request] : range(request).count; }
  __device__ int begin(int request) const { return request < kCached ? shared_.begins[request] : table_[request]; }

  __device__ void set(int request, int blocks, int begin) const {
    if (request < kCached) {
      shared_.blocks[request] = blocks;
      shared_.begins[request] = begin;
    }
    table_[request] = begin;
  }

  // The last one that begins at or before a cost.
  __device__ int find(int cost) const {
    int low = 0;
    int high = params_.batch - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (begin(middle) <= cost)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

 private:
  const ScheduleParams& params_;
  ScheduleStorage& shared_;
  int32_t* table_;
};

// Where costs begin, their sum and the largest, as the rounds over the requests go on.
class Prefix {
 public:
  __device__ explicit Prefix(ScheduleStorage& shared) : shared_(shared) {}

  // The sum before this thread's cost.
  __device__ int add(int cost) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    int sum = cost;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += other;
    }
    const int largest = __reduce_max_sync(0xffffffffu, cost);
    if (lane == 31) shared_.warp_sums[turn_][warp] = sum, shared_.warp_largest[turn_][warp] = largest;
    __syncthreads();
    int before = total_ + sum - cost;
#pragma unroll
    for (int w = 0; w < kScheduleWarps; ++w) {
      const int other = shared_.warp_sums[turn_][w];
      before += w < warp ? other : 0;
      total_ += other;
      largest_ = max(largest_, shared_.warp_largest[turn_][w]);
    }
    turn_ ^= 1;
    return before;
  }

  __device__ int total() const { return total_; }
  __device__ int largest() const { return largest_; }

 private:
  ScheduleStorage& shared_;
  int turn_ = 0;
  int total_ = 0;
  int largest_ = 1;
};

// Blocks of a part. The even share cuts most requests when there are about as many requests as parts; a slightly larger one, or one that whole requests
// of the largest kind fill, may cut fewer and cost less. Behind it, what every thread wrote about its requests is there for all.
__device__ inline int choose_share(const ScheduleParams& params, const Requests& requests, const Prefix& prefix, ScheduleStorage& shared) {
  const int even = max((prefix.total() + params.layout.parts - 1) / params.layout.parts, 1);
  int shares[kShares];
#pragma unroll
  for (int i = 0; i < kShares - 1; ++i) shares[i] = even + i * max(even / 48, 1);
  shares[kShares - 1] = (even + prefix.largest() - 1) / prefix.largest() * prefix.largest();

  int counts[kShares] = {};
  for (int request = static_cast<int>(threadIdx.x); request < params.batch; request += kScheduleThreads) {
    const int begin = requests.begin(request);
    const int blocks = requests.blocks(request);
#pragma unroll
    for (int i = 0; i < kShares; ++i) {
      const int count = pieces(begin, blocks, Share(shares[i]));
      counts[i] += count > 1 ? count : 0;
    }
  }
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    const int sum = __reduce_add_sync(0xffffffffu, counts[i]);
    if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(&shared.pieces[i], sum);  // integers: the order does not matter
  }
  __syncthreads();
  int best = even;
  float least = 0.0f;
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    const float cost =
        static_cast<float>(shares[i]) + params.partial_cost * static_cast<float>(shared.pieces[i]) + (shared.pieces[i] > 0 ? kMergeBlocks : 0.0f);
    if (i == 0 || cost < least) {
      least = cost;
      best = shares[i];
    }
  }
  return best;
}

// Bad lengths and query tokens are cut to their bounds everywhere; the host is told of the first.
__device__ inline void note_bad_values(const ScheduleParams& params, int request, ScheduleStorage& shared) {
  const int length = params.lengths[request];
  if (length < 0 || length > params.max_length) atomicMin(&shared.bad_length, request);
  if (params.q_tokens == nullptr) return;
  const int tokens = params.q_tokens[request];
  if (tokens < 0 || tokens > params.s_q) atomicMin(&shared.bad_q_tokens, request);
}

__device__ inline void report_bad_values(const ScheduleParams& params, const ScheduleStorage& shared) {
  if (shared.bad_length != INT32_MAX) {
    tile::report_fault(params.bad_length, shared.bad_length, params.lengths[shared.bad_length], 0, params.max_length);
  }
  if (shared.bad_q_tokens != INT32_MAX) {
    tile::report_fault(params.bad_q_tokens, shared.bad_q_tokens, params.q_tokens[shared.bad_q_tokens], 0, params.s_q);
  }
}

__global__ void __launch_bounds__(kScheduleThreads) schedule_kernel(const __grid_constant__ ScheduleParams params) {
  __shared__ ScheduleStorage shared;
  const Requests requests(params, shared);
  if (threadIdx.x == 0) shared.bad_length = shared.bad_q_tokens = INT32_MAX;
  if (threadIdx.x < kShares) shared.pieces[threadIdx.x] = 0;

  // Where each request's cost begins.
  Prefix prefix(shared);
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int blocks = requests.range(request).count;
    const int begin = prefix.add(blocks > 0 ? blocks + kRequestOverheadBlocks : 0);
    if (request < params.batch) {
      requests.set(request, blocks, begin);
      note_bad_values(params, request, shared);
    }
  }
  const int total = prefix.total();
  const int share = choose_share(params, requests, prefix, shared);
  if (threadIdx.x == kScheduleThreads - 1) {
    params.schedule[params.layout.requests_at() + params.batch] = total;
    *reinterpret_cast<unsigned long long*>(params.schedule + kBadPageAt) = ~0ull;
    params.schedule[kShareAt] = share;
    report_bad_values(params, shared);
  }

  // Each part's first and last request, a thread each, side by side.
  const int parts = params.layout.parts;
  for (int item = static_cast<int>(threadIdx.x); item < (2 * parts + 31) / 32 * 32; item += kScheduleThreads) {
    const int part = item / 2;
    const bool second = item % 2 != 0;
    const int begin = part * share;
    const int end = min(begin + share, total);
    const int own = requests.find(second ? end - 1 : begin);
    const int other = __shfl_xor_sync(0xffffffffu, own, 1);
    if (part >= parts) continue;
    const int first = second ? other : own;
    const int last = second ? own : other;
    int4 value = second ? make_int4(0, 0, 0, 0) : make_int4(0, -1, 0, 0);  // of a part without work
    if (begin < end) {
      const int last_end = end - requests.begin(last);
      if (second) {
        const int skipped = begin - requests.begin(first);
        const int first_end = first == last ? min(last_end, requests.blocks(first)) : requests.blocks(first);
        const int tokens = requests.tokens(first);
        const int length = min(max(params.lengths[first], 0), params.max_length);
        value = make_int4(length, tokens, block_range(length, tokens, params.window, params.max_length).first + skipped, max(first_end - skipped, 0));
      } else {
        const Share divisor(share);
        const int cut = (pieces(requests.begin(first), requests.blocks(first), divisor) > 1 ? kFirstCut : 0) |
                        (pieces(requests.begin(last), requests.blocks(last), divisor) > 1 ? kLastCut : 0);
        value = make_int4(first, last, last_end, cut);
      }
    }
    reinterpret_cast<int4*>(params.schedule + params.layout.parts_at())[item] = value;
  }
}

}  // namespace h4j::mla
