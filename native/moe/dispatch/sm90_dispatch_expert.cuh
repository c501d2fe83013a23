// Dispatch into the expert layout: a row crosses to a rank once, into a slot of the rank's window; there, as soon as its flag is up, warps of the same
// kernel copy it to the places of its experts. Rows of the rank's own tokens are copied from where they are.
#pragma once

#include "moe/dispatch/sm90_dispatch.cuh"

namespace h4j::moe {

// Warps of a CTA. More of them and the copies to experts hold each other up: with eight 181 us, six 174, four 152, three 142, two 150.
inline constexpr int kSenders = 3;

template <int kBarrier>
__device__ void barrier_of(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "r"(threads) : "memory");
}

// What place_entries keeps in shared memory.
struct EntryTable {
  int32_t* before;  // [experts] entries of earlier CTAs' tokens
  int32_t* own;     // [experts] entries of this CTA's tokens
  int32_t* chunk;   // [kThreads] experts of some of this CTA's entries
  int32_t* within;  // [kThreads] how many of this CTA's entries of the same expert come before
};

// Counts the first `entries` entries by expert: threads of all warps but the first.
__device__ inline void count_entries(const DispatchParams& p, int entries, int32_t* counts) {
  constexpr int kAtOnce = 8;
  constexpr int kCounting = kThreads - 32;
  const int thread = static_cast<int>(threadIdx.x) - 32;
  const auto count = [&](int expert) {
    if (static_cast<unsigned>(expert) < static_cast<unsigned>(p.group.shape.experts)) atomicAdd(&counts[expert], 1);
  };
  const auto* fours = reinterpret_cast<const int4*>(p.experts);
  for (int base = thread; base < entries / 4; base += kAtOnce * kCounting) {
    int4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = base + i * kCounting;
      values[i] = at < entries / 4 ? __ldg(fours + at) : make_int4(-1, -1, -1, -1);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) count(values[i].x), count(values[i].y), count(values[i].z), count(values[i].w);
  }
  if (thread < entries % 4) count(__ldg(p.experts + entries / 4 * 4 + thread));
}

// Places a chunk's entries behind each other in order. One warp calls it.
__device__ inline void order_chunk(const EntryTable& table) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < kThreads; base += 32) {
    const int expert = table.chunk[base + lane];
    const unsigned same = __match_any_sync(0xffffffffu, expert);
    const int before = expert >= 0 ? table.own[expert] : 0;
    __syncwarp();
    table.within[base + lane] = before + __popc(same & ((1u << lane) - 1));
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1) table.own[expert] = before + __popc(same);
    __syncwarp();
  }
}

// Tells each receiver of a row how many rows of this rank for the same expert come before it. A CTA's tokens are consecutive: the first warp orders their
// entries while the others count those of earlier CTAs, so after the last CTA's the counts are those of the whole rank.
__device__ inline void place_entries(const DispatchParams& p, const Routing& routing, const EntryTable& table, uint32_t epoch) {
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int share = (p.tokens + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
  const int first = min(p.tokens, static_cast<int>(blockIdx.x) * share) * shape.top_k;
  const int end = min(p.tokens, (static_cast<int>(blockIdx.x) + 1) * share) * shape.top_k;
  for (int i = threadIdx.x; i < shape.experts; i += kThreads) table.before[i] = table.own[i] = 0;
  for (int base = first;; base += kThreads) {
    const int entry = base + static_cast<int>(threadIdx.x);
    int expert = entry < end ? __ldg(p.experts + entry) : -1;
    if (static_cast<unsigned>(expert) >= static_cast<unsigned>(shape.experts)) expert = -1;
    table.chunk[threadIdx.x] = expert;
    __syncthreads();
    if (threadIdx.x < 32) {
      order_chunk(table);
    } else if (base == first) {
      count_entries(p, first, table.before);
    }
    __syncthreads();
    if (expert >= 0) {
      const int rank = rank_of(group, expert);
      const int slot = routing.slot(entry / shape.top_k, rank);
      if (slot >= 0) {
        at<int32_t>(group.peers[rank], group.offsets.places)[static_cast<int64_t>(slot) * shape.top_k + entry % shape.top_k] =
            table.before[expert] + table.within[threadIdx.x];
      }
    }
    if (base + kThreads >= end) break;
    __syncthreads();  // the chunk has been read
  }
  if (blockIdx.x != gridDim.x - 1) return;
  const int64_t words = group.offsets.expert_counts + (static_cast<int64_t>(epoch % 2) * shape.ranks + shape.rank) * shape.experts_per_rank * 8;
  for (int expert = threadIdx.x; expert < shape.experts; expert += kThreads) {
    const int rank = rank_of(group, expert);
    if (!takes_part(group, rank)) continue;
    put(at<uint64_t>(group.peers[rank], words) + (expert - rank * shape.experts_per_rank),
        static_cast<uint64_t>(epoch) << 32 | static_cast<uint32_t>(table.before[expert] + table.own[expert]));
  }
}

// Where the scale of a row's block waits for the row to be placed: a row's scales side by side.
__device__ inline float* scale_at(const DispatchParams& p, int rank, int slot, int block) {
  return at<float>(p.group.peers[rank], p.group.offsets.scales) + static_cast<int64_t>(slot) * p.group.shape.blocks() + block;
}

// Scales of a few tokens, so that the sectors they share are read once.
inline constexpr int kScaleTokens = 8;
__device__ inline void send_row_scales(const DispatchParams& p, const Routing& routing, int group) {
  const Shape& shape = p.group.shape;
  const int token0 = group * kScaleTokens;
  for (int base = 0; base < shape.blocks(); base += 32) {
    const int block = base + static_cast<int>(threadIdx.x % 32);
    float values[kScaleTokens];
#pragma unroll
    for (int i = 0; i < kScaleTokens; ++i) {
      values[i] = token0 + i < p.tokens && block < shape.blocks() ? __ldg(p.x_scales + block * p.x_scales_ld + token0 + i) : 0.0f;
    }
    for (int rank = 0; rank < routing.ranks; ++rank) {
#pragma unroll
      for (int i = 0; i < kScaleTokens; ++i) {
        const int slot = token0 + i < p.tokens ? routing.slot(token0 + i, rank) : -1;
        if (slot >= 0 && block < shape.blocks()) *scale_at(p, rank, slot, block) = values[i];
      }
    }
  }
}

// Experts and weights of all rows, and scales that are given. `worker` of `workers` warps of all CTAs.
__device__ inline void send_row_metadata(const DispatchParams& p, const Routing& routing, int worker, int workers) {
  const int groups = (p.tokens + kTokenGroup - 1) / kTokenGroup;
  const int scale_groups = p.x_scales != nullptr ? (p.tokens + kScaleTokens - 1) / kScaleTokens : 0;
  for (int item = worker; item < groups + scale_groups; item += workers) {
    if (item < groups) {
      send_experts(p, routing, item);
    } else {
      send_row_scales(p, routing, item - groups);
    }
  }
}

// Sends a token's row to the ranks of the slots.
template <bool kCast>
__device__ void send_staged_row(const DispatchParams& p, const Routing& routing, int token, int low_slot, int high_slot) {
  if constexpr (kCast) {
    send_cast_row(p, token, low_slot, high_slot, [&](int block, float scale) {
      for (int rank = 0; rank < routing.ranks; ++rank) {
        const int slot = routing.slot(token, rank);
        if (slot >= 0) *scale_at(p, rank, slot, block) = scale;
      }
    });
  } else {
    send_row(p, token, low_slot, high_slot);
  }
}

// Sends rows with a flag each, a few rows behind one fence, which takes microseconds. Rows of this rank stay where they are unless they are cast.
template <bool kCast>
__device__ void send_flagged_rows(const DispatchParams& p, const Routing& routing, uint32_t* ticket, uint32_t epoch) {
  constexpr int kRowsPerFence = 2;
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  const auto slot_at = [&](int token, int rank) {
    return token < p.tokens && rank < routing.ranks && (kCast || rank != shape.rank) ? routing.slot(token, rank) : -1;
  };
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(ticket, 1u)) : 0;
  for (;;) {
    const int token0 = __shfl_sync(0xffffffffu, drawn, 0) * kRowsPerFence;
    if (token0 >= p.tokens) return;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(ticket, 1u));
    int low_slots[kRowsPerFence], high_slots[kRowsPerFence];
#pragma unroll
    for (int i = 0; i < kRowsPerFence; ++i) {
      low_slots[i] = slot_at(token0 + i, lane);
      high_slots[i] = slot_at(token0 + i, lane + 32);
      if (__any_sync(0xffffffffu, low_slots[i] >= 0 || high_slots[i] >= 0))
        send_staged_row<kCast>(p, routing, token0 + i, low_slots[i], high_slots[i]);
    }
    __threadfence_system();  // each lane's part of the rows, before their flags
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRowsPerFence; ++i) {
      if (low_slots[i] >= 0) put(at<uint32_t>(p.group.peers[lane], p.group.offsets.arrived) + low_slots[i], epoch);
      if (high_slots[i] >= 0) put(at<uint32_t>(p.group.peers[lane + 32], p.group.offsets.arrived) + high_slots[i], epoch);
    }
  }
}

// Which row of `out` each entry has, for combine, and which row of the window each row of `out` comes from. The receiving threads call it.
__device__ inline void index_rows(const DispatchParams& p, const int32_t* first, const int32_t* received, int thread0, int threads) {
  const Shape& shape = p.group.shape;
  uint8_t* window = p.group.peers[shape.rank];
  int total = 0;
  for (int rank = 0; rank < shape.ranks; ++rank) total += received[rank];
  for (int entry = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x) - thread0; entry < total * shape.top_k;
       entry += static_cast<int>(gridDim.x) * threads) {
    const int slot = entry / shape.top_k;
    const int expert = at<int32_t>(window, p.group.offsets.experts)[entry];
    const int before = at<int32_t>(window, p.group.offsets.places)[entry];
    const float weight = at<float>(window, p.group.offsets.weights)[entry];
    int source = 0;
    for (int end = received[0]; slot >= end; end += received[source]) ++source;
    int place = expert >= 0 ? first[source * shape.experts_per_rank + expert] + before : -1;
    if (place >= p.out_rows) place = -1;
    at<int32_t>(p.handle, p.handle_at.rows)[entry] = place;
    at<float>(p.handle, p.handle_at.weights)[entry] = weight;
    if (place >= 0) at<int32_t>(p.handle, p.handle_at.slots_of_rows)[place] = slot;
  }
}

// Scales of 32 rows of `out` at a time, a lane a row, so that each column is written in whole lines: single scales, written as their rows come, would leave the
// L2 half written. `starts` and `counts` are of this rank's experts.
__device__ inline void place_scales(const DispatchParams& p, const int32_t* starts, const int32_t* counts, int worker, int workers) {
  constexpr int kAtOnce = 7;
  const Shape& shape = p.group.shape;
  const int experts = shape.experts_per_rank;
  const int lane = threadIdx.x % 32;
  const int64_t end = min(p.out_rows, static_cast<int64_t>(starts[experts - 1] + counts[experts - 1]));
  for (int item = worker; int64_t{32} * item < end; item += workers) {
    const int row = 32 * item + lane;
    int low = 0;
    for (int step = 512; step > 0; step /= 2) {
      if (low + step < experts && starts[low + step] <= row) low += step;
    }
    const bool used = row < end && row < starts[low] + counts[low];
    const int slot = used ? at<int32_t>(p.handle, p.handle_at.slots_of_rows)[row] : 0;
    const float* scales = scale_at(p, shape.rank, slot, 0);
    if (shape.blocks() % 4 == 0) {
      for (int base = 0; base < shape.blocks() / 4; base += kAtOnce) {
        float4 values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          values[i] = used && base + i < shape.blocks() / 4 ? __ldcg(reinterpret_cast<const float4*>(scales) + base + i) : float4{};
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          float* column = p.out_scales + static_cast<int64_t>(4 * (base + i)) * p.out_scales_ld + row;
          if (!used || base + i >= shape.blocks() / 4) continue;
          column[0] = values[i].x, column[p.out_scales_ld] = values[i].y, column[2 * p.out_scales_ld] = values[i].z,
          column[3 * p.out_scales_ld] = values[i].w;
        }
      }
    } else {
      for (int block = 0; block < shape.blocks() && used; ++block) p.out_scales[block * p.out_scales_ld + row] = __ldcg(scales + block);
    }
  }
}

// Copies a row to the places of its experts; with kScales its scales, which are consecutive, too.
template <bool kScales>
__device__ void expand_row(const DispatchParams& p, const int32_t* first, int slot, const uint8_t* source, const float* scales) {
  constexpr int kUnroll = 14;
  const Shape& shape = p.group.shape;
  const int lane = threadIdx.x % 32;
  uint8_t* window = p.group.peers[shape.rank];
  int place = -1;
  if (lane < shape.top_k) {
    const int64_t entry = static_cast<int64_t>(slot) * shape.top_k + lane;
    const int expert = at<int32_t>(window, p.group.offsets.experts)[entry];
    const int before = at<int32_t>(window, p.group.offsets.places)[entry];
    if (expert >= 0) place = first[expert] + before;
    if (place >= p.out_rows) place = -1;
  }
  const unsigned copies = __ballot_sync(0xffffffffu, place >= 0);
  const int64_t bytes = static_cast<int64_t>(shape.hidden) * (shape.fp8 ? 1 : 2);
  const int vectors = static_cast<int>(bytes / 16);
  for (int base = 0; base < vectors; base += 32 * kUnroll) {
    uint4 values[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int vector = base + i * 32 + lane;
      if (vector < vectors) values[i] = load_once(source + vector * 16);
    }
    for (unsigned left = copies; left != 0; left &= left - 1) {
      uint8_t* target = p.out + __shfl_sync(0xffffffffu, place, __ffs(static_cast<int>(left)) - 1) * p.out_pitch;
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int vector = base + i * 32 + lane;
        if (vector < vectors) __stcs(reinterpret_cast<uint4*>(target + vector * 16), values[i]);
      }
    }
  }
  if (bytes % 16 != 0) {
    const uint2 tail = *reinterpret_cast<const uint2*>(source + vectors * 16);
    for (unsigned left = copies; left != 0; left &= left - 1) {
      uint8_t* target = p.out + __shfl_sync(0xffffffffu, place, __ffs(static_cast<int>(left)) - 1) * p.out_pitch;
      if (lane == 0) *reinterpret_cast<uint2*>(target + vectors * 16) = tail;
    }
  }
  if constexpr (kScales) {
    for (int base = 0; base < shape.blocks(); base += 32) {
      const int block = base + lane;
      const float scale = block < shape.blocks() ? scales[block] : 0.0f;
      for (unsigned left = copies; left != 0; left &= left - 1) {
        const int target = __shfl_sync(0xffffffffu, place, __ffs(static_cast<int>(left)) - 1);
        if (block < shape.blocks()) p.out_scales[block * p.out_scales_ld + target] = scale;
      }
    }
  }
}

// Where rows go, of each local expert; all in shared memory.
struct ExpertTable {
  int32_t* first;   // [ranks][experts_per_rank] the first row of each source
  int32_t* starts;  // [experts_per_rank] the first row of all
  int32_t* counts;  // [experts_per_rank]
};

// Items are half of this rank's tokens, then the other half and the rows of other ranks, which are taken from each in turn, alternately. `scaler` of `scalers`
// warps places scales too, after a few rows: by then every CTA has indexed its part of them. False: lost.
template <bool kCast>
__device__ bool expand_rows(const DispatchParams& p, const Routing& routing, const ExpertTable& table, const int32_t* received, Counter& counter,
                            uint32_t epoch, int scaler, int scalers) {
  constexpr int kRowsBeforeScales = 2;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  const int lane = threadIdx.x % 32;
  const int me = shape.rank;
  uint8_t* window = group.peers[me];
  const bool direct = !kCast;
  const int sources = direct ? shape.ranks - 1 : shape.ranks;
  int longest = 0;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    if (!direct || rank != me) longest = max(longest, received[rank]);
  }
  const int own = direct ? p.tokens : 0;
  const int others = longest * sources;
  const int ahead = own / 2;  // own rows before the first of the others can be there
  const int items = own + others;
  const int paired = 2 * min(own - ahead, others);
  int drawn = lane == 0 ? static_cast<int>(atomicAdd(&counter.second_ticket, 1u)) : 0;
  int rows = kCast || !shape.fp8 || scaler < 0 ? kRowsBeforeScales + 1 : 0;
  for (;;) {
    const int item = __shfl_sync(0xffffffffu, drawn, 0);
    if (rows == kRowsBeforeScales || (item >= items && rows < kRowsBeforeScales)) {
      bool indexed = true;
      if (lane == 0) indexed = await(group, me, Phase::kCounts, epoch, [&] { return get_acquire(&counter.indexed) == gridDim.x; }, true);
      if (!__all_sync(0xffffffffu, indexed)) return false;
      place_scales(p, table.starts, table.counts, scaler, scalers);
      rows = kRowsBeforeScales;
    }
    ++rows;
    if (item >= items) return true;
    if (lane == 0) drawn = static_cast<int>(atomicAdd(&counter.second_ticket, 1u));
    int token = -1;
    int other = -1;
    const int rest = item - ahead;
    if (rest < 0) {
      token = item;
    } else if (rest < paired) {
      if (rest % 2 == 0) {
        other = rest / 2;
      } else {
        token = ahead + rest / 2;
      }
    } else if (own - ahead > others) {
      token = ahead + rest - others;
    } else {
      other = rest - (own - ahead);
    }
    int source = me;
    int slot;
    const uint8_t* row;
    if (token >= 0) {
      slot = routing.slot(token, me);
      if (slot < 0) continue;
      row = p.x + token * p.x_pitch;
    } else {
      source = other % sources;
      if (direct && source >= me) ++source;
      slot = other / sources;
      if (slot >= received[source]) continue;
      for (int rank = 0; rank < source; ++rank) slot += received[rank];
      row = window + group.offsets.rows + slot * shape.row_pitch();
      bool there = true;
      if (lane == 0) {
        const uint32_t* flag = at<uint32_t>(window, group.offsets.arrived) + slot;
        there = await(group, source, Phase::kRows, epoch, [&] { return get_acquire(flag) == epoch; });
      }
      if (!__all_sync(0xffffffffu, there)) return false;
    }
    expand_row<kCast>(p, table.first + source * shape.experts_per_rank, slot, row, scale_at(p, me, slot, 0));
  }
}

// Waits for the metadata and the experts' counts of every source and fills the table. Called by `threads` threads from `thread0` on.
__device__ inline bool await_metadata(const DispatchParams& p, int64_t done, int ctas, uint32_t epoch, const ExpertTable& table, int thread0,
                                      int threads, int32_t* lost_flag) {
  int32_t* first = table.first;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  uint8_t* window = group.peers[shape.rank];
  const int thread = static_cast<int>(threadIdx.x) - thread0;
  const int per = shape.experts_per_rank;
  bool lost = false;
  for (int i = thread; i < shape.ranks * ctas && !lost; i += threads) {
    const int source = i / ctas;
    if (!takes_part(group, source)) continue;
    const uint32_t* address = at<uint32_t>(window, done) + source * kMaxCtas + i % ctas;
    lost = !await(group, source, Phase::kCounts, epoch, [&] { return get(address) == epoch; }, source == shape.rank);
  }
  const int64_t words = group.offsets.expert_counts + static_cast<int64_t>(epoch % 2) * shape.ranks * per * 8;
  for (int i = thread; i < shape.ranks * per && !lost; i += threads) {
    const int source = i / per;
    uint64_t word = 0;
    if (takes_part(group, source) && i % per < shape.local_experts()) {
      const uint64_t* address = at<uint64_t>(window, words) + i;
      lost = !await(group, source, Phase::kCounts, epoch, [&] { return (word = get(address)) >> 32 == epoch; }, source == shape.rank);
    }
    first[i] = static_cast<int32_t>(static_cast<uint32_t>(word));
  }
  if (lost) *lost_flag = 1;
  __threadfence_system();  // metadata are read after their flags
  barrier_of<1>(threads);
  if (*lost_flag != 0) return false;
  // Sums of sources in place, then experts one after another: thread 0 alone, a thousand experts at most.
  for (int expert = thread; expert < per; expert += threads) {
    int sum = 0;
    for (int source = 0; source < shape.ranks; ++source) {
      const int count = first[source * per + expert];
      first[source * per + expert] = sum;
      sum += count;
    }
    table.counts[expert] = sum;
  }
  barrier_of<1>(threads);
  if (thread < 32) {
    int base = 0;
    for (int expert0 = 0; expert0 < per; expert0 += 32) {
      const int expert = expert0 + thread;
      const int count = expert < per ? table.counts[expert] : 0;
      const int space = (count + p.alignment - 1) & -p.alignment;
      int scan = space;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, scan, step);
        if (thread >= step) scan += other;
      }
      const int start = base + scan - space;
      if (expert < per) {
        table.starts[expert] = start;
        if (blockIdx.x == 0 && expert < shape.local_experts()) {
          p.expert_rows[2 * expert] = start;
          p.expert_rows[2 * expert + 1] = start + count;
        }
      }
      base += __shfl_sync(0xffffffffu, scan, 31);
    }
  }
  barrier_of<1>(threads);
  for (int i = thread; i < shape.ranks * per; i += threads) first[i] += table.starts[i % per];
  barrier_of<1>(threads);
  return true;
}

template <bool kCast>
__global__ __launch_bounds__(kThreads, 1) void dispatch_expert_kernel(const __grid_constant__ DispatchParams p) {
  extern __shared__ uint32_t table[];
  __shared__ int32_t totals[kMaxRanks];
  __shared__ int32_t first[kMaxRanks];
  __shared__ int32_t received[kMaxRanks];
  __shared__ int32_t lost_flag;
  const Group& group = p.group;
  const Shape& shape = group.shape;
  Counter& counter = group.state->channel[group.channel].dispatch;
  const uint32_t epoch = next_epoch(counter);
  if (is_aborted(group)) return;
  const int64_t done = group.offsets.done + static_cast<int64_t>(epoch % 2) * shape.ranks * kMaxCtas * 4;
  auto* handle = reinterpret_cast<Handle*>(p.handle);
  const int cells = (p.tokens + kTokenGroup - 1) / kTokenGroup * shape.ranks;
  auto* next = reinterpret_cast<int32_t*>(table + 2 * cells);
  const auto take = [&](int count) {
    int32_t* const start = next;
    next += count;
    return start;
  };
  const ExpertTable places{take(shape.ranks * shape.experts_per_rank), take(shape.experts_per_rank), take(shape.experts_per_rank)};
  const EntryTable entries{take(shape.experts), take(shape.experts), take(kThreads), take(kThreads)};
  if (threadIdx.x == 0) lost_flag = 0;
  if (p.start) {
    count_tokens(p, table, table + cells, totals);
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
  } else {
    for (int rank = threadIdx.x; rank < shape.ranks; rank += kThreads) received[rank] = handle->received[rank], first[rank] = handle->first[rank];
    __syncthreads();
  }
  const Routing routing{table, table + cells, p.start ? nullptr : at<int32_t>(p.handle, p.handle_at.slots), first, shape.ranks};
  const int senders = !p.finish || !p.start ? 0 : kSenders;
  const int warp = threadIdx.x / 32;
  const int thread0 = senders * 32;
  bool whole = true;
  if (p.start) {
    const int worker = static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) * warp;
    send_row_metadata(p, routing, worker, static_cast<int>(gridDim.x) * kWarps);
    place_entries(p, routing, entries, epoch);
    tell_done(group, done, epoch);
  }
  if (warp < senders) {
    send_flagged_rows<kCast>(p, routing, &counter.ticket, epoch);
  } else if (p.finish) {
    whole = await_metadata(p, done, p.start ? static_cast<int>(gridDim.x) : p.finish, epoch, places, thread0, kThreads - thread0, &lost_flag);
    if (whole) {
      index_rows(p, places.first, received, thread0, kThreads - thread0);
      barrier_of<1>(kThreads - thread0);
      if (static_cast<int>(threadIdx.x) == thread0) {
        __threadfence();  // what the CTA has indexed, before it is counted
        atomicAdd(&counter.indexed, 1u);
      }
    }
  } else {
    send_flagged_rows<kCast>(p, routing, &counter.ticket, epoch);
  }
  // Senders go on as expanders, with the receivers' table; receivers wait for nobody here.
  if (p.finish) {
    if (warp < senders) {
      barrier_of<2>(kThreads);
    } else {
      asm volatile("bar.arrive 2, %0;" ::"n"(kThreads) : "memory");
    }
  }
  if (p.finish && lost_flag == 0) {
    const int scaler = warp < senders ? -1 : static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) * (warp - senders);
    whole = expand_rows<kCast>(p, routing, places, received, counter, epoch, scaler, static_cast<int>(gridDim.x) * (kWarps - senders));
  }
  if (__syncthreads_or(!whole || lost_flag != 0)) return leave(group);
  if (p.start && blockIdx.x == gridDim.x - 1) check_experts(p.experts, p.tokens * shape.top_k, shape.experts, p.fault);
  if (p.finish) end_call(counter);
}

}  // namespace h4j::moe
