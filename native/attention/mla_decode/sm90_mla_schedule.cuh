// The schedule of a decode step: equal shares of all requests' blocks, by a prefix sum, with no serial walk.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"
#include "tile/fault.cuh"

namespace h4j::mla {

inline constexpr int kScheduleThreads = 512;
inline constexpr int kScheduleWarps = kScheduleThreads / 32;
// Beginnings of the first requests are kept in shared memory; those of later ones are read again.
inline constexpr int kCached = 2048;

struct ScheduleStorage {
  int begins[kCached + 1];
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

  // Of the cost that its blocks are.
  __device__ int begin(int request) const { return request <= kCached ? shared_.begins[request] : table_[request]; }
  // The next one begins behind them.
  __device__ int blocks(int request) const { return max(begin(request + 1) - begin(request) - kRequestOverheadBlocks, 0); }

  __device__ void set(int request, int begin) const {
    if (request <= kCached) shared_.begins[request] = begin;
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
    const int of_warp = lane < kScheduleWarps ? shared_.warp_sums[turn_][lane] : 0;
    const int before = total_ + __reduce_add_sync(0xffffffffu, lane < warp ? of_warp : 0) + sum - cost;
    total_ += __reduce_add_sync(0xffffffffu, of_warp);
    largest_ = max(largest_, __reduce_max_sync(0xffffffffu, lane < kScheduleWarps ? shared_.warp_largest[turn_][lane] : 0));
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

__device__ inline Share approximate_share(int share) { return {share, __fdividef(1.0f, static_cast<float>(share))}; }
__device__ inline int divide_up(int value, int by) { return (value + by - 1) / by; }

// Blocks of a part. The even share cuts most requests when there are about as many requests as parts; a slightly larger one, or one that whole requests
// of the largest kind fill, may cut fewer and cost less. Two warps try a share: one piece of code for all, since a kernel this short waits for its code.
__device__ inline int choose_share(const ScheduleParams& params, const Requests& requests, const Prefix& prefix, ScheduleStorage& shared) {
  static_assert(2 * kShares <= kScheduleWarps && kShares <= 8, "two warps a share; its number has three bits below");
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int even = max(divide_up(prefix.total(), params.layout.parts), 1);
  const int whole = divide_up(even, prefix.largest()) * prefix.largest();
  const auto candidate = [&](int i) { return i < kShares - 1 ? even + i * max(even / 48, 1) : whole; };
  if (warp < 2 * kShares) {
    const Share share = approximate_share(candidate(warp / 2));
    int count = 0;
    for (int request = lane + warp % 2 * 32; request < params.batch; request += 64) {
      const int cut = pieces(requests.begin(request), requests.blocks(request), share);
      count += cut > 1 ? cut : 0;
    }
    count = __reduce_add_sync(0xffffffffu, count);
    if (lane == 0) atomicAdd(&shared.pieces[warp / 2], count);  // integers: the order does not matter
  }
  __syncthreads();
  // Every warp compares all, one a lane; of equal ones the first.
  const int own = candidate(min(lane, kShares - 1));
  const int cut = shared.pieces[min(lane, kShares - 1)];
  const float cost = static_cast<float>(own) + params.partial_cost * static_cast<float>(cut) + (cut > 0 ? kMergeBlocks : 0.0f);
  const unsigned key = lane < kShares ? (__float_as_uint(cost) & ~7u) | static_cast<unsigned>(lane) : ~0u;
  return __shfl_sync(0xffffffffu, own, static_cast<int>(__reduce_min_sync(0xffffffffu, key) & 7u));
}

// Bad lengths and query tokens are cut to their bounds everywhere; the host is told of the first. Gives the request's blocks.
__device__ inline int count_blocks(const ScheduleParams& params, int request, ScheduleStorage& shared) {
  if (request >= params.batch) return 0;
  const int length = params.lengths[request];
  if (static_cast<unsigned>(length) > static_cast<unsigned>(params.max_length)) atomicMin(&shared.bad_length, request);
  int tokens = params.s_q;
  if (params.q_tokens != nullptr) {
    const int used = params.q_tokens[request];
    if (static_cast<unsigned>(used) > static_cast<unsigned>(params.s_q)) atomicMin(&shared.bad_q_tokens, request);
    tokens = min(max(used, 0), params.s_q);
  }
  return tokens > 0 ? block_range(length, tokens, params.window, params.max_length).count : 0;
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
  __syncthreads();

  // Where each request's cost begins.
  Prefix prefix(shared);
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int blocks = count_blocks(params, request, shared);
    const int begin = prefix.add(blocks > 0 ? blocks + kRequestOverheadBlocks : 0);
    if (request < params.batch) requests.set(request, begin);
  }
  const int total = prefix.total();
  if (threadIdx.x == kScheduleThreads - 1) requests.set(params.batch, total);
  __syncthreads();
  const int share = choose_share(params, requests, prefix, shared);
  if (threadIdx.x == kScheduleThreads - 1) {
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
        const Share divisor = approximate_share(share);
        const int cut = (pieces(requests.begin(first), requests.blocks(first), divisor) > 1 ? kFirstCut : 0) |
                        (pieces(requests.begin(last), requests.blocks(last), divisor) > 1 ? kLastCut : 0) | (share >= kLongPart ? kLong : 0);
        value = make_int4(first, last, last_end, cut);
      }
    }
    reinterpret_cast<int4*>(params.schedule + params.layout.parts_at())[item] = value;
  }
}

}  // namespace h4j::mla
