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
// divided between CTAs, each of which has some of the dims: kSlices of them, 16 / kSlices values a lane. With many rows most are in one piece: a warp looks at
// up to 32 then, one a lane, and the grid is what fits the SMs side by side. Rows of requests in one piece are done already; those without keys get 0 and +inf.
template <int kSlices, bool kManyRows>
class Combiner {
 public:
  static constexpr int kDims = kValueDim / kSlices;
  __device__ Combiner(const Params& params, float (&weights)[kCombineWarps], float (&values)[kCombineWarps][kDims])
      : params_(params), weights_(weights), values_(values) {}

  __device__ void run() {
    const int warps = kManyRows ? 1 : params_.warps_per_row;
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int rows = params_.s_q * params_.heads;
    const int first_dim = static_cast<int>(blockIdx.x) % kSlices * kDims + lane * 4;
    const int groups = kCombineWarps / warps;
    const int64_t row_stride = int64_t{gridDim.x} / kSlices * groups;
    const int64_t first_row = int64_t{blockIdx.x} / kSlices * groups + warp / warps;
    const Pieces own = look_at(kManyRows ? first_row + lane * row_stride : first_row, rows);
    // Everything above reads what the schedule wrote, which was there before the decode began; everything below what the decode writes. Whoever leaves must
    // have waited too: who comes after this kernel relies on it.
    cudaGridDependencySynchronize();
    if (blockIdx.x == 0 && threadIdx.x == 0) report_bad_page(params_);
    if constexpr (kManyRows) {
      for (uint32_t waiting = __ballot_sync(0xffffffffu, own.used); waiting != 0; waiting &= waiting - 1) {
        const int from = __ffs(static_cast<int>(waiting)) - 1;
        merge(own.from_lane(from), first_dim);
      }
    } else {
      // Warps of one row agree, those of different rows need not: nobody leaves before the last barrier.
      if (__syncthreads_or(own.used)) merge(own, first_dim);
    }
  }

 private:
  static constexpr int kParts = kDims / 128;  // of four values a lane
  static constexpr int kDepth = 2 * kSlices;  // partial results whose loads are on their way together

  // A row and where its partial results are.
  struct Pieces {
    int request;
    int row;    // of the request
    int first;  // part
    int splits;
    bool used;    // there is something to write: several pieces or none, and a query token
    bool inside;  // the first part has another request first

    __device__ Pieces from_lane(int lane) const {
      const auto of = [lane](int value) { return __shfl_sync(0xffffffffu, value, lane); };
      const int flags = of((used ? 1 : 0) | (inside ? 2 : 0));
      return {of(request), of(row), of(first), of(splits), (flags & 1) != 0, (flags & 2) != 0};
    }
  };

  __device__ Pieces look_at(int64_t at, int rows) const {
    const int request = static_cast<int>(at / rows);
    if (request >= params_.batch) return {};
    const int tokens = params_.q_tokens != nullptr ? min(max(params_.q_tokens[request], 0), params_.s_q) : params_.s_q;
    const int32_t* entry = params_.schedule + params_.layout.requests_at() + request;
    const int begin = entry[0];
    const int blocks = entry[1] - begin - kRequestOverheadBlocks;  // of cost, which is nil where there are none
    const Share share(params_.schedule[kShareAt]);
    const int first = share.part_of(begin);
    const int splits = pieces(begin, blocks, share);
    const int row = static_cast<int>(at % rows);
    return {request, row, first, splits, row / params_.heads < tokens && splits != 1, begin != first * share.blocks};
  }

  __device__ void merge(const Pieces& pieces, int first_dim) {
    const int warps = kManyRows ? 1 : params_.warps_per_row;
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = pieces.row;
    const int token = row / params_.heads;
    const int head = row % params_.heads;
    const bool used = pieces.used;
    const int first = pieces.first;
    const int splits = pieces.splits;
    const int64_t stride = int64_t{params_.row_tiles} * kRows;
    // A part's first request has its even number, and only the first piece of this one may not be a part's first.
    const auto slot = [&](int split) { return (int64_t{2} * (first + split) + (split == 0 && pieces.inside ? 1 : 0)) * stride + row; };
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
    auto* target = static_cast<__nv_bfloat16*>(params_.out) + (int64_t{pieces.request} * params_.s_q * params_.heads + row) * kValueDim + first_dim;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(sum[i].x * factor, sum[i].y * factor),
                                       __floats2bfloat162_rn(sum[i].z * factor, sum[i].w * factor)};
      uint2 words;
      memcpy(&words, pairs, sizeof words);
      *reinterpret_cast<uint2*>(target + i * 128) = words;
    }
    if (lane == 0 && blockIdx.x % kSlices == 0) {
      params_.lse[(int64_t{pieces.request} * params_.heads + head) * params_.s_q + token] =
          weight > 0.0f ? (base + log2f(weight)) * 0.693147181f : INFINITY;
    }
  }

  const Params& params_;
  float (&weights_)[kCombineWarps];
  float (&values_)[kCombineWarps][kDims];
};

template <int kSlices, bool kManyRows>
__global__ void __launch_bounds__(kCombineThreads, kManyRows ? kMergeCtasPerSmOfManyRows : kMergeCtasPerSm)
    combine_kernel(const __grid_constant__ Params params) {
  __shared__ float weights[kCombineWarps];
  __shared__ float values[kCombineWarps][kValueDim / kSlices];
  Combiner<kSlices, kManyRows>(params, weights, values).run();
}

}  // namespace h4j::mla
