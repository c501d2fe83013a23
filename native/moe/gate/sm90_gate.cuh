// Scores, groups, top-k, weights and counts of a token in one warp, all in registers.
#pragma once

#include <cuda_bf16.h>

#include "moe/gate/gate_layout.h"

namespace h4j::gate {

inline constexpr unsigned kWarp = 0xffffffffu;

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Unsigned numbers in the order of floats, NaN of either sign above infinity; none is 0, which stands for "not to be taken".
__device__ inline uint32_t key_of(float value) {
  if (value != value) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float value_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kWarp, value, distance);
  return value;
}

// The score of a logit; of a softmax, given the row's maximum and the sum of exponentials below it.
__device__ inline float score_of(float logit, bool softmax, float largest, float sum) {
  return softmax ? __fdiv_rn(expf(logit - largest), sum) : __fdiv_rn(1.0f, 1.0f + expf(-logit));
}

// The experts of a lane: group_first + lane_in_group + i * lanes_per_group for the i below `held`.
struct Place {
  int group;
  int first;
  int stride;
  int held;

  __device__ explicit Place(const Params& params) {
    const int lane = threadIdx.x % 32;
    const int in_group = params.experts / params.groups;
    stride = params.lanes_per_group;
    group = lane / stride;
    first = group * in_group + lane % stride;
    held = group < params.groups ? (in_group - lane % stride + stride - 1) / stride : 0;
  }
  __device__ int expert(int i) const { return first + i * stride; }
};

// The two largest keys of a group, known to all its lanes.
template <int kHeld>
__device__ void best_two(const uint32_t (&keys)[kHeld], int lanes, uint32_t& first, uint32_t& second) {
  first = second = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    second = max(second, min(first, keys[i]));
    first = max(first, keys[i]);
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    const uint32_t other_first = __shfl_xor_sync(kWarp, first, distance);
    const uint32_t other_second = __shfl_xor_sync(kWarp, second, distance);
    second = max(max(second, other_second), min(first, other_first));
    first = max(first, other_first);
  }
}

// Whether this lane's group is among the best.
template <int kHeld>
__device__ bool keeps_group(const uint32_t (&keys)[kHeld], const Place& place, int kept_groups) {
  uint32_t first, second;
  best_two(keys, place.stride, first, second);
  uint32_t key = first == 0 ? 0 : key_of(second == 0 ? value_of(first) : value_of(first) + value_of(second));
  bool kept = false;
  for (int round = 0; round < kept_groups; ++round) {
    const uint32_t best = __reduce_max_sync(kWarp, key);
    if (best == 0) break;
    const unsigned winner = __reduce_min_sync(kWarp, key == best ? static_cast<unsigned>(place.group) : kMaxGroups);
    if (winner == static_cast<unsigned>(place.group)) kept = true, key = 0;
  }
  return kept;
}

// Takes the best expert round after round; lane r of the warp keeps the one of round r, -1 where none was left.
template <int kHeld>
__device__ int take_best(uint32_t (&keys)[kHeld], const Place& place, int top_k) {
  const int lane = threadIdx.x % 32;
  int taken = -1;
  uint32_t own_best = 0;
  int own_at = 0;
  const auto find_own = [&] {
    own_best = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (keys[i] > own_best) own_best = keys[i], own_at = i;
    }
  };
  find_own();
  for (int round = 0; round < top_k; ++round) {
    const uint32_t best = __reduce_max_sync(kWarp, own_best);
    if (best == 0) break;
    const unsigned own = static_cast<unsigned>(place.expert(own_at));
    const unsigned winner = __reduce_min_sync(kWarp, own_best == best ? own : kMaxExperts);
    if (lane == round) taken = static_cast<int>(winner);
    if (own_best == best && own == winner) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) keys[i] = i == own_at ? 0 : keys[i];
      find_own();
    }
  }
  return taken;
}

template <class Logit, int kHeld>
__device__ void gate_token(const Params& params, const Place& place, int64_t token, int* counts) {
  const int lane = threadIdx.x % 32;
  const Logit* row = static_cast<const Logit*>(params.logits) + token * params.logits_ld;
  const bool softmax = params.softmax != 0;

  float logits[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) logits[i] = i < place.held ? to_float(row[place.expert(i)]) : -INFINITY;
  float largest = 0.0f;
  float sum = 1.0f;
  if (softmax) {
    largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) largest = fmaxf(largest, logits[i]);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, distance));
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) sum += i < place.held ? expf(logits[i] - largest) : 0.0f;
    sum = warp_sum(sum);
  }

  uint32_t keys[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    keys[i] = 0;
    if (i < place.held && (params.disabled == nullptr || __ldg(params.disabled + place.expert(i)) == 0)) {
      const float bias = params.bias == nullptr ? 0.0f : __ldg(params.bias + place.expert(i));
      keys[i] = key_of(score_of(logits[i], softmax, largest, sum) + bias);
    }
  }
  if (params.kept_groups < params.groups && !keeps_group(keys, place, params.kept_groups)) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) keys[i] = 0;
  }
  const int taken = take_best(keys, place, params.top_k);

  // A lane an expert taken: its score again, which is cheaper than having kept all of them.
  const float score = taken < 0 ? 0.0f : score_of(to_float(row[taken]), softmax, largest, sum);
  const float norm = params.normalize ? warp_sum(score) + 1e-20f : 1.0f;
  if (lane < params.top_k) {
    const int64_t at = token * params.top_k + lane;
    params.ids[at] = taken;
    params.weights[at] = __fdiv_rn(score, norm) * params.scale;
    if (counts != nullptr && taken >= 0) atomicAdd(counts + taken, 1);
  }
}

template <class Logit, int kHeld>
__global__ void __launch_bounds__(kThreads) gate_kernel(const __grid_constant__ Params params) {
  __shared__ int counts[kMaxExperts];
  const bool counting = params.counts != nullptr;
  if (counting) {
    for (int i = threadIdx.x; i < params.experts; i += kThreads) counts[i] = 0;
    __syncthreads();
  }
  const Place place(params);
  for (int64_t token = int64_t{blockIdx.x} * kWarpsPerCta + threadIdx.x / 32; token < params.tokens; token += int64_t{gridDim.x} * kWarpsPerCta) {
    gate_token<Logit, kHeld>(params, place, token, counting ? counts : nullptr);
  }
  if (counting) {
    __syncthreads();
    for (int i = threadIdx.x; i < params.experts; i += kThreads) {
      if (counts[i] != 0) atomicAdd(params.counts + i, counts[i]);  // integers: the same sum in any order
    }
  }
}

}  // namespace h4j::gate
