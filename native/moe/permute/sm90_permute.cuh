// Rows of tokens to the rows of their experts: a cluster finds where each goes, then all SMs move them.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include <utility>

#include "moe/permute/permute_layout.h"
#include "tile/fault.cuh"
#include "tile/fp8.cuh"

namespace h4j::permute {

inline constexpr unsigned kWarp = 0xffffffffu;

__device__ inline bool is_expert(int32_t id, int experts) { return static_cast<uint32_t>(id) < static_cast<uint32_t>(experts); }

__device__ inline uint64_t warp_inclusive_sum(uint64_t value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = __shfl_up_sync(kWarp, value, distance);
    if (threadIdx.x % 32 >= distance) value += other;
  }
  return value;
}

// The sum of the values of all threads up to this one. `scan` has a word for each warp; all threads of the CTA call it.
template <int kCtaWarps>
__device__ uint64_t inclusive_sum(uint64_t value, uint64_t* scan) {
  uint64_t sum = warp_inclusive_sum(value);
  if (threadIdx.x % 32 == 31) scan[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    const uint64_t warps = warp_inclusive_sum(threadIdx.x < kCtaWarps ? scan[threadIdx.x] : 0);
    if (threadIdx.x < kCtaWarps) scan[threadIdx.x] = warps;
  }
  __syncthreads();
  return threadIdx.x < 32 ? sum : sum + scan[threadIdx.x / 32 - 1];
}

// ---- Routing

// The lanes whose id is this lane's. By a ballot for each bit of an id: several times as fast as matching 32 different values.
__device__ inline unsigned lanes_with(int32_t id, bool valid, int bits) {
  const unsigned all = __ballot_sync(kWarp, valid);
  unsigned same = valid ? all : ~all;
#pragma unroll
  for (int bit = 0; bit < kExpertBits; ++bit) {
    if (bit >= bits) break;
    const bool set = (id & 1 << bit) != 0;
    const unsigned with = __ballot_sync(kWarp, set);
    same &= set ? with : ~with;
  }
  return same;
}

// Calls use(index, id, whether it is an expert, lanes with the same one) for the ids begin..end, 32 at a time and in order; the whole warp calls it.
template <class Use>
__device__ void for_batches(const Params& params, int begin, int end, Use use) {
  constexpr int kBatchesAhead = 8;
  const int lane = threadIdx.x % 32;
  const int bits = 32 - __clz(params.experts - 1);
  for (int base = begin; base < end; base += 32 * kBatchesAhead) {
    int32_t ids[kBatchesAhead];
#pragma unroll
    for (int i = 0; i < kBatchesAhead; ++i) {
      const int at = base + 32 * i + lane;
      ids[i] = at < end ? __ldg(params.ids + at) : -1;
    }
#pragma unroll
    for (int i = 0; i < kBatchesAhead; ++i) {
      if (base + 32 * i < end) {
        const bool valid = is_expert(ids[i], params.experts);
        use(base + 32 * i + lane, ids[i], valid, lanes_with(ids[i], valid, bits));
        __syncwarp();
      }
    }
  }
}

// Where scales are copied by row, their first column has the rows' tokens until then.
__device__ inline int32_t* tokens_of_rows(const Params& params) { return reinterpret_cast<int32_t*>(params.out_scales); }

// One cluster. The stretches of its warps follow each other as the CTAs and warps do, so that the order is that of the ids however many CTAs there are.
__global__ void __launch_bounds__(kRouteThreads, 1) route_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(16) uint8_t storage[];
  cudaTriggerProgrammaticLaunchCompletion();  // rows are loaded meanwhile
  auto& shared = *reinterpret_cast<RouteStorage*>(storage);
  auto* ranks = reinterpret_cast<int32_t*>(storage + sizeof(RouteStorage));
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const auto cluster = cooperative_groups::this_cluster();
  const auto cta = static_cast<int>(blockIdx.x);
  const auto ctas = static_cast<int>(gridDim.x);
  const int count = params.tokens * params.top_k;
  const int batches = (count + 31) / 32;
  const int stretch = (batches + ctas * kRouteWarps - 1) / (ctas * kRouteWarps) * 32;
  const int begin = static_cast<int>(min(int64_t{count}, int64_t{cta * kRouteWarps + warp} * stretch));
  const int end = static_cast<int>(min(int64_t{count}, int64_t{begin} + stretch));
  int32_t* own = ranks + warp * params.experts;

  for (int expert = lane; expert < params.experts; expert += 32) own[expert] = 0;
  if (threadIdx.x == 0) shared.first_bad = INT32_MAX;
  __syncthreads();
  for_batches(params, begin, end, [&](int at, int32_t id, bool valid, unsigned same) {
    if (valid) {
      if (lane == __ffs(same) - 1) own[id] += __popc(same);
    } else if (id != -1) {
      atomicMin(&shared.first_bad, at);
    }
  });
  __syncthreads();

  const int expert = threadIdx.x;
  int total = 0;
  if (expert < params.experts) {
#pragma unroll 8
    for (int i = 0; i < kRouteWarps; ++i) {
      const int ids = ranks[i * params.experts + expert];
      ranks[i * params.experts + expert] = total;
      total += ids;
    }
  }
  shared.totals[expert] = total;
  cluster.sync();
  int32_t totals[kMaxRouteCtas];
#pragma unroll
  for (int i = 0; i < kMaxRouteCtas; ++i) {
    totals[i] = i < ctas && expert < params.experts ? *cluster.map_shared_rank(&shared.totals[expert], i) : 0;
  }
  if (cta == 0 && warp == 0) {
    const int first_bad = __reduce_min_sync(kWarp, lane < ctas ? *cluster.map_shared_rank(&shared.first_bad, lane) : INT32_MAX);
    if (lane == 0 && first_bad != INT32_MAX) {
      tile::report_fault(params.bad_ids, first_bad, params.ids[first_bad], -1, params.experts - 1);
    }
  }
  int earlier = 0;
  int rows = 0;
#pragma unroll
  for (int i = 0; i < kMaxRouteCtas; ++i) {
    rows += totals[i];
    if (i < cta) earlier += totals[i];
  }
  auto left = cluster.barrier_arrive();  // the others' shared memory is not read any more
  const int aligned = (rows + params.alignment - 1) & -params.alignment;
  const auto expert_end = static_cast<int32_t>(inclusive_sum<kRouteWarps>(static_cast<uint64_t>(aligned), shared.scan));
  const int expert_begin = expert_end - aligned;
  shared.next[expert] = expert_begin + earlier;
  if (expert < params.experts && expert % ctas == cta) {
    params.group_ends[expert] = expert_end;
    for (int row = expert_begin + rows; params.scale_ctas > 0 && row < expert_end; ++row) tokens_of_rows(params)[row] = -1;
  }
  __syncthreads();

  for_batches(params, begin, end, [&](int at, int32_t id, bool valid, unsigned same) {
    int row = -1;
    if (valid) row = shared.next[id] + own[id] + __popc(same & ((1u << lane) - 1));
    __syncwarp();  // all have read before the leader counts on
    if (valid && lane == __ffs(same) - 1) own[id] += __popc(same);
    if (at < end) {
      params.places[at] = row;
      if (valid && params.scale_ctas > 0) tokens_of_rows(params)[row] = at / params.top_k;
    }
  });
  cluster.barrier_wait(std::move(left));
}

// ---- Moving

// Where the experts' rows are, by counting all ids; next: of those from `split` on. All threads of the CTA call it.
__device__ inline void count_ids(const Params& params, int split, CountStorage& shared) {
  constexpr int kExpertsPerThread = kMaxExperts / kThreads;
  for (int expert = threadIdx.x; expert < kMaxExperts; expert += kThreads) shared.next[expert] = shared.ends[expert] = 0;
  if (threadIdx.x == 0) shared.first_bad = INT32_MAX;
  __syncthreads();
  const int count = params.tokens * params.top_k;
  const auto tally = [&](int32_t id, int at) {
    if (is_expert(id, params.experts)) {
      atomicAdd((at < split ? shared.next : shared.ends) + id, 1);
    } else if (id != -1) {
      atomicMin(&shared.first_bad, at);
    }
  };
  const int whole = count / 4;
  for (int base = threadIdx.x; base < whole; base += kThreads * kQuadsAhead) {
    int4 quads[kQuadsAhead];
#pragma unroll
    for (int i = 0; i < kQuadsAhead; ++i) {
      const int at = base + i * kThreads;
      quads[i] = at < whole ? __ldg(reinterpret_cast<const int4*>(params.ids) + at) : make_int4(-1, -1, -1, -1);
    }
#pragma unroll
    for (int i = 0; i < kQuadsAhead; ++i) {
      if (base + i * kThreads >= whole) break;
      const int at = 4 * (base + i * kThreads);
      tally(quads[i].x, at), tally(quads[i].y, at + 1), tally(quads[i].z, at + 2), tally(quads[i].w, at + 3);
    }
  }
  if (static_cast<int>(threadIdx.x) < count - 4 * whole) tally(__ldg(params.ids + 4 * whole + threadIdx.x), 4 * whole + threadIdx.x);
  __syncthreads();
  const int first = threadIdx.x * kExpertsPerThread;
  // Rows, and rows of padding, of an expert.
  const auto own = [&](int expert) {
    const int rows = shared.next[expert] + shared.ends[expert];
    const int aligned = (rows + params.alignment - 1) & -params.alignment;
    return static_cast<uint64_t>(aligned) << 32 | static_cast<uint32_t>(aligned - rows);
  };
  uint64_t sum = 0;
  for (int i = 0; i < kExpertsPerThread; ++i) sum += own(first + i);
  uint64_t before = inclusive_sum<kWarps>(sum, shared.scan) - sum;
  for (int i = 0; i < kExpertsPerThread; ++i) {
    const uint64_t up_to = before + own(first + i);
    shared.next[first + i] += static_cast<int32_t>(before >> 32);
    shared.ends[first + i] = static_cast<int32_t>(up_to >> 32);
    shared.padding_ends[first + i] = static_cast<int32_t>(up_to);
    before = up_to;
  }
  __syncthreads();
}

// Zeros behind each expert's rows, a warp a row; all such rows are shared out evenly. Where they are follows from the ids alone: this waits for nobody.
__device__ inline void clear_padding(const Params& params, CountStorage& shared) {
  const int lane = threadIdx.x % 32;
  count_ids(params, 0, shared);
  const int64_t rows = shared.padding_ends[kMaxExperts - 1];
  const auto begin = static_cast<int>(rows * blockIdx.x / params.padding_ctas);
  const auto end = static_cast<int>(rows * (blockIdx.x + 1) / params.padding_ctas);
  for (int item = begin + static_cast<int>(threadIdx.x / 32); item < end; item += kWarps) {
    int expert = 0;  // the first whose padding ends behind the item
    for (int step = kMaxExperts / 2; step > 0; step /= 2) {
      if (shared.padding_ends[expert + step - 1] <= item) expert += step;
    }
    const int row = shared.ends[expert] - (shared.padding_ends[expert] - item);
    for (int offset = lane * 16; offset < params.out_row_bytes; offset += 512) {
      *reinterpret_cast<uint4*>(params.out + row * params.out_pitch + offset) = make_uint4(0, 0, 0, 0);
    }
    if (lane == 0 && params.sources != nullptr) params.sources[row] = -1;
    if (params.scale_ctas > 0) continue;  // which write the zeros too
    for (int block = lane; block < params.blocks; block += 32) params.out_scales[block * params.out_scales_ld + row] = 0.0f;
  }
}

// Scales of rows side by side, a row a lane, so that whole sectors are written: single scales take the L2 longer than their rows.
__device__ inline void copy_scales(const Params& params, int cta) {
  constexpr int kBlocksAhead = 8;
  cudaGridDependencySynchronize();
  const int rows = __ldcg(params.group_ends + params.experts - 1);
  for (int64_t row = int64_t{cta} * kThreads + threadIdx.x; row < rows; row += int64_t{params.scale_ctas} * kThreads) {
    const int token = __ldcg(tokens_of_rows(params) + row);
    for (int first = 0; first < params.blocks; first += kBlocksAhead) {
      float scales[kBlocksAhead];
#pragma unroll
      for (int i = 0; i < kBlocksAhead; ++i) {
        scales[i] = token >= 0 && first + i < params.blocks ? __ldg(params.in_scales + (first + i) * params.in_scales_ld + token) : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kBlocksAhead; ++i) {
        if (first + i < params.blocks) params.out_scales[(first + i) * params.out_scales_ld + row] = scales[i];
      }
    }
  }
}

// The row of the token's j-th place, -1 where there is none; `place`: lane j has it. The whole warp calls it, for any j of each lane.
__device__ inline int row_of(const Params& params, int place, int j) {
  const int row = __shfl_sync(kWarp, place, j % 32);
  return j < params.top_k ? row : -1;
}

// A lane's part of a piece, from byte `own` of the row on, to all places.
__device__ inline void store_rows(const Params& params, int place, int own, const uint4 (&bits)[kLoads]) {
  for (int j = 0; j < params.top_k; ++j) {
    const int row = row_of(params, place, j);
    if (row < 0) continue;
    uint8_t* target = params.out + row * params.out_pitch + own;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (own + i * 512 < params.out_row_bytes) *reinterpret_cast<uint4*>(target + i * 512) = bits[i];
    }
  }
}

// Bytes `offset`.. of a token's row as they are, to all its places. `ready` waits for the places.
template <class Ready>
__device__ void copy_piece(const Params& params, int64_t token, int offset, Ready ready) {
  constexpr int kBlocks = kPieceBytes / tile::kScaleBlock;
  const int lane = threadIdx.x % 32;
  const int own = offset + lane * 16;
  const uint8_t* source = params.in + token * params.in_pitch + own;
  uint4 bits[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (own + i * 512 < params.out_row_bytes) bits[i] = __ldg(reinterpret_cast<const uint4*>(source + i * 512));
  }
  // Half of the lanes have the scales for the even places, half for the odd ones.
  const int block = offset / tile::kScaleBlock + lane % kBlocks;
  const bool scaled = block < params.blocks && params.scale_ctas == 0;
  const float scale = scaled ? __ldg(params.in_scales + block * params.in_scales_ld + token) : 0.0f;
  const int place = ready();
  store_rows(params, place, own, bits);
  if (params.blocks == 0 || params.scale_ctas > 0) return;
  for (int j = 0; j < params.top_k; j += 32 / kBlocks) {
    const int row = row_of(params, place, j + lane / kBlocks);
    if (row >= 0 && scaled) params.out_scales[block * params.out_scales_ld + row] = scale;
  }
}

// 16 elements a lane, so 8 lanes share a 1x128 block; offset counts elements, which are bytes of the output.
template <class Ready>
__device__ void quantize_piece(const Params& params, int64_t token, int offset, Ready ready) {
  using Vector = tile::Vector8<__nv_bfloat16>;
  constexpr int kLanes = tile::kScaleBlock / 16;
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
  uint4 bits[kLoads];
  float scales[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    float amax = fmaxf(loaded[i][0].largest_magnitude(), loaded[i][1].largest_magnitude());
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) amax = fmaxf(amax, __shfl_xor_sync(kWarp, amax, distance));
    scales[i] = tile::block_scale(amax, params.power_of_two != 0);
    float values[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) loaded[i][half].to_floats(values[half]);
    const uint2 low = tile::quantize8(values[0], scales[i]);
    const uint2 high = tile::quantize8(values[1], scales[i]);
    bits[i] = make_uint4(low.x, low.y, high.x, high.y);
  }
  const int place = ready();
  store_rows(params, place, own, bits);
  // Each of a block's lanes has its scale, and writes it to another place.
  for (int j = 0; j < params.top_k; j += kLanes) {
    const int row = row_of(params, place, j + lane % kLanes);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int block = (own + i * 512) / tile::kScaleBlock;
      if (row >= 0 && block < params.blocks) params.out_scales[block * params.out_scales_ld + row] = scales[i];
    }
  }
}

// The places of this CTA's tokens, which are those of its items, by counting. `pieces`: items of a token.
__device__ inline void place_tokens(const Params& params, int64_t first_item, int pieces, CountStorage& shared) {
  const auto first = static_cast<int>(first_item / pieces);
  const auto end = static_cast<int>(min(int64_t{params.tokens}, (first_item + kWarps - 1) / pieces + 1));
  count_ids(params, first * params.top_k, shared);
  if (blockIdx.x == params.padding_ctas) {
    for (int expert = threadIdx.x; expert < params.experts; expert += kThreads) params.group_ends[expert] = shared.ends[expert];
    if (threadIdx.x == 0 && shared.first_bad != INT32_MAX) {
      tile::report_fault(params.bad_ids, shared.first_bad, params.ids[shared.first_bad], -1, params.experts - 1);
    }
  }
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    for (int token = first; token < end; ++token) {
      const int at = token * params.top_k + lane;
      const int32_t id = lane < params.top_k ? __ldg(params.ids + at) : -1;
      const bool valid = is_expert(id, params.experts);
      const unsigned same = lanes_with(id, valid, 32 - __clz(params.experts - 1));
      const int row = valid ? shared.next[id] + __popc(same & ((1u << lane) - 1)) : -1;
      __syncwarp();  // all have read before the leader counts on
      if (valid && lane == __ffs(same) - 1) shared.next[id] += __popc(same);
      __syncwarp();
      shared.places[(token - first) * kMaxTopK + lane] = row;
      if (lane < params.top_k && int64_t{token} * pieces >= first_item) params.places[at] = row;  // its first piece is of this CTA
    }
  }
  __syncthreads();
}

// Neighbouring warps have neighbouring pieces and tokens, so that the rows, and the scales that share a sector, of neighbouring tokens are written at about the same
// time. Behind route_kernel, whose end it waits for when its first rows are loaded; or, where CTAs count, with a CTA for each kWarps items.
template <bool kQuantizes>
__global__ void __launch_bounds__(kThreads, kCtasPerSm) permute_kernel(const __grid_constant__ Params params) {
  __shared__ CountStorage shared;
  const int cta = static_cast<int>(blockIdx.x) - params.padding_ctas;
  if (cta < 0) return clear_padding(params, shared);
  if (cta < params.scale_ctas) return copy_scales(params, cta);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int pieces = (params.out_row_bytes + kPieceBytes - 1) / kPieceBytes;
  const int64_t items = int64_t{params.tokens} * pieces;
  const int64_t step = int64_t{gridDim.x - params.padding_ctas - params.scale_ctas} * kWarps;
  const int64_t first_item = int64_t{cta - params.scale_ctas} * kWarps;
  // A CTA that counts needs all its warps for that, also those without an item.
  for (int64_t item = first_item + warp; item < items || (params.counts && item < first_item + kWarps); item += step) {
    const bool idle = item >= items;
    const int64_t token = idle ? 0 : item / pieces;
    const int offset = static_cast<int>(item % pieces) * kPieceBytes;
    const auto ready = [&] {
      int place = -1;
      if (params.counts) {
        place_tokens(params, first_item, pieces, shared);
        if (!idle) place = shared.places[(token - first_item / pieces) * kMaxTopK + lane];
      } else {
        cudaGridDependencySynchronize();
        if (lane < params.top_k) place = __ldcg(params.places + token * params.top_k + lane);
      }
      if (offset == 0 && place >= 0 && params.sources != nullptr) params.sources[place] = static_cast<int32_t>(token * params.top_k + lane);
      return place;
    };
    if constexpr (kQuantizes) {
      quantize_piece(params, token, offset, ready);
    } else {
      copy_piece(params, token, offset, ready);
    }
  }
}

}  // namespace h4j::permute
