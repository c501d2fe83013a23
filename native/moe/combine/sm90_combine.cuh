// The way back: a rank reads its tokens' partial rows from the ranks that have them and sums them in rank order.
#pragma once

#include "moe/combine/bf16_sum.cuh"
#include "moe/combine/combine_layout.h"
#include "moe/group/sm90_peer.cuh"

namespace h4j::moe {

// A token's row is summed in pieces, so that all loads of a piece are in flight at once and no warp has much left to do at the end.
inline constexpr int kPieceVectors = 7 * 32;  // of 16 bytes
__device__ inline int pieces_of(const Shape& shape) { return (shape.hidden / 8 + kPieceVectors - 1) / kPieceVectors; }

__device__ inline void store_sum(const CombineParams& p, int token, int vector, float (&sum)[8], uint4 residual) {
  add_bf16(sum, residual);
  *reinterpret_cast<uint4*>(p.out + token * p.out_pitch + vector * 16) = to_bf16(sum);
}

// Sums a piece of one token's partial rows in rank order; rows of two ranks are in flight at once.
__device__ inline void gather_piece(const CombineParams& p, int token, int piece, int low_slot, int high_slot) {
  constexpr int kUnroll = kPieceVectors / 32;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int vectors = shape.hidden / 8;
  const int begin = piece * kPieceVectors + lane;
  uint64_t ranks = __ballot_sync(0xffffffffu, low_slot >= 0) | static_cast<uint64_t>(__ballot_sync(0xffffffffu, high_slot >= 0)) << 32;
  const auto next_row = [&]() -> const uint8_t* {
    if (ranks == 0) return nullptr;
    const int rank = __ffsll(static_cast<long long>(ranks)) - 1;
    ranks &= ranks - 1;
    const int slot = __shfl_sync(0xffffffffu, rank < 32 ? low_slot : high_slot, rank % 32);
    return group.peers[rank] + group.offsets.partials + slot * shape.partial_pitch();
  };
  uint4 a[kUnroll], b[kUnroll], residual[kUnroll];
  const auto load = [&](const uint8_t* row, uint4(&values)[kUnroll]) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = begin + i * 32;
      values[i] = row != nullptr && vector < vectors ? load_once(row + vector * 16) : make_uint4(0, 0, 0, 0);
    }
  };
  if (__popcll(ranks) <= 2) {
    load(next_row(), a);
    load(next_row(), b);
    load(p.residual != nullptr ? p.residual + token * p.residual_pitch : nullptr, residual);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      float sum[8] = {};
      add_bf16(sum, a[i]);
      add_bf16(sum, b[i]);
      if (begin + i * 32 < vectors) store_sum(p, token, begin + i * 32, sum, residual[i]);
    }
    return;
  }
  load(p.residual != nullptr ? p.residual + token * p.residual_pitch : nullptr, residual);
  float sums[kUnroll][8] = {};
  while (ranks != 0) {
    load(next_row(), a);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) add_bf16(sums[i], a[i]);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (begin + i * 32 < vectors) store_sum(p, token, begin + i * 32, sums[i], residual[i]);
  }
}

__device__ inline void tell_ready(const Group& group, uint32_t epoch) {
  const int64_t ready = group.offsets.ready + static_cast<int64_t>(epoch % 2) * group.shape.ranks * 4;
  const int rank = threadIdx.x;
  if (rank < group.shape.ranks && takes_part(group, rank)) put(at<uint32_t>(group.peers[rank], ready) + group.shape.rank, epoch);
}

__device__ inline bool await_ready(const Group& group, uint32_t epoch) {
  const int64_t ready = group.offsets.ready + static_cast<int64_t>(epoch % 2) * group.shape.ranks * 4;
  const int rank = threadIdx.x;
  bool lost = false;
  if (rank < group.shape.ranks && takes_part(group, rank)) {
    const uint32_t* address = at<uint32_t>(group.peers[group.shape.rank], ready) + rank;
    lost = !await(group, rank, Phase::kReady, epoch, [&] { return get(address) == epoch; });
    if (lost) leave(group);
  }
  __threadfence_system();  // partial rows are read after their flag
  return !__syncthreads_or(lost);
}

// ---- Expert layout

inline constexpr int kExpertPieceVectors = 4 * 32;
// The sum over a row's experts, of 32 * kUnroll vectors from `base` on; lane k holds the k-th expert's row and weight. Two rows are in flight at once.
template <int kUnroll>
__device__ void sum_experts(const CombineParams& p, int row, float weight, int base, float (&sums)[kUnroll][8]) {
  const int lane = threadIdx.x % 32;
  const int vectors = p.group.shape.hidden / 8;
  for (unsigned left = __ballot_sync(0xffffffffu, row >= 0); left != 0;) {
    const int a_lane = __ffs(static_cast<int>(left)) - 1;
    left &= left - 1;
    const bool two = left != 0;
    const int b_lane = two ? __ffs(static_cast<int>(left)) - 1 : a_lane;
    left &= left - 1;
    const uint8_t* a_row = p.x + __shfl_sync(0xffffffffu, row, a_lane) * p.x_pitch;
    const uint8_t* b_row = p.x + __shfl_sync(0xffffffffu, row, b_lane) * p.x_pitch;
    const float a_weight = __shfl_sync(0xffffffffu, weight, a_lane);
    const float b_weight = __shfl_sync(0xffffffffu, weight, b_lane);
    uint4 a[kUnroll], b[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      if (vector < vectors) a[i] = load_once(a_row + vector * 16);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      if (two && vector < vectors) b[i] = load_once(b_row + vector * 16);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      add_bf16(sums[i], a[i], a_weight);
      if (two) add_bf16(sums[i], b[i], b_weight);
    }
  }
}

struct ExpertRow {
  int row;
  float weight;
};
__device__ inline ExpertRow expert_row(const CombineParams& p, int slot) {
  const int lane = threadIdx.x % 32;
  if (lane >= p.group.shape.top_k) return {-1, 0.0f};
  const int64_t entry = static_cast<int64_t>(slot) * p.group.shape.top_k + lane;
  return {reinterpret_cast<const int32_t*>(p.handle + p.handle_at.rows)[entry],
          reinterpret_cast<const float*>(p.handle + p.handle_at.weights)[entry]};
}

// Sums the experts of the rows that came from other ranks, a few rows a flag, each source in turn.
__device__ inline void reduce_rows(const CombineParams& p, uint32_t* ticket, uint32_t epoch) {
  constexpr int kUnroll = 4;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const auto* handle = reinterpret_cast<const Handle*>(p.handle);
  const int lane = threadIdx.x % 32;
  const int me = shape.rank;
  const int vectors = shape.hidden / 8;
  const int sources = shape.ranks - 1;
  int longest = 0;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    if (rank != me) longest = max(longest, handle->received[rank]);
  }
  const int items = (longest + kReducedRows - 1) / kReducedRows * sources;
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(ticket, 1u)) : 0;
  for (;;) {
    const int item = __shfl_sync(0xffffffffu, drawn, 0);
    if (item >= items) return;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(ticket, 1u));
    int source = item % sources;
    if (source >= me) ++source;
    if (!takes_part(group, source)) continue;
    const int piece = item / sources;
    const int count = handle->received[source];
    int before = 0;
    for (int rank = 0; rank < source; ++rank) before += handle->received[rank];
    if (piece * kReducedRows >= count) continue;
    for (int index = piece * kReducedRows; index < min(count, (piece + 1) * kReducedRows); ++index) {
      const int slot = before + index;
      const ExpertRow mine = expert_row(p, slot);
      uint8_t* target = group.peers[me] + group.offsets.partials + slot * shape.partial_pitch();
      for (int base = 0; base < vectors; base += 32 * kUnroll) {
        float sums[kUnroll][8] = {};
        sum_experts(p, mine.row, mine.weight, base, sums);
#pragma unroll
        for (int i = 0; i < kUnroll; ++i) {
          const int vector = base + i * 32 + lane;
          if (vector < vectors) *reinterpret_cast<uint4*>(target + vector * 16) = to_bf16(sums[i]);
        }
      }
    }
    __threadfence_system();  // each lane's part of the rows, before the flag
    __syncwarp();
    if (lane == 0) {
      const int64_t flag = group.offsets.reduced + (static_cast<int64_t>(me) * ((shape.max_tokens + kReducedRows - 1) / kReducedRows) + piece) * 4;
      put(at<uint32_t>(group.peers[source], flag), epoch);
    }
  }
}

// Waits for a token's partial rows at other ranks. The whole warp calls it; lanes hold the slots of ranks `lane` and `lane + 32`.
__device__ inline bool await_partials(const CombineParams& p, int low_slot, int high_slot, uint32_t epoch) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const auto* handle = reinterpret_cast<const Handle*>(p.handle);
  const int lane = threadIdx.x % 32;
  bool there = true;
  const auto wait_for = [&](int rank, int slot) {
    if (slot < 0 || rank == shape.rank || !there) return;
    const int piece = (slot - handle->first[rank]) / kReducedRows;
    const int64_t flag = group.offsets.reduced + (static_cast<int64_t>(rank) * ((shape.max_tokens + kReducedRows - 1) / kReducedRows) + piece) * 4;
    const uint32_t* address = at<uint32_t>(group.peers[shape.rank], flag);
    there = await(group, rank, Phase::kPartials, epoch, [&] { return get_acquire(address) == epoch; });
  };
  wait_for(lane, low_slot);
  wait_for(lane + 32, high_slot);
  return __all_sync(0xffffffffu, there);
}

// As gather_piece, where this rank's own part comes straight from its experts' rows. It is the first in the sum: the first row of another rank is under
// way meanwhile.
__device__ inline void gather_expert_piece(const CombineParams& p, int token, int piece, int low_slot, int high_slot) {
  constexpr int kUnroll = kExpertPieceVectors / 32;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int vectors = shape.hidden / 8;
  const int me = shape.rank;
  const int begin = piece * kExpertPieceVectors + lane;
  uint64_t ranks = __ballot_sync(0xffffffffu, low_slot >= 0) | static_cast<uint64_t>(__ballot_sync(0xffffffffu, high_slot >= 0)) << 32;
  const int own_slot = __shfl_sync(0xffffffffu, me < 32 ? low_slot : high_slot, me % 32);
  const ExpertRow own = own_slot >= 0 ? expert_row(p, own_slot) : ExpertRow{-1, 0.0f};
  ranks &= ~(uint64_t{1} << me);
  uint4 values[kUnroll];
  const auto load_next = [&] {
    const int rank = ranks != 0 ? __ffsll(static_cast<long long>(ranks)) - 1 : 0;
    const int slot = __shfl_sync(0xffffffffu, rank < 32 ? low_slot : high_slot, rank % 32);
    const uint8_t* row = group.peers[rank] + group.offsets.partials + slot * shape.partial_pitch();
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = begin + i * 32;
      values[i] = ranks != 0 && vector < vectors ? load_once(row + vector * 16) : make_uint4(0, 0, 0, 0);
    }
    ranks &= ranks - 1;
  };
  load_next();
  uint4 residual[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int vector = begin + i * 32;
    residual[i] = p.residual != nullptr && vector < vectors ? load_once(p.residual + token * p.residual_pitch + vector * 16) : make_uint4(0, 0, 0, 0);
  }
  float sums[kUnroll][8] = {};
  sum_experts(p, own.row, own.weight, piece * kExpertPieceVectors, sums);
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) add_bf16(sums[i], values[i]);
  while (ranks != 0) {
    load_next();
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) add_bf16(sums[i], values[i]);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (begin + i * 32 < vectors) store_sum(p, token, begin + i * 32, sums[i], residual[i]);
  }
}

// From the group's partial rows, which earlier kernels of each rank have written; in the expert layout, which each rank writes here.
template <bool kExpert>
__global__ __launch_bounds__(kThreads, 1) void combine_kernel(const __grid_constant__ CombineParams p) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  Counter& counter = group.state->channel[group.channel].combine;
  const uint32_t epoch = next_epoch(counter);
  if (is_aborted(group)) return;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  if (p.start) {
    if constexpr (kExpert) {
      // Half of the warps reduce first what other ranks wait for; all of them where nothing else is to be done.
      if (!p.finish || warp % 2 == 0) reduce_rows(p, &counter.second_ticket, epoch);
    } else if (blockIdx.x == 0) {
      tell_ready(group, epoch);
    }
  }
  if (!p.finish) return;
  if constexpr (!kExpert) {
    if (!await_ready(group, epoch)) return;
  }
  const int32_t* slots = reinterpret_cast<const int32_t*>(p.handle + p.handle_at.slots);
  bool whole = true;
  const int pieces = kExpert ? (shape.hidden / 8 + kExpertPieceVectors - 1) / kExpertPieceVectors : pieces_of(shape);
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(&counter.ticket, 1u)) : 0;
  for (;;) {
    const int item = __shfl_sync(0xffffffffu, drawn, 0);
    const int token = item / pieces;
    if (token >= p.tokens) break;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(&counter.ticket, 1u));
    const int32_t* row = slots + static_cast<int64_t>(token) * shape.ranks;
    const int low_slot = lane < shape.ranks && takes_part(group, lane) ? row[lane] : -1;
    const int high_slot = lane + 32 < shape.ranks && takes_part(group, lane + 32) ? row[lane + 32] : -1;
    if constexpr (kExpert) {
      whole = await_partials(p, low_slot, high_slot, epoch);
      if (!whole) break;
      gather_expert_piece(p, token, item % pieces, low_slot, high_slot);
    } else {
      gather_piece(p, token, item % pieces, low_slot, high_slot);
    }
  }
  if (__syncthreads_or(!whole)) return leave(group);
  // Owners may write their partial rows again only when every reader is through.
  const int64_t read = group.offsets.read + static_cast<int64_t>(epoch % 2) * shape.ranks * kMaxCtas * 4;
  tell_done(group, read, epoch);
  if (blockIdx.x == 0 && !await_done(group, read, static_cast<int>(gridDim.x), Phase::kRead, epoch)) return leave(group);
  end_call(counter);
}

}  // namespace h4j::moe
