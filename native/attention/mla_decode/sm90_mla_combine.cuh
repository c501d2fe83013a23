// Partial results of requests that lie in several parts into one, in a fixed order.
#pragma once

#include <cuda_bf16.h>

#include "attention/mla_decode/mla_decode_layout.h"
#include "tile/fault.cuh"

namespace h4j::mla {

inline constexpr int kCombineWarps = 8;
inline constexpr int kCombineThreads = 32 * kCombineWarps;

// What a decode kernel of the step found first; its block table may not be this launch's, so the entry is looked at again.
__device__ inline void report_bad_page(const Params& params) {
  const auto found = *reinterpret_cast<const unsigned long long*>(params.schedule + kBadPageAt);
  if (found == ~0ull) return;
  const auto request = static_cast<int64_t>(found >> 32);
  const int page = params.block_table[request * params.block_table_ld + static_cast<int64_t>(found & 0xffffffffu)];
  if (page < 0 || page >= params.pages) tile::report_fault(params.bad_page, request, page, 0, params.pages - 1);
}

// A row of 512 values belongs to 1, 2, 4 or 8 warps, which take its partial results in turn: few rows need many loads on their way. Fewer rows still are
// divided between CTAs, each of which has some of the dims: kSlices of them, 16 / kSlices values a lane. Rows of requests in one piece are done already;
// those without keys get 0 and +inf.
template <int kSlices>
class Combiner {
 public:
  static constexpr int kDims = kValueDim / kSlices;
  __device__ Combiner(const Params& params, float (&weights)[kCombineWarps], float (&values)[kCombineWarps][kDims])
      : params_(params), weights_(weights), values_(values) {}

  __device__ void run() {
    const int warps = params_.warps_per_row;
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int rows = params_.s_q * params_.heads;
    const int first_dim = static_cast<int>(blockIdx.x) % kSlices * kDims + lane * 4;
    const int64_t at = int64_t{blockIdx.x} / kSlices * (kCombineWarps / warps) + warp / warps;
    const int request = static_cast<int>(at / rows);
    const int row = static_cast<int>(at % rows);
    const int token = row / params_.heads;
    const int head = row % params_.heads;
    bool used = request < params_.batch;
    int first = 0;  // part
    int splits = 0;
    bool inside = false;  // a part, which has another request first
    if (used) {
      const int tokens = params_.q_tokens != nullptr ? min(max(params_.q_tokens[request], 0), params_.s_q) : params_.s_q;
      const int32_t* entry = params_.schedule + params_.layout.requests_at() + request;
      const int begin = entry[0];
      const int blocks = entry[1] - begin - kRequestOverheadBlocks;  // of cost, which is nil where there are none
      const Share share(params_.schedule[kShareAt]);
      first = share.part_of(begin);
      inside = begin != first * share.blocks;
      splits = pieces(begin, blocks, share);
      used = token < tokens && splits != 1;
    }
    // Everything above reads what the schedule wrote, which was there before the decode began; everything below what the decode writes. Whoever leaves must
    // have waited too: who comes after this kernel relies on it.
    cudaGridDependencySynchronize();
    if (blockIdx.x == 0 && threadIdx.x == 0) report_bad_page(params_);
    // Warps of one row agree, those of different rows need not: nobody leaves before the last barrier.
    if (!__syncthreads_or(used)) return;

    const int64_t stride = int64_t{params_.row_tiles} * kRows;
    // A part's first request has its even number, and only the first piece of this one may not be a part's first.
    const auto slot = [&](int split) { return (int64_t{2} * (first + split) + (split == 0 && inside ? 1 : 0)) * stride + row; };
    // Loads of several partial results at once, those behind the last one included, which count for nothing.
    float lse[kDepth];
    float4 parts[kDepth][kParts];
    const auto load = [&](int next) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const bool there = next + d * warps < splits;
        const int64_t at_slot = slot(there ? next + d * warps : 0);
        lse[d] = there ? params_.partial_lse[at_slot] : -INFINITY;
        const float* source = params_.partial_out + at_slot * kValueDim + first_dim;
#pragma unroll
        for (int i = 0; i < kParts; ++i) parts[d][i] = *reinterpret_cast<const float4*>(source + i * 128);
      }
    };
    int next = used ? warp % warps : splits;
    if (next < splits) load(next);  // on their way while the maximum is found
    float largest = -INFINITY;
    if (used) {
      for (int split = lane; split < splits; split += 32) largest = fmaxf(largest, params_.partial_lse[slot(split)]);
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    }
    const float base = largest == -INFINITY ? 0.0f : largest;
    float4 sum[kParts] = {};
    float weight = 0.0f;
    while (next < splits) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const float factor = exp2f(lse[d] - base);
        weight += factor;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
          sum[i].x = fmaf(factor, parts[d][i].x, sum[i].x);
          sum[i].y = fmaf(factor, parts[d][i].y, sum[i].y);
          sum[i].z = fmaf(factor, parts[d][i].z, sum[i].z);
          sum[i].w = fmaf(factor, parts[d][i].w, sum[i].w);
        }
      }
      next += warps * kDepth;
      if (next < splits) load(next);
    }
    if (warps > 1) {
      if (lane == 0) weights_[warp] = weight;
#pragma unroll
      for (int i = 0; i < kParts; ++i) *reinterpret_cast<float4*>(&values_[warp][i * 128 + lane * 4]) = sum[i];
      __syncthreads();
      if (warp % warps != 0) return;
      for (int other = warp + 1; other < warp + warps; ++other) {
        weight += weights_[other];
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
          const float4 part = *reinterpret_cast<const float4*>(&values_[other][i * 128 + lane * 4]);
          sum[i].x += part.x, sum[i].y += part.y, sum[i].z += part.z, sum[i].w += part.w;
        }
      }
    }
    if (!used) return;
    float total = weight;
    if (params_.sink != nullptr && weight > 0.0f) total += exp2f(params_.sink[head] * 1.44269504f - base);
    const float factor = total > 0.0f ? 1.0f / total : 0.0f;
    auto* target = static_cast<__nv_bfloat16*>(params_.out) + at * kValueDim + first_dim;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(sum[i].x * factor, sum[i].y * factor),
                                       __floats2bfloat162_rn(sum[i].z * factor, sum[i].w * factor)};
      uint2 words;
      memcpy(&words, pairs, sizeof words);
      *reinterpret_cast<uint2*>(target + i * 128) = words;
    }
    if (lane == 0 && blockIdx.x % kSlices == 0) {
      params_.lse[(int64_t{request} * params_.heads + head) * params_.s_q + token] = weight > 0.0f ? (base + log2f(weight)) * 0.693147181f : INFINITY;
    }
  }

 private:
  static constexpr int kParts = kDims / 128;  // of four values a lane
  static constexpr int kDepth = 2 * kSlices;  // partial results whose loads are on their way together

  const Params& params_;
  float (&weights_)[kCombineWarps];
  float (&values_)[kCombineWarps][kDims];
};

template <int kSlices>
__global__ void __launch_bounds__(kCombineThreads, kMergeCtasPerSm) combine_kernel(const __grid_constant__ Params params) {
  __shared__ float weights[kCombineWarps];
  __shared__ float values[kCombineWarps][kValueDim / kSlices];
  Combiner<kSlices>(params, weights, values).run();
}

}  // namespace h4j::mla
