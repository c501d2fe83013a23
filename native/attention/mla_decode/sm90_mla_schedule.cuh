// The schedule of a decode step: equal shares of all requests' blocks, by prefix sums, with no serial walk.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"
#include "tile/fault.cuh"

namespace h4j::mla {

inline constexpr int kScheduleThreads = 512;

__device__ inline int query_tokens(const ScheduleParams& params, int request) {
  return params.q_tokens != nullptr ? min(max(params.q_tokens[request], 0), params.s_q) : params.s_q;
}

__device__ inline BlockRange request_blocks(const ScheduleParams& params, int request) {
  if (request >= params.batch) return {0, 0};
  const int tokens = query_tokens(params, request);
  if (tokens == 0) return {0, 0};
  return block_range(params.lengths[request], tokens, params.window, params.max_length);
}

// Blocks and beginnings of the first requests in shared memory; those of later ones are computed and read again.
inline constexpr int kCached = 2048;

struct Cache {
  int blocks[kCached];
  int begins[kCached];
};

class Requests {
 public:
  __device__ Requests(const ScheduleParams& params, Cache& cache)
      : params_(params), cache_(cache), table_(params.schedule + params.layout.requests_at()) {}

  __device__ int blocks(int request) const { return request < kCached ? cache_.blocks[request] : request_blocks(params_, request).count; }
  __device__ int begin(int request) const { return request < kCached ? cache_.begins[request] : table_[2 * request]; }
  __device__ void set(int request, int blocks, int begin) const {
    if (request < kCached) {
      cache_.blocks[request] = blocks;
      cache_.begins[request] = begin;
    }
    table_[2 * request] = begin;
  }
  __device__ void set_split(int request, int split) const { table_[2 * request + 1] = split; }

 private:
  const ScheduleParams& params_;
  Cache& cache_;
  int32_t* table_;
};

// Inclusive prefix sum over the CTA; `warp_sums` has a slot a warp. Returns the sum before this thread and the total.
__device__ inline int2 scan_before(int value, int* warp_sums) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  int before = 0;
  int total = 0;
#pragma unroll
  for (int w = 0; w < kScheduleThreads / 32; ++w) {
    before += w < warp ? warp_sums[w] : 0;
    total += warp_sums[w];
  }
  __syncthreads();
  return {before + sum - value, total};
}

// Parts of `share` blocks that a request's blocks lie in.
__device__ inline int pieces(int begin, int blocks, int share) { return blocks > 0 ? (begin + blocks - 1) / share - begin / share + 1 : 0; }

// What the choice of a share adds up over the CTA.
struct Tally {
  int bad_length;  // first request whose length lies outside its bounds, and whose query tokens do
  int bad_q_tokens;
  int largest;          // cost of a request
  int pieces[kShares];  // of requests that a share cuts
};

// Blocks of a part. The even share cuts most requests when there are about as many requests as parts; a slightly larger one, or one that whole requests
// of the largest kind fill, may cut fewer and cost less.
__device__ inline int choose_share(const ScheduleParams& params, const Requests& requests, int total, Tally& tally) {
  int largest = 1;
  for (int request = static_cast<int>(threadIdx.x); request < params.batch; request += kScheduleThreads) {
    largest = max(largest, requests.blocks(request) + kRequestOverheadBlocks);
  }
  largest = __reduce_max_sync(0xffffffffu, largest);
  if (threadIdx.x % 32 == 0) atomicMax(&tally.largest, largest);  // integers: the order does not matter, here and below
  __syncthreads();

  const int even = max((total + params.layout.parts - 1) / params.layout.parts, 1);
  int shares[kShares];
#pragma unroll
  for (int i = 0; i < kShares - 1; ++i) shares[i] = even + i * max(even / 48, 1);
  shares[kShares - 1] = (even + tally.largest - 1) / tally.largest * tally.largest;

  // A warp looks at 32 requests and one share at a time: few requests are spread over all warps.
  const int groups = (params.batch + 31) / 32;
  for (int item = static_cast<int>(threadIdx.x / 32); item < groups * kShares; item += kScheduleThreads / 32) {
    const int share = item / groups;
    const int request = item % groups * 32 + static_cast<int>(threadIdx.x % 32);
    int chosen = 0;
#pragma unroll
    for (int i = 0; i < kShares; ++i) chosen = share == i ? shares[i] : chosen;
    const int count = request < params.batch ? pieces(requests.begin(request), requests.blocks(request), chosen) : 0;
    const int sum = __reduce_add_sync(0xffffffffu, count > 1 ? count : 0);
    if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(&tally.pieces[share], sum);
  }
  __syncthreads();
  int best = even;
  float least = 0.0f;
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    const float cost =
        static_cast<float>(shares[i]) + params.partial_cost * static_cast<float>(tally.pieces[i]) + (tally.pieces[i] > 0 ? kMergeBlocks : 0.0f);
    if (i == 0 || cost < least) {
      least = cost;
      best = shares[i];
    }
  }
  return best;
}

// Bad lengths and query tokens are cut to their bounds everywhere; the host is told of the first.
__device__ inline void note_bad_values(const ScheduleParams& params, int request, Tally& tally) {
  const int length = params.lengths[request];
  if (length < 0 || length > params.max_length) atomicMin(&tally.bad_length, request);
  if (params.q_tokens == nullptr) return;
  const int tokens = params.q_tokens[request];
  if (tokens < 0 || tokens > params.s_q) atomicMin(&tally.bad_q_tokens, request);
}

__device__ inline void report_bad_values(const ScheduleParams& params, const Tally& tally) {
  if (tally.bad_length != INT32_MAX) {
    tile::report_fault(params.bad_length, tally.bad_length, params.lengths[tally.bad_length], 0, params.max_length);
  }
  if (tally.bad_q_tokens != INT32_MAX) {
    tile::report_fault(params.bad_q_tokens, tally.bad_q_tokens, params.q_tokens[tally.bad_q_tokens], 0, params.s_q);
  }
}

__global__ void __launch_bounds__(kScheduleThreads) schedule_kernel(const __grid_constant__ ScheduleParams params) {
  __shared__ int warp_sums[kScheduleThreads / 32];
  __shared__ Tally tally;
  __shared__ Cache cache;
  const Requests requests(params, cache);
  const int parts = params.layout.parts;
  if (threadIdx.x == 0) tally.largest = 1, tally.bad_length = tally.bad_q_tokens = INT32_MAX;
  if (threadIdx.x < kShares) tally.pieces[threadIdx.x] = 0;
  __syncthreads();

  // Where each request's cost begins.
  int total = 0;
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int blocks = request_blocks(params, request).count;
    const int2 sums = scan_before(blocks > 0 ? blocks + kRequestOverheadBlocks : 0, warp_sums);
    if (request < params.batch) {
      requests.set(request, blocks, total + sums.x);
      note_bad_values(params, request, tally);
    }
    total += sums.y;
  }
  __syncthreads();
  const int share = choose_share(params, requests, total, tally);

  // Parts that a request's blocks lie in are its splits.
  int splits_before = 0;
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int splits = request < params.batch ? pieces(requests.begin(request), requests.blocks(request), share) : 0;
    const int2 sums = scan_before(splits, warp_sums);
    if (request < params.batch) requests.set_split(request, splits_before + sums.x);
    splits_before += sums.y;
  }
  if (threadIdx.x == 0) {
    int32_t* end = params.schedule + params.layout.requests_at() + int64_t{2} * params.batch;
    end[0] = total;
    end[1] = splits_before;
    *reinterpret_cast<unsigned long long*>(params.schedule + kBadPageAt) = ~0ull;
    params.schedule[kShareAt] = share;
    report_bad_values(params, tally);
  }
  __syncthreads();

  // Each part's first and last request: the last one that begins at or before a cost. A thread each, side by side.
  for (int item = static_cast<int>(threadIdx.x); item < (2 * parts + 31) / 32 * 32; item += kScheduleThreads) {
    const int part = item / 2;
    const bool second = item % 2 != 0;
    const int begin = part * share;
    const int end = min(begin + share, total);
    const int cost = second ? end - 1 : begin;
    int low = 0;
    int high = params.batch - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (requests.begin(middle) <= cost)
        low = middle;
      else
        high = middle - 1;
    }
    const int other = __shfl_xor_sync(0xffffffffu, low, 1);
    if (part >= parts) continue;
    const int first = second ? other : low;
    const int last = second ? low : other;
    int4 value = second ? make_int4(0, 0, 0, 0) : make_int4(0, -1, 0, 0);  // of a part without work
    if (begin < end) {
      const int last_end = end - requests.begin(last);
      if (second) {
        const int skipped = begin - requests.begin(first);
        const int first_end = first == last ? min(last_end, requests.blocks(first)) : requests.blocks(first);
        const int tokens = query_tokens(params, first);
        const int length = min(max(params.lengths[first], 0), params.max_length);
        value = make_int4(length, tokens, block_range(length, tokens, params.window, params.max_length).first + skipped, max(first_end - skipped, 0));
      } else {
        value = make_int4(first, last, last_end, 0);
      }
    }
    reinterpret_cast<int4*>(params.schedule + params.layout.parts_at())[item] = value;
  }
}

}  // namespace h4j::mla
