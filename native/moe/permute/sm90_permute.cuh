// Rows of tokens to the rows of their experts. Each CTA counts all ids by itself, so that no CTA waits for another, and places its own tokens.
#pragma once

#include <cuda_bf16.h>

#include "moe/permute/permute_layout.h"
#include "tile/fault.cuh"
#include "tile/fp8.cuh"

namespace h4j::permute {

inline constexpr unsigned kWarp = 0xffffffffu;

struct Span {
  int32_t begin;
  int32_t end;
};

// The part of `count` things that is this CTA's.
__device__ inline Span own_part(int64_t count) {
  return {static_cast<int32_t>(count * blockIdx.x / gridDim.x), static_cast<int32_t>(count * (blockIdx.x + 1) / gridDim.x)};
}

__device__ inline bool is_expert(int32_t id, int experts) { return static_cast<uint32_t>(id) < static_cast<uint32_t>(experts); }

// ids: [count]; those ahead of `split` go to shared.earlier, the rest to shared.later.
__device__ inline void count_ids(const Params& params, SharedStorage& shared, int64_t split) {
  const int64_t count = int64_t{params.tokens} * params.top_k;
  const auto tally = [&](int32_t id, int64_t at) {
    if (is_expert(id, params.experts)) {
      atomicAdd((at < split ? shared.earlier : shared.later) + id, 1);
    } else if (id != -1) {
      atomicMin(&shared.first_bad, static_cast<int32_t>(at));
    }
  };
  const int64_t quads = count / 4;
  constexpr int kAhead = 4;  // loads that a thread has in flight
  for (int64_t base = threadIdx.x; base < quads; base += kThreads * kAhead) {
    int4 quad[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = base + i * kThreads;
      quad[i] = at < quads ? __ldg(reinterpret_cast<const int4*>(params.ids) + at) : make_int4(-1, -1, -1, -1);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = (base + i * kThreads) * 4;
      tally(quad[i].x, at), tally(quad[i].y, at + 1), tally(quad[i].z, at + 2), tally(quad[i].w, at + 3);
    }
  }
  if (threadIdx.x < count - quads * 4) tally(__ldg(params.ids + quads * 4 + threadIdx.x), quads * 4 + threadIdx.x);
}

__device__ inline uint64_t warp_inclusive_sum(uint64_t value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = __shfl_up_sync(kWarp, value, distance);
    if (threadIdx.x % 32 >= distance) value += other;
  }
  return value;
}

// Where the experts' rows begin and end: a thread an expert.
__device__ inline void place_experts(const Params& params, SharedStorage& shared) {
  const int expert = threadIdx.x;
  const int earlier = shared.earlier[expert];
  const int rows = earlier + shared.later[expert];
  const int aligned = (rows + params.alignment - 1) & -params.alignment;
  const auto own = static_cast<uint64_t>(aligned) << 32 | static_cast<uint32_t>(aligned - rows);  // rows and rows of padding in one sum
  uint64_t sum = warp_inclusive_sum(own);
  if (threadIdx.x % 32 == 31) shared.scan[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) shared.scan[threadIdx.x] = warp_inclusive_sum(shared.scan[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x >= 32) sum += shared.scan[threadIdx.x / 32 - 1];
  const auto end = static_cast<int32_t>(sum >> 32);
  shared.ends[expert] = end;
  shared.padding_ends[expert] = static_cast<int32_t>(sum);
  shared.next[expert] = end - aligned + earlier;
  if (blockIdx.x == 0 && expert < params.experts) params.group_ends[expert] = end;
}

// A place for each of the ids first .. first + count - 1, in their order: kRankWarps stretches are counted, then numbered.
__device__ inline void place_ids(const Params& params, SharedStorage& shared, int64_t first, int count) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int stretch = (count + kRankWarps * 32 - 1) / (kRankWarps * 32) * 32;
  const int begin = min(warp * stretch, count);
  const int end = min(begin + stretch, count);
  // Calls use(index, id or -1, lanes with the same id) for 32 ids of the stretch at a time.
  const auto for_batches = [&](auto&& use) {
    for (int base = begin; base < end; base += 32) {
      const int at = base + lane;
      int32_t id = at < end ? __ldg(params.ids + first + at) : -1;
      if (!is_expert(id, params.experts)) id = -1;
      use(at, id, __match_any_sync(kWarp, id));
      __syncwarp();
    }
  };

  for (int i = threadIdx.x; i < kRankWarps * params.experts; i += kThreads) shared.ranks[i / params.experts][i % params.experts] = 0;
  __syncthreads();
  if (warp < kRankWarps) {
    for_batches([&](int, int32_t id, unsigned same) {
      if (id >= 0 && lane == __ffs(same) - 1) shared.ranks[warp][id] += __popc(same);
    });
  }
  __syncthreads();
  if (threadIdx.x < params.experts) {
    int row = shared.next[threadIdx.x];
#pragma unroll
    for (int i = 0; i < kRankWarps; ++i) {
      const int ids = shared.ranks[i][threadIdx.x];
      shared.ranks[i][threadIdx.x] = row;
      row += ids;
    }
    shared.next[threadIdx.x] = row;
  }
  __syncthreads();
  if (warp < kRankWarps) {
    for_batches([&](int at, int32_t id, unsigned same) {
      const int row = id < 0 ? -1 : shared.ranks[warp][id] + __popc(same & ((1u << lane) - 1));
      __syncwarp();  // all have read before the leader counts on
      if (id >= 0 && lane == __ffs(same) - 1) shared.ranks[warp][id] += __popc(same);
      if (at < end) {
        shared.places[at] = row;
        params.places[first + at] = row;
        if (row >= 0 && params.sources != nullptr) params.sources[row] = static_cast<int32_t>(first + at);
      }
    });
  }
  __syncthreads();
}

// Bytes `offset`.. of a token's row as they are, to all its places.
__device__ inline void copy_piece(const Params& params, const int32_t* places, int64_t token, int offset) {
  const int own = offset + threadIdx.x % 32 * 16;
  const uint8_t* source = params.in + token * params.in_pitch + own;
  uint4 bits[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (own + i * 512 < params.out_row_bytes) bits[i] = __ldg(reinterpret_cast<const uint4*>(source + i * 512));
  }
  for (int j = 0; j < params.top_k; ++j) {
    const int row = places[j];
    if (row < 0) continue;
    uint8_t* target = params.out + row * params.out_pitch + own;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (own + i * 512 < params.out_row_bytes) *reinterpret_cast<uint4*>(target + i * 512) = bits[i];
    }
  }
}

// The scales of a chunk's rows: neighbouring threads take neighbouring ids, whose tokens' scales are neighbours.
__device__ inline void copy_scales(const Params& params, const SharedStorage& shared, int64_t first, int count) {
  for (int item = threadIdx.x; item < count * params.blocks; item += kThreads) {
    const int block = item / count;
    const int at = item % count;
    const int row = shared.places[at];
    if (row >= 0)
      params.out_scales[block * params.out_scales_ld + row] = __ldg(params.in_scales + block * params.in_scales_ld + (first + at) / params.top_k);
  }
}

// 16 elements a lane, so 8 lanes share a 1x128 block; offset counts elements, which are bytes of the output.
__device__ inline void quantize_piece(const Params& params, const int32_t* places, int64_t token, int offset) {
  using Vector = tile::Vector8<__nv_bfloat16>;
  const int lane = threadIdx.x % 32;
  const int own = offset + lane * 16;
  const auto* source = reinterpret_cast<const __nv_bfloat16*>(params.in + token * params.in_pitch) + own;
  Vector loaded[kLoads][2];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const bool inside = own + i * 512 < params.hidden;
#pragma unroll
    for (int half = 0; half < 2; ++half) loaded[i][half] = inside ? Vector::load(source + i * 512 + half * 8) : Vector::zero();
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    float amax = fmaxf(loaded[i][0].largest_magnitude(), loaded[i][1].largest_magnitude());
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) amax = fmaxf(amax, __shfl_xor_sync(kWarp, amax, distance));
    const float scale = tile::block_scale(amax, params.power_of_two != 0);
    float values[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) loaded[i][half].to_floats(values[half]);
    const uint2 low = tile::quantize8(values[0], scale);
    const uint2 high = tile::quantize8(values[1], scale);
    const int at = own + i * 512;
    if (at >= params.hidden) continue;
    for (int j = 0; j < params.top_k; ++j) {
      const int row = places[j];
      if (row < 0) continue;
      *reinterpret_cast<uint4*>(params.out + row * params.out_pitch + at) = make_uint4(low.x, low.y, high.x, high.y);
      if (lane % 8 == 0) params.out_scales[at / tile::kScaleBlock * params.out_scales_ld + row] = scale;
    }
  }
}

template <bool kQuantizes>
__device__ void move_rows(const Params& params, const SharedStorage& shared, int first_token, int tokens) {
  const int pieces = (params.out_row_bytes + kPieceBytes - 1) / kPieceBytes;
  for (int item = threadIdx.x / 32; item < tokens * pieces; item += kWarps) {
    const int token = item / pieces;
    const int offset = item % pieces * kPieceBytes;
    const int32_t* places = shared.places + token * params.top_k;
    if constexpr (kQuantizes) {
      quantize_piece(params, places, first_token + token, offset);
    } else {
      copy_piece(params, places, first_token + token, offset);
    }
  }
}

// Zeros behind each expert's rows, a warp a row; all such rows are shared out evenly.
__device__ inline void clear_padding(const Params& params, const SharedStorage& shared) {
  const int lane = threadIdx.x % 32;
  const Span own = own_part(shared.padding_ends[kMaxExperts - 1]);
  for (int item = own.begin + static_cast<int>(threadIdx.x / 32); item < own.end; item += kWarps) {
    int expert = 0;  // the first whose padding ends behind the item
    for (int step = kMaxExperts / 2; step > 0; step /= 2) {
      if (shared.padding_ends[expert + step - 1] <= item) expert += step;
    }
    const int row = shared.ends[expert] - (shared.padding_ends[expert] - item);
    for (int offset = lane * 16; offset < params.out_row_bytes; offset += 512) {
      *reinterpret_cast<uint4*>(params.out + row * params.out_pitch + offset) = make_uint4(0, 0, 0, 0);
    }
    for (int block = lane; block < params.blocks; block += 32) params.out_scales[block * params.out_scales_ld + row] = 0.0f;
    if (lane == 0 && params.sources != nullptr) params.sources[row] = -1;
  }
}

template <bool kQuantizes>
__global__ void __launch_bounds__(kThreads, 1) permute_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(16) uint8_t storage[];
  auto& shared = *reinterpret_cast<SharedStorage*>(storage);
  const Span own = own_part(params.tokens);

  shared.earlier[threadIdx.x] = 0;
  shared.later[threadIdx.x] = 0;
  if (threadIdx.x == 0) shared.first_bad = INT32_MAX;
  __syncthreads();
  count_ids(params, shared, int64_t{own.begin} * params.top_k);
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0 && shared.first_bad != INT32_MAX) {
    tile::report_fault(params.bad_ids, shared.first_bad, params.ids[shared.first_bad], -1, params.experts - 1);
  }
  place_experts(params, shared);
  __syncthreads();

  const int chunk = kChunkIds / params.top_k;
  for (int token = own.begin; token < own.end; token += chunk) {
    const int tokens = min(chunk, own.end - token);
    const int64_t first = int64_t{token} * params.top_k;
    place_ids(params, shared, first, tokens * params.top_k);
    move_rows<kQuantizes>(params, shared, token, tokens);
    if (!kQuantizes && params.blocks > 0) copy_scales(params, shared, first, tokens * params.top_k);
    __syncthreads();  // the next chunk's places overwrite these
  }
  clear_padding(params, shared);
}

}  // namespace h4j::permute
