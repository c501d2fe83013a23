// Rows to the ranks that hold their experts, straight into their final places.
//
// Every CTA counts all tokens of its rank by ballots, so it knows each token's place among the rows to each rank without a grid barrier. Ranks exchange
// their counts; having a peer's count also says that the peer's buffers are free, since the peer's kernel follows all earlier readers of them. Then every
// row goes to its slot at each destination: rows of lower source ranks first, a source's rows by token.
#pragma once

#include "moe/dispatch/dispatch_layout.h"
#include "moe/group/sm90_peer.cuh"
#include "tile/fp8.cuh"

namespace h4j::moe {

inline constexpr int kStripBlocks = 14;  // scales of a token in flight at once: hidden 7168 has 56 blocks

// Destinations of kTokens tokens as bits: this lane's token of each of several groups, all loads of four experts in flight at once.
template <int kTokens>
__device__ void destinations(const DispatchParams& p, int first, int step, uint64_t (&ranks)[kTokens]) {
  const Shape& shape = p.group.shape;
  const auto add = [&](uint64_t& to, int expert) {
    if (static_cast<unsigned>(expert) < static_cast<unsigned>(shape.experts)) to |= uint64_t{1} << rank_of(p.group, expert);
  };
  const int32_t* experts[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    ranks[i] = 0;
    experts[i] = p.experts + static_cast<int64_t>(first + i * step) * shape.top_k;
  }
  if (shape.top_k % 4 == 0) {
#pragma unroll 2
    for (int k = 0; k < shape.top_k; k += 4) {
      int4 four[kTokens];
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        four[i] = first + i * step < p.tokens ? __ldg(reinterpret_cast<const int4*>(experts[i] + k)) : make_int4(-1, -1, -1, -1);
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) add(ranks[i], four[i].x), add(ranks[i], four[i].y), add(ranks[i], four[i].z), add(ranks[i], four[i].w);
    }
  } else {
    for (int k = 0; k < shape.top_k; ++k) {
      int32_t one[kTokens];
#pragma unroll
      for (int i = 0; i < kTokens; ++i) one[i] = first + i * step < p.tokens ? __ldg(experts[i] + k) : -1;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) add(ranks[i], one[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) ranks[i] &= p.group.active;
}

// Places of this rank's rows at each destination.
struct Routing {
  const uint32_t* ballots;  // [groups][ranks]
  const uint32_t* before;   // [groups][ranks] rows of earlier groups
  const int32_t* known;     // [tokens][ranks], where the routing is reused
  const int32_t* first;     // [ranks], where this rank's rows begin
  int ranks;

  // The token's row at the rank, or -1.
  __device__ int slot(int token, int rank) const {
    if (known != nullptr) return known[static_cast<int64_t>(token) * ranks + rank];
    const int cell = token / kTokenGroup * ranks + rank;
    const uint32_t bits = ballots[cell];
    const uint32_t bit = token % kTokenGroup;
    if ((bits >> bit & 1) == 0) return -1;
    return first[rank] + static_cast<int>(before[cell] + __popc(bits & ((1u << bit) - 1)));
  }
};

__device__ inline void count_tokens(const DispatchParams& p, uint32_t* ballots, uint32_t* before, int32_t* totals) {
  const int ranks = p.group.shape.ranks;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int groups = (p.tokens + kTokenGroup - 1) / kTokenGroup;
  constexpr int kAtOnce = 4;  // groups, so that counting costs few latencies of memory
  for (int group0 = warp; group0 < groups; group0 += kAtOnce * kWarps) {
    uint64_t mine[kAtOnce];
    destinations(p, group0 * kTokenGroup + lane, kWarps * kTokenGroup, mine);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int group = group0 + i * kWarps;
      for (int rank = 0; rank < ranks && group < groups; ++rank) {
        const uint32_t bits = __ballot_sync(0xffffffffu, mine[i] >> rank & 1);
        if (lane == 0) ballots[group * ranks + rank] = bits;
      }
    }
  }
  __syncthreads();
  for (int rank = warp; rank < ranks; rank += kWarps) {
    uint32_t sum = 0;
    for (int group0 = 0; group0 < groups; group0 += 32) {
      const int group = group0 + lane;
      const uint32_t count = group < groups ? __popc(ballots[group * ranks + rank]) : 0;
      uint32_t scan = count;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, scan, step);
        if (lane >= step) scan += other;
      }
      if (group < groups) before[group * ranks + rank] = sum + scan - count;
      sum += __shfl_sync(0xffffffffu, scan, 31);
    }
    if (lane == 0) totals[rank] = static_cast<int32_t>(sum);
  }
  __syncthreads();
}

// Counts of every source for every destination. CTA 0 tells them; every CTA needs them. False: lost.
__device__ inline bool exchange_counts(const DispatchParams& p, uint32_t epoch, const int32_t* totals, int32_t* first, int32_t* received) {
  const Group& group = p.group;
  const int ranks = group.shape.ranks;
  const int me = group.shape.rank;
  const int64_t table = group.offsets.counts + static_cast<int64_t>(epoch % 2) * ranks * ranks * 8;
  if (blockIdx.x == 0) {
    for (int i = threadIdx.x; i < ranks * ranks; i += kThreads) {
      const int to = i / ranks;
      const int about = i % ranks;
      if (takes_part(group, to)) {
        put(at<uint64_t>(group.peers[to], table) + me * ranks + about, static_cast<uint64_t>(epoch) << 32 | static_cast<uint32_t>(totals[about]));
      }
    }
  }
  if (threadIdx.x < kMaxRanks) first[threadIdx.x] = received[threadIdx.x] = 0;
  __syncthreads();
  bool lost = false;
  for (int i = threadIdx.x; i < ranks * ranks; i += kThreads) {
    const int source = i / ranks;
    const int to = i % ranks;
    if (!takes_part(group, source)) continue;
    uint64_t word = 0;
    const uint64_t* address = at<uint64_t>(group.peers[me], table) + i;
    if (!await(group, source, Phase::kCounts, epoch, [&] { return (word = get(address)) >> 32 == epoch; })) {
      leave(group);
      lost = true;
      break;
    }
    const int count = static_cast<int>(static_cast<uint32_t>(word));
    if (source < me) atomicAdd(&first[to], count);
    if (to == me) received[source] = count;
  }
  return !__syncthreads_or(lost);
}

// Scales, experts and weights of the rows, and the handle's slots: coalesced over consecutive slots, since a group's rows stand side by side. All loads of
// an item are in flight before its first store: behind the stores of rows they would wait for the link.
__device__ inline void send_scales(const DispatchParams& p, const Routing& routing, int group, int strip) {
  const Shape& shape = p.group.shape;
  const int token = group * kTokenGroup + static_cast<int>(threadIdx.x % 32);
  const int first = strip * kStripBlocks;
  float values[kStripBlocks];
#pragma unroll
  for (int i = 0; i < kStripBlocks; ++i) {
    values[i] = token < p.tokens && first + i < shape.blocks() ? __ldg(p.x_scales + (first + i) * p.x_scales_ld + token) : 0.0f;
  }
  for (int rank = 0; rank < shape.ranks; ++rank) {
    const int slot = token < p.tokens ? routing.slot(token, rank) : -1;
    if (slot < 0) continue;
    float* scales = at<float>(p.group.peers[rank], p.group.offsets.scales) + first * shape.scales_ld() + slot;
#pragma unroll
    for (int i = 0; i < kStripBlocks; ++i) {
      if (first + i < shape.blocks()) scales[i * shape.scales_ld()] = values[i];
    }
  }
}

__device__ inline void send_experts(const DispatchParams& p, const Routing& routing, int group) {
  constexpr int kAtOnce = 8;
  const Shape& shape = p.group.shape;
  const Offsets& to = p.group.offsets;
  const int lane = threadIdx.x % 32;
  const int token0 = group * kTokenGroup;
  const int entries = (min(p.tokens, token0 + kTokenGroup) - token0) * shape.top_k;
  int32_t* slots = at<int32_t>(p.handle, p.handle_at.slots);
  for (int base = 0; base < kTokenGroup * shape.top_k; base += 32 * kAtOnce) {
    int32_t experts[kAtOnce];
    float weights[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int entry = base + i * 32 + lane;
      const int64_t source = static_cast<int64_t>(token0) * shape.top_k + entry;
      experts[i] = entry < entries ? __ldg(p.experts + source) : -1;
      weights[i] = entry < entries && p.weights != nullptr ? __ldg(p.weights + source) : 0.0f;
    }
    for (int rank = 0; rank < shape.ranks; ++rank) {
      const int slot = token0 + lane < p.tokens ? routing.slot(token0 + lane, rank) : -1;
      if (base == 0 && token0 + lane < p.tokens) slots[static_cast<int64_t>(token0 + lane) * shape.ranks + rank] = slot;
      const int low = rank * shape.experts_per_rank;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int entry = base + i * 32 + lane;
        const int target = __shfl_sync(0xffffffffu, slot, entry / shape.top_k % 32);
        if (entry >= entries || target < 0) continue;
        const int64_t place = static_cast<int64_t>(target) * shape.top_k + entry % shape.top_k;
        const int local = experts[i] - low;
        const bool here = static_cast<unsigned>(local) < static_cast<unsigned>(shape.experts_per_rank) && experts[i] < shape.experts;
        at<int32_t>(p.group.peers[rank], to.experts)[place] = here ? local : -1;
        at<float>(p.group.peers[rank], to.weights)[place] = weights[i];
      }
    }
  }
}

// `worker` of `workers` warps of all CTAs.
__device__ inline void send_metadata(const DispatchParams& p, const Routing& routing, bool scales, bool experts, int worker, int workers) {
  const int groups = (p.tokens + kTokenGroup - 1) / kTokenGroup;
  const int strips = scales ? (p.group.shape.blocks() + kStripBlocks - 1) / kStripBlocks : 0;
  const int pieces = strips + (experts ? 1 : 0);
  for (int item = worker; item < groups * pieces; item += workers) {
    if (item % pieces < strips) {
      send_scales(p, routing, item / pieces, item % pieces);
    } else {
      send_experts(p, routing, item / pieces);
    }
  }
}

// Calls body(rank, slot) for each destination; the warp's lanes hold the slots of ranks `lane` and `lane + 32`.
template <class Body>
__device__ void for_destinations(int low_slot, int high_slot, Body body) {
  uint64_t ranks = __ballot_sync(0xffffffffu, low_slot >= 0) | static_cast<uint64_t>(__ballot_sync(0xffffffffu, high_slot >= 0)) << 32;
  for (; ranks != 0; ranks &= ranks - 1) {
    const int rank = __ffsll(static_cast<long long>(ranks)) - 1;
    body(rank, __shfl_sync(0xffffffffu, rank < 32 ? low_slot : high_slot, rank % 32));
  }
}

// One row as it is. Loads of a whole 7168-byte row are in flight before the first store.
__device__ inline void send_row(const DispatchParams& p, int token, int low_slot, int high_slot) {
  constexpr int kUnroll = 14;
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  const int64_t bytes = static_cast<int64_t>(shape.hidden) * (shape.fp8 ? 1 : 2);
  const int vectors = static_cast<int>(bytes / 16);
  const uint8_t* source = p.x + token * p.x_pitch;
  for (int base = 0; base < vectors; base += 32 * kUnroll) {
    uint4 values[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      if (vector < vectors) values[i] = load_once(source + vector * 16);
    }
    for_destinations(low_slot, high_slot, [&](int rank, int slot) {
      uint8_t* target = p.group.peers[rank] + p.group.offsets.rows + slot * shape.row_pitch();
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int vector = base + i * 32 + lane;
        if (vector < vectors) *reinterpret_cast<uint4*>(target + vector * 16) = values[i];
      }
    });
  }
  if (bytes % 16 != 0) {  // 8 bytes are left: hidden is a multiple of 8
    const uint2 tail = *reinterpret_cast<const uint2*>(source + vectors * 16);
    for_destinations(low_slot, high_slot, [&](int rank, int slot) {
      uint8_t* target = p.group.peers[rank] + p.group.offsets.rows + slot * shape.row_pitch();
      if (lane == 0) *reinterpret_cast<uint2*>(target + vectors * 16) = tail;
    });
  }
}

// One BF16 row cast to FP8: 16 lanes hold a scale block, 8 elements each.
// scale_sink(block, scale) is called by one lane for each block.
template <class ScaleSink>
__device__ void send_cast_row(const DispatchParams& p, int token, int low_slot, int high_slot, ScaleSink scale_sink) {
  using Vector = tile::Vector8<__nv_bfloat16>;
  constexpr int kUnroll = 7;
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  const int vectors = shape.hidden / 8;
  const auto* source = reinterpret_cast<const __nv_bfloat16*>(p.x + token * p.x_pitch);
  for (int base = 0; base < vectors; base += 32 * kUnroll) {
    Vector loaded[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      loaded[i] = vector < vectors ? Vector(Vector::load(source + vector * 8)) : Vector();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      float values[8];
      if (vector >= vectors) loaded[i] = Vector(Vector::zero());
      loaded[i].to_floats(values);
      float amax = tile::largest_magnitude(values);
#pragma unroll
      for (int step = 8; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, step));
      const float scale = tile::block_scale(amax, p.power_of_two != 0);
      const uint2 bits = tile::quantize8(values, scale);
      for_destinations(low_slot, high_slot, [&](int rank, int slot) {
        if (vector >= vectors) return;
        *reinterpret_cast<uint2*>(p.group.peers[rank] + p.group.offsets.rows + slot * shape.row_pitch() + vector * 8) = bits;
      });
      if (vector < vectors && lane % 16 == 0) scale_sink(vector / 16, scale);
    }
  }
}

// Rows of tokens that are drawn one by one.
__device__ inline void send_rows(const DispatchParams& p, const Routing& routing, uint32_t* ticket) {
  const int lane = threadIdx.x % 32;
  // The next ticket is drawn while the current row is under way.
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(ticket, 1u)) : 0;
  for (;;) {
    const int token = __shfl_sync(0xffffffffu, drawn, 0);
    if (token >= p.tokens) return;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(ticket, 1u));
    const int low_slot = lane < routing.ranks ? routing.slot(token, lane) : -1;
    const int high_slot = lane + 32 < routing.ranks ? routing.slot(token, lane + 32) : -1;
    send_row(p, token, low_slot, high_slot);
  }
}

// Rows that are cast, of a few tokens at a time. Their scales are gathered in `strip`, [blocks][kCastTokens], and leave as runs of neighbours: single scales
// would cost a packet each.
__device__ inline void send_cast_rows(const DispatchParams& p, const Routing& routing, uint32_t* ticket, float* strip) {
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(ticket, 1u)) : 0;
  for (;;) {
    const int token0 = __shfl_sync(0xffffffffu, drawn, 0) * kCastTokens;
    if (token0 >= p.tokens) return;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(ticket, 1u));
    for (int i = 0; i < kCastTokens && token0 + i < p.tokens; ++i) {
      const int low_slot = lane < routing.ranks ? routing.slot(token0 + i, lane) : -1;
      const int high_slot = lane + 32 < routing.ranks ? routing.slot(token0 + i, lane + 32) : -1;
      send_cast_row(p, token0 + i, low_slot, high_slot, [&](int block, float scale) { strip[block * kCastTokens + i] = scale; });
    }
    __syncwarp();
    const int token = token0 + lane % kCastTokens;
    for (int rank = 0; rank < routing.ranks; ++rank) {
      const int slot = token < p.tokens ? routing.slot(token, rank) : -1;
      if (slot < 0) continue;
      float* scales = at<float>(p.group.peers[rank], p.group.offsets.scales) + slot;
      for (int i = lane; i < shape.blocks() * kCastTokens; i += 32) scales[i / kCastTokens * shape.scales_ld()] = strip[i];
    }
    __syncwarp();
  }
}

template <bool kCast>
__global__ __launch_bounds__(kThreads, 1) void dispatch_kernel(const __grid_constant__ DispatchParams p) {
  extern __shared__ uint32_t table[];
  __shared__ int32_t totals[kMaxRanks];
  __shared__ int32_t first[kMaxRanks];
  __shared__ int32_t received[kMaxRanks];
  const Group& group = p.group;
  const Shape& shape = group.shape;
  Counter& counter = group.state->channel[group.channel].dispatch;
  const uint32_t epoch = next_epoch(counter);
  if (is_aborted(group)) return;
  const int64_t done = group.offsets.done + static_cast<int64_t>(epoch % 2) * shape.ranks * kMaxCtas * 4;
  auto* handle = reinterpret_cast<Handle*>(p.handle);
  if (p.start) {
    const int cells = (p.tokens + kTokenGroup - 1) / kTokenGroup * shape.ranks;
    if (p.reuse) {
      for (int rank = threadIdx.x; rank < shape.ranks; rank += kThreads) totals[rank] = takes_part(group, rank) ? handle->sent[rank] : 0;
      __syncthreads();
    } else {
      count_tokens(p, table, table + cells, totals);
    }
    if (!exchange_counts(p, epoch, totals, first, received)) return;
    if (blockIdx.x == 0 && threadIdx.x < shape.ranks) {
      const int rank = threadIdx.x;
      handle->sent[rank] = totals[rank];
      handle->first[rank] = first[rank];
      handle->received[rank] = received[rank];
      int sum = 0;
      for (int r = 0; r < shape.ranks; ++r) sum += received[r];
      if (rank == 0) handle->received[shape.ranks] = sum;
      if (p.received != nullptr) {
        p.received[rank] = received[rank];
        if (rank == 0) p.received[shape.ranks] = sum;
      }
    }
    const Routing routing{table, table + cells, p.reuse ? at<int32_t>(p.handle, p.handle_at.slots) : nullptr, first, shape.ranks};
    if (!p.reuse || p.x_scales != nullptr) {
      send_metadata(p, routing, p.x_scales != nullptr, !p.reuse, static_cast<int>(blockIdx.x + gridDim.x * (threadIdx.x / 32)),
                    static_cast<int>(gridDim.x) * kWarps);
    }
    if constexpr (kCast) {
      send_cast_rows(p, routing, &counter.ticket, reinterpret_cast<float*>(table + 2 * cells) + threadIdx.x / 32 * shape.blocks() * kCastTokens);
    } else {
      send_rows(p, routing, &counter.ticket);
    }
    tell_done(group, done, epoch);
    if (!p.reuse && blockIdx.x == gridDim.x - 1) check_experts(p.experts, p.tokens * shape.top_k, shape.experts, p.fault);
  }
  if (p.finish) {
    if (blockIdx.x == 0 && !await_done(group, done, p.start ? static_cast<int>(gridDim.x) : p.finish, Phase::kRows, epoch)) return leave(group);
    end_call(counter);
  }
}

}  // namespace h4j::moe
