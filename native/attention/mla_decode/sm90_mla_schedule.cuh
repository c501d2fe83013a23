// The schedule of a decode step: equal pieces of all requests' blocks, by prefix sums, with no serial walk.
#pragma once

#include "attention/mla_decode/mla_decode_layout.h"

namespace h4j::mla {

inline constexpr int kScheduleThreads = 512;

__device__ inline BlockRange request_blocks(const ScheduleParams& params, int request) {
  if (request >= params.batch) return {0, 0};
  const int tokens = params.q_tokens != nullptr ? min(max(params.q_tokens[request], 0), params.s_q) : params.s_q;
  if (tokens == 0) return {0, 0};
  return block_range(params.lengths[request], tokens, params.window, params.max_length);
}

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

__global__ void __launch_bounds__(kScheduleThreads) schedule_kernel(const __grid_constant__ ScheduleParams params) {
  __shared__ int warp_sums[kScheduleThreads / 32];
  int32_t* requests = params.schedule + params.layout.requests_at();
  const int parts = params.layout.parts;

  // Where each request's cost begins.
  int total = 0;
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int blocks = request_blocks(params, request).count;
    const int2 sums = scan_before(blocks > 0 ? blocks + kRequestOverheadBlocks : 0, warp_sums);
    if (request < params.batch) requests[2 * request] = total + sums.x;
    total += sums.y;
  }
  const int share = max((total + parts - 1) / parts, 1 + kRequestOverheadBlocks);
  __syncthreads();

  // Parts that a request's blocks lie in are its splits.
  int splits_before = 0;
  for (int first = 0; first < params.batch; first += kScheduleThreads) {
    const int request = first + static_cast<int>(threadIdx.x);
    const int blocks = request_blocks(params, request).count;
    const int begin = request < params.batch ? requests[2 * request] : 0;
    const int splits = blocks > 0 ? (begin + blocks - 1) / share - begin / share + 1 : 0;
    const int2 sums = scan_before(splits, warp_sums);
    if (request < params.batch) requests[2 * request + 1] = splits_before + sums.x;
    splits_before += sums.y;
  }
  if (threadIdx.x == 0) {
    requests[2 * params.batch] = total;
    requests[2 * params.batch + 1] = splits_before;
    params.schedule[0] = share;
    params.schedule[1] = parts;
    params.schedule[2] = params.batch;
    params.schedule[3] = 0;
  }
  __syncthreads();

  // Each part's first and last request: the last one that begins at or before a cost.
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += kScheduleThreads) {
    const int begin = part * share;
    const int end = min(begin + share, total);
    int4 range = make_int4(0, 0, -1, 0);
    if (begin < end) {
      const auto request_at = [&](int cost) {
        int low = 0;
        int high = params.batch - 1;
        while (low < high) {
          const int middle = (low + high + 1) / 2;
          if (requests[2 * middle] <= cost) low = middle; else high = middle - 1;
        }
        return low;
      };
      const int first = request_at(begin);
      const int last = request_at(end - 1);
      range = make_int4(first, begin - requests[2 * first], last, end - requests[2 * last]);
    }
    reinterpret_cast<int4*>(params.schedule + params.layout.parts_at())[part] = range;
  }
}

}  // namespace h4j::mla
